#!/usr/bin/env bash
# One training on several machines: edit the lines below, then `sbatch scripts/slurm_nodes.sh` from the repository.
#
# AVEL and MEM see the batch of all GPUs: 2 machines with 4 GPUs and --batch_size 2 train like one GPU with batch 16.
# Requeued after the failure of a machine it goes on from the last save.
#SBATCH --job-name=foalnet --nodes=2 --ntasks-per-node=1 --gres=gpu:4 --cpus-per-task=32 --mem=128G --time=08:00:00
#SBATCH --requeue --open-mode=append --output=runs/slurm-%j.log
set -euo pipefail
gpus=4 fold=data/iemocap/folds/strict/session1

# shellcheck disable=SC1091 # made by make
source "${VENV:-.venv}/bin/activate"
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export launch="accelerate launch --num_machines $SLURM_NNODES --num_processes $((SLURM_NNODES * gpus)) --multi_gpu \
  --main_process_ip $first --main_process_port $((20000 + SLURM_JOB_ID % 10000)) --mixed_precision no --dynamo_backend no"
# shellcheck disable=SC2016 # each machine fills in its own rank
srun bash -c '$launch --machine_rank $SLURM_NODEID train.py "$@"' train \
  --train_src "${fold}_train.scp" --valid_src "${fold}_valid.scp" --test_src "${fold}_test.scp" \
  --video_root data/features --batch_size 2 --save_root runs/nodes/session1 --resume "$@"
