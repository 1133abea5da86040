#!/usr/bin/env bash
# Train every fold of a cross-validation and print the table.
#
#   bash scripts/cross_validate.sh FOLDS_DIR SAVE_ROOT [flags of train.py ...]
#   SEEDS="1 2 3" JOBS=4 bash scripts/cross_validate.sh data/iemocap/folds/strict runs/strict --video_root data/features
#
# FOLDS_DIR holds NAME_train.scp and NAME_valid.scp for every fold, and NAME_test.scp for the strict protocol. Fold NAME
# goes to SAVE_ROOT/seedS/NAME. A fold with a result.json is finished and skipped, an interrupted one goes on after its
# last whole epoch: start the same command again. What a fold says is shown on stderr and kept in its launch.log; the
# table goes to stdout. A fold that fails is named, no further one starts, and the exit code is that of the fold.
#
#   SEEDS   seeds, each a whole cross-validation (default "1234")
#   JOBS    folds at a time (default 1). More than 1: each one process, on one GPU in turn when there are GPUs,
#           so that the batch size stays that of the flags. 1: accelerate chooses the devices.
#   LAUNCH  what starts train.py (default "accelerate launch"); for example "accelerate launch --num_processes 2"
#   VENV    virtual environment to use when it exists, relative to the repository (default .venv)
set -euo pipefail

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

if [[ "${1:-}" == --help || "${1:-}" == -h ]]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
  exit 0
fi
(($# >= 2)) || fail "usage: cross_validate.sh FOLDS_DIR SAVE_ROOT [flags of train.py ...]; --help says more"
folds_dir=$1 save_root=$2
shift 2
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$(cd "$repo" && cd "${VENV:-.venv}/bin" 2>/dev/null && pwd) && PATH=$venv:$PATH
seeds=${SEEDS:-1234} jobs=${JOBS:-1}
[[ $jobs =~ ^[1-9][0-9]*$ ]] || fail "JOBS=$jobs: a whole number of at least 1 is needed"
[[ $seeds =~ ^[0-9\ ]*[0-9][0-9\ ]*$ ]] || fail "SEEDS=$seeds: whole numbers with spaces between are needed"
default_launch="accelerate launch"
((jobs == 1)) || default_launch+=" --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no"
read -r -a launch <<<"${LAUNCH:-$default_launch}"
command -v "${launch[0]}" >/dev/null || fail "${launch[0]}: no such command; build the environment or set VENV or LAUNCH"
for flag in "$@"; do
  case ${flag%%=*} in
    --train_src | --valid_src | --test_src | --save_root) fail "$flag: is set for every fold; leave it out" ;;
    --seed) fail "$flag: is set for every fold; use SEEDS=\"...\"" ;;
  esac
done

