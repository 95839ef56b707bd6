#!/bin/bash
# Pretrain on Slurm until the run is finished, however many times the job's time runs out.
#
#   sbatch launch/slurm.sh --size 1.1B --config configs/pretrain/1.1B.yaml --data /shared/store --output /shared/runs/1.1B
#
# Slurm starts one rank for each GPU. Five minutes before the time is up it sends SIGUSR1 to this script, which passes it
# to the ranks; they save, exit with status 75, and the job goes back to the queue, where the same command resumes it. Any
# other failure ends the job. `unimol-scale ladder CONFIG --slurm` writes its job arrays in the same way.

#SBATCH --job-name=unimol-scale
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8        # one for each GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300        # to this shell, 300 s before the end; saving a checkpoint must fit in it
#SBATCH --requeue
#SBATCH --open-mode=append         # one log over all of the job's lives
#SBATCH --output=%x-%j.log

job=$SLURM_JOB_ID
STOPPED=75

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

# Slurm signals only this shell, which passes the signal on. A signal ends a wait early, so the shell waits again.
told=
trap 'told=yes; kill -USR1 "$work"' USR1
# srun hands the signal to every rank. --wait: a rank that dies takes the others with it within a minute, and ranks that
# stop in order need not hurry.
srun --wait=60 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_SIZE=$((SLURM_NTASKS / SLURM_JOB_NUM_NODES))
    exec python launch/pretrain.py "$@"
' rank "$@" &
work=$!
wait "$work"
status=$?
while [ -n "$told" ]; do
    told=
    wait "$work"
    status=$?
done

if [ "$status" -eq "$STOPPED" ]; then
    echo "stopped after saving; job $job goes back to the queue"
    scontrol requeue "$job" || echo "job $job could not be requeued; submit the same script again to resume"
fi
exit "$status"
