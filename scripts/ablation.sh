#!/usr/bin/env bash
# Cross-validate the six rows of the paper's Table 2 that use WavLM and CLIP, then write the report.
#
#   bash scripts/ablation.sh FOLDS_DIR SAVE_ROOT [flags of train.py ...]
#   ROWS="audio video both" MANIFEST=data/iemocap/manifest.csv bash scripts/ablation.sh data/iemocap/folds/paper runs/table2
#
# The rows: audio, video (one stream each), baseline (fusion without AVEL and MEM), avel, mem (one of them), both. They go
# to SAVE_ROOT/{audio,video,baseline,avel,mem,both}, the report to SAVE_ROOT/report. Each row is a run of
# cross_validate.sh, whose variables SEEDS, JOBS, LAUNCH and VENV act here too; finished folds are skipped.
#
#   ROWS      the rows to train (default all six); the report shows whatever SAVE_ROOT holds
#   MANIFEST  manifest.csv, for the scores by speaker, style and duration in the report (default none)
set -euo pipefail

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

if [[ "${1:-}" == --help || "${1:-}" == -h ]]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
  exit 0
fi
(($# >= 2)) || fail "usage: ablation.sh FOLDS_DIR SAVE_ROOT [flags of train.py ...]; --help says more"
folds_dir=$1 save_root=$2
shift 2
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
for flag in "$@"; do
  case ${flag%%=*} in
    --modality | --avel_weight | --mem_weight) fail "$flag: is set for every row; leave it out" ;;
  esac
done
[[ -z ${MANIFEST:-} || -f $MANIFEST ]] || fail "MANIFEST=$MANIFEST: no such file"

row_flags() {
  case $1 in
    audio) echo "--modality a" ;;
    video) echo "--modality v" ;;
    baseline) echo "--avel_weight 0 --mem_weight 0" ;;
    avel) echo "--mem_weight 0" ;;
    mem) echo "--avel_weight 0" ;;
    both) echo "" ;;
    *) fail "ROWS: $1 is not one of audio video baseline avel mem both" ;;
  esac
}
read -r -a rows <<<"${ROWS:-audio video baseline avel mem both}"
for row in "${rows[@]}"; do row_flags "$row" >/dev/null; done

child=""
stop() {
  trap '' INT TERM
  if [[ -n $child ]]; then kill -s "$1" "$child" 2>/dev/null && wait "$child" || true; fi
  exit "$2"
}
trap 'stop INT 130' INT
trap 'stop TERM 143' TERM

for row in "${rows[@]}"; do
  printf '==== %s\n' "$row" >&2
  read -r -a flags <<<"$(row_flags "$row")"
  set -m # a process group of its own: it hears of Ctrl-C through the trap, once
  bash "$repo/scripts/cross_validate.sh" "$folds_dir" "$save_root/$row" "$@" ${flags[@]+"${flags[@]}"} >&2 &
  child=$!
  set +m
  wait "$child"
  child=""
done
venv=$(cd "$repo" && cd "${VENV:-.venv}/bin" 2>/dev/null && pwd) && PATH=$venv:$PATH
PYTHONPATH=$repo${PYTHONPATH:+:$PYTHONPATH} python "$repo/scripts/report.py" "$save_root" --out "$save_root/report" \
  ${MANIFEST:+--manifest "$MANIFEST"}
