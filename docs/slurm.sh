#!/bin/bash
# Trains under Slurm, from the root of the repository after
# `make .venv/installed-cuda ACCELERATOR=cuda`.
#
# One run for each seed, on one GPU each:
#   sbatch --array=0-4 docs/slurm.sh --config configs/net6b.py
# One run on two hosts with four GPUs each; Slurm starts a task for each GPU:
#   sbatch --nodes=2 --ntasks-per-node=4 docs/slurm.sh --config configs/net6b.py
#
# Two minutes before its time is over a job saves its run, and is queued again to go on.
#SBATCH --job-name=cifar_flax
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=02:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  config=$(printf '%s\n' "$@" | sed -n '/^--config$/{n;p}; s/^--config=//p')
  workdir=runs/$(basename "$config" .py)/seed$SLURM_ARRAY_TASK_ID
  set -- --workdir="$workdir" "$@" --config.seed="$SLURM_ARRAY_TASK_ID"
elif [ "${SLURM_NTASKS:-1}" -gt 1 ]; then
  set -- "$@" --distributed=auto
fi
srun .venv/bin/python -m cifar_flax train "$@"
code=$?
# 128 + SIGUSR1: everything is saved.
[ $code -eq 138 ] && scontrol requeue "$SLURM_JOB_ID"
exit $code
