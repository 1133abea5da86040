#!/usr/bin/env bash
# Train every fold of a cross-validation and print the table.
#
#   bash scripts/cross_validate.sh [--print] FOLDS_DIR SAVE_ROOT [flags of train.py ...]
#   SEEDS="1 2 3" JOBS=4 bash scripts/cross_validate.sh data/iemocap/folds/strict runs/strict --video_root data/features
#
# FOLDS_DIR holds NAME_train.scp and NAME_valid.scp for every fold, and NAME_test.scp for the strict protocol. Fold NAME
# goes to SAVE_ROOT/seedS/NAME. A fold with a result.json is finished and skipped, an interrupted one goes on from its
# last save: start the same command again. What a fold says is shown on stderr and kept in its launch.log; the
# table goes to stdout. A fold that fails is named, no further one starts, and the exit code is that of the fold.
#
#   SEEDS    seeds, each a whole cross-validation (default "1234")
#   JOBS     folds at a time (default 1); more than 1: each on one GPU in turn, when there are GPUs
#   LAUNCH   what starts train.py (default: python, one process); e.g. "accelerate launch --num_processes 2"
#   VENV     virtual environment to use when it exists, relative to the repository (default .venv)
#   --print  shows the command of every fold and starts none
set -euo pipefail
fail() { printf 'error: %s\n' "$1" >&2 && exit 2; }

if [[ ${1:-} =~ ^(-h|--help)$ ]]; then exec sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; fi
if [[ ${1:-} == --print ]]; then print=1 && shift; fi
(($# >= 2)) || fail "usage: cross_validate.sh FOLDS_DIR SAVE_ROOT [flags of train.py ...]; --help says more"
folds_dir=$1 save_root=$2 seeds=${SEEDS:-1234} jobs=${JOBS:-1}
shift 2
for flag in "$@"; do
  case ${flag%%=*} in
    --train_src | --valid_src | --test_src | --save_root) fail "$flag: is set for every fold; leave it out" ;;
    --seed) fail "$flag: is set for every fold; use SEEDS=\"...\"" ;;
  esac
done
[[ $jobs =~ ^[1-9][0-9]*$ ]] || fail "JOBS=$jobs: a whole number of at least 1 is needed"
[[ $seeds =~ ^[0-9\ ]*[0-9][0-9\ ]*$ ]] || fail "SEEDS=$seeds: whole numbers with spaces between are needed"
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$(cd "$repo" && cd "${VENV:-.venv}/bin" 2>/dev/null && pwd) && PATH=$venv:$PATH
read -r -a launch <<<"${LAUNCH:-python}"
command -v "${launch[0]}" >/dev/null || fail "${launch[0]}: no such command; build the environment or set VENV or LAUNCH"
trained=("$folds_dir"/*_train.scp) tested=("$folds_dir"/*_test.scp)
[[ -e ${trained[0]} ]] ||
  fail "$folds_dir: holds no *_train.scp; name the folder of one protocol, as $folds_dir/paper or $folds_dir/strict"
[[ ! -e ${tested[0]} || ${#tested[@]} == "${#trained[@]}" ]] ||
  fail "$folds_dir: only ${#tested[@]} of ${#trained[@]} folds have a *_test.scp; the protocols would be mixed"

commands=$(
  for seed in $seeds; do
    for list in "${trained[@]}"; do
      fold=$(basename "$list" _train.scp)
      [[ -e $folds_dir/${fold}_valid.scp ]] || fail "$folds_dir: ${fold}_train.scp has no ${fold}_valid.scp"
      lists=(--train_src "$list" --valid_src "$folds_dir/${fold}_valid.scp")
      if [[ -e ${tested[0]} ]]; then lists+=(--test_src "$folds_dir/${fold}_test.scp"); fi # the strict protocol
      printf '%q ' "${launch[@]}" "$repo/train.py" "${lists[@]}" --seed "$seed" \
        --save_root "$save_root/seed$seed/$fold" --resume "$@"
      printf '\n'
    done
  done
)
if [[ -n ${print:-} ]]; then printf '%s\n' "$commands" && exit; fi
table=$(printf '%q ' python "$repo/scripts/report.py" "$save_root" --summary)
exec python "$repo/scripts/run_jobs.py" --jobs "$jobs" <<<"$commands"$'\n'"$table"
