#!/usr/bin/env bash
# One fold a job, one GPU each: edit the lines below, then `sbatch scripts/slurm_folds.sh` from the repository.
#
# Two minutes before a job runs out of time, or when it is preempted, it is told so (SIGTERM): the training finishes its
# step, saves, ends with code 143, comes back to the queue and goes on from there. A machine that fails costs what came
# after the last save. When all five are done: python -m scripts.report runs/strict --manifest data/iemocap/manifest.csv
#SBATCH --job-name=foalnet --array=1-5 --gres=gpu:1 --cpus-per-task=8 --mem=32G --time=08:00:00
#SBATCH --requeue --signal=B:TERM@120 --open-mode=append --output=runs/slurm-%A_%a.log
set -euo pipefail
folds=data/iemocap/folds/strict runs=runs/strict seed=1234 fold=session$SLURM_ARRAY_TASK_ID

# shellcheck disable=SC1091 # made by make
source "${VENV:-.venv}/bin/activate"
python train.py \
  --train_src "$folds/${fold}_train.scp" --valid_src "$folds/${fold}_valid.scp" --test_src "$folds/${fold}_test.scp" \
  --video_root data/features --seed "$seed" --save_root "$runs/seed$seed/$fold" --resume "$@" &
training=$!
trap 'kill -TERM $training' TERM # Slurm tells this shell; a wait that it interrupts is begun again
while kill -0 $training 2>/dev/null; do wait $training || true; done
code=0 && wait $training || code=$?
if ((code == 143)); then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
