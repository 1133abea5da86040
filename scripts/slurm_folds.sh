#!/usr/bin/env bash
# One fold a job, one GPU each: edit the lines below, then `sbatch scripts/slurm_folds.sh` from the repository.
#
# A job that is preempted or runs out of time comes back to the queue and goes on after its last whole epoch. When all
# five are done: python -m scripts.report runs/strict --manifest data/iemocap/manifest.csv
#SBATCH --job-name=foalnet --array=1-5 --gres=gpu:1 --cpus-per-task=8 --mem=32G --time=08:00:00
#SBATCH --requeue --output=runs/slurm-%A_%a.log
set -euo pipefail
folds=data/iemocap/folds/strict runs=runs/strict seed=1234 fold=session$SLURM_ARRAY_TASK_ID

# shellcheck disable=SC1091 # made by make
source "${VENV:-.venv}/bin/activate"
accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no train.py \
  --train_src "$folds/${fold}_train.scp" --valid_src "$folds/${fold}_valid.scp" --test_src "$folds/${fold}_test.scp" \
  --video_root data/features --seed "$seed" --save_root "$runs/seed$seed/$fold" --resume "$@"
