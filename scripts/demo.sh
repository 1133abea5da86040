#!/usr/bin/env bash
# The whole way of an IEMOCAP user on a small synthetic release: prepare, extract, cross-validate, report.
# Usage: bash scripts/demo.sh [FOLDER]; each command is printed before it runs, and an interrupted demo continues.
set -euo pipefail
cd "$(dirname "$0")/.."
demo=${1:-demo}
run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

run python -m scripts.make_demo --out "$demo"
run python -m scripts.prepare_iemocap --iemocap_root "$demo/IEMOCAP_full_release" --out "$demo/iemocap" \
  --allow_count_mismatch
run python -m scripts.extract_clip --manifest "$demo/iemocap/manifest.csv" --clip_model "$demo/clip" \
  --out "$demo/features" --rows 112:368