# Every fold has its lists, and all folds have the same protocol.
lists=("$folds_dir"/*_train.scp)
if [[ ! -e ${lists[0]} ]]; then
  fail "$folds_dir: holds no *_train.scp; name the folder of one protocol, as $folds_dir/paper or $folds_dir/strict"
fi
folds=() tested=0
for list in "${lists[@]}"; do
  fold=$(basename "$list" _train.scp)
  [[ -e $folds_dir/${fold}_valid.scp ]] || fail "$folds_dir: ${fold}_train.scp has no ${fold}_valid.scp"
  [[ ! -e $folds_dir/${fold}_test.scp ]] || tested=$((tested + 1))
  folds+=("$fold")
done
((tested == 0 || tested == ${#folds[@]})) ||
  fail "$folds_dir: only $tested of ${#folds[@]} folds have a *_test.scp; the protocols would be mixed"

gpus=()
if ((jobs > 1)); then
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
  elif command -v nvidia-smi >/dev/null; then
    while read -r gpu; do gpus+=("$gpu"); done < <(nvidia-smi --query-gpu=index --format=csv,noheader | grep -x '[0-9]*')
  fi
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((($(nproc 2>/dev/null || echo 1) + jobs - 1) / jobs))}
fi

# Run one fold: run_fold SLOT SEED FOLD [flags ...]
run_fold() {
  local slot=$1 seed=$2 fold=$3
  local folder=$save_root/seed$seed/$fold prefix=""
  trap : INT TERM # outlive the launcher, and return its code
  shift 3
  if ((tested)); then set -- --test_src "$folds_dir/${fold}_test.scp" "$@"; fi
  ((jobs == 1)) || prefix="[seed$seed/$fold] "
  if ((${#gpus[@]})); then export CUDA_VISIBLE_DEVICES=${gpus[slot % ${#gpus[@]}]}; fi
  mkdir -p "$folder"
  exec 9>"$folder/lock" # held as long as anything of this fold is alive
  if command -v flock >/dev/null && ! flock -n 9; then
    printf 'error: %s: another process is at work on this fold\n' "$folder" >&2
    exit 3
  fi
  "${launch[@]}" "$repo/train.py" --train_src "$folds_dir/${fold}_train.scp" --valid_src "$folds_dir/${fold}_valid.scp" \
    --seed "$seed" --save_root "$folder" --resume "$@" </dev/null 2>&1 |
    (
      trap '' INT TERM # the last words of an interrupted fold still reach the log
      while IFS= read -r line || [[ -n $line ]]; do
        line=${line##*$'\r'} # what a progress bar leaves
        printf '%s\n' "$line" >>"$folder/launch.log"
        printf '%s%s\n' "$prefix" "$line" >&2
      done
    )
}

pids=() names=() failure=0

# Stop every fold that runs: stop SIGNAL EXIT_CODE
stop() {
  trap '' INT TERM
  local signal pid
  for signal in "$1" TERM KILL; do # each has 20 seconds
    for pid in ${pids[@]+"${pids[@]}"}; do
      if [[ -n $pid ]]; then kill -s "$signal" -- "-$pid" 2>/dev/null || true; fi
    done
    for _ in {1..100}; do
      for pid in ${pids[@]+"${pids[@]}"}; do
        if [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null; then sleep 0.2 && continue 2; fi
      done
      break 2
    done
  done
  printf 'interrupted; the same command goes on from here\n' >&2
  exit "$2"
}
trap 'stop INT 130' INT
trap 'stop TERM 143' TERM

# Wait until fewer than MAX folds run, and note the first that failed: wait_below MAX. Sets slot to a free one.
wait_below() {
  local i running code
  while true; do
    running=0 slot=-1
    for ((i = jobs - 1; i >= 0; i--)); do
      if [[ -n ${pids[i]:-} ]] && ! kill -0 "${pids[i]}" 2>/dev/null; then
        code=0
        wait "${pids[i]}" || code=$?
        if ((code)); then
          printf 'error: %s failed with code %s; see %s\n' "${names[i]}" "$code" "${names[i]}/launch.log" >&2
          ((failure)) || failure=$code
        fi
        pids[i]=""
      fi
      if [[ -n ${pids[i]:-} ]]; then running=$((running + 1)); else slot=$i; fi
    done
    ((running < $1)) && return
    sleep 0.2
  done
}

for seed in $seeds; do
  for fold in "${folds[@]}"; do
    folder=$save_root/seed$seed/$fold
    if [[ -e $folder/result.json ]]; then
      printf '%s: finished before, skipped\n' "$folder" >&2
      continue
    fi
    wait_below "$jobs"
    ((failure == 0)) || break 2
    printf '== %s\n' "$folder" >&2
    set -m # a process group of its own, which can be stopped whole
    run_fold "$slot" "$seed" "$fold" "$@" &
    pids[slot]=$! names[slot]=$folder
    set +m
  done
done
wait_below 1
((failure == 0)) || exit "$failure"
PYTHONPATH=$repo${PYTHONPATH:+:$PYTHONPATH} python "$repo/scripts/report.py" "$save_root" --summary
