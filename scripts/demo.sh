#!/usr/bin/env bash
# The whole way of an IEMOCAP user on a small synthetic release: prepare, extract, cross-validate, report.
#
#   bash scripts/demo.sh [FOLDER]
#
# Each command is printed before it runs; start it again after an interruption and it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
demo=${1:-demo}

run() {
  printf '\n$' && printf ' %q' "$@" && printf '\n'
  env "$@"
}

run python -m scripts.make_demo --out "$demo"
run python -m scripts.prepare_iemocap --iemocap_root "$demo/IEMOCAP_full_release" --out "$demo/iemocap" \
  --allow_count_mismatch
run python -m scripts.extract_clip --manifest "$demo/iemocap/manifest.csv" --rows 112:368 --clip_model "$demo/clip" \
  --out "$demo/features"
run OMP_NUM_THREADS=1 JOBS=2 ROWS="video audio both" MANIFEST="$demo/iemocap/manifest.csv" \
  bash scripts/ablation.sh "$demo/iemocap/folds/paper" "$demo/runs" --video_root "$demo/features" \
  --audio_model "$demo/wavlm" --normalize_audio --lr 1e-3 --epochs 6 --num_workers 0
printf '\nPictures, intervals and paired tests: %s\n' "$demo/runs/report/report.html"
