#!/usr/bin/env bash
# Cross-validate the six rows of the paper's Table 2 that use WavLM and CLIP, then write the report.
#
#   bash scripts/ablation.sh FOLDS_DIR SAVE_ROOT [flags of train.py ...]
#   ROWS="audio video both" MANIFEST=data/iemocap/manifest.csv bash scripts/ablation.sh data/iemocap/folds/paper runs/table2
#
# The rows: audio, video (one stream each), baseline (fusion without AVEL and MEM), avel, mem (one of them), both. They go
# to SAVE_ROOT/{audio,video,baseline,avel,mem,both}, the report to SAVE_ROOT/report. Each row trains the folds of
# cross_validate.sh, whose variables SEEDS, JOBS, LAUNCH and VENV act here too; finished folds are skipped.
#
#   ROWS      the rows to train (default all six); the report shows whatever SAVE_ROOT holds
#   MANIFEST  manifest.csv, for the scores by speaker, style and duration in the report (default none)
set -euo pipefail
fail() { printf 'error: %s\n' "$1" >&2 && exit 2; }

if [[ ${1:-} =~ ^(-h|--help)$ ]]; then exec sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; fi
(($# >= 2)) || fail "usage: ablation.sh FOLDS_DIR SAVE_ROOT [flags of train.py ...]; --help says more"
folds_dir=$1 save_root=$2
shift 2
for flag in "$@"; do
  case ${flag%%=*} in
    --modality | --avel_weight | --mem_weight) fail "$flag: is set for every row; leave it out" ;;
  esac
done
[[ -z ${MANIFEST:-} || -f $MANIFEST ]] || fail "MANIFEST=$MANIFEST: no such file"
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$(cd "$repo" && cd "${VENV:-.venv}/bin" 2>/dev/null && pwd) && PATH=$venv:$PATH
report() { printf '%q ' python "$repo/scripts/report.py" "$@"; }

commands=$(
  for row in ${ROWS:-audio video baseline avel mem both}; do
    case $row in
      audio) flags="--modality a" ;;
      video) flags="--modality v" ;;
      baseline) flags="--avel_weight 0 --mem_weight 0" ;;
      avel) flags="--mem_weight 0" ;;
      mem) flags="--avel_weight 0" ;;
      both) flags="" ;;
      *) fail "ROWS: $row is not one of audio video baseline avel mem both" ;;
    esac
    echo "echo '==== $row' >&2"
    # shellcheck disable=SC2086 # flags are several words
    bash "$repo/scripts/cross_validate.sh" --print "$folds_dir" "$save_root/$row" "$@" $flags
    echo "$(report "$save_root/$row" --summary) >&2"
  done
  report "$save_root" --out "$save_root/report" ${MANIFEST:+--manifest "$MANIFEST"}
)
exec python "$repo/scripts/run_jobs.py" --jobs "${JOBS:-1}" <<<"$commands"
