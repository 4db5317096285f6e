#!/usr/bin/env bash
#SBATCH --job-name=srt_jax
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=TERM@300
# One run over all nodes of a SLURM job, with one process per node. The in-process sampler uses all nodes. The run saves
# its state and stops before the time limit; the same command resumes it. All nodes must share the project folder.
# Usage, in the project folder:
#   sbatch --nodes=2 --gpus-per-node=8 --time=24:00:00 launch/slurm.sh --config=configs/srt.py --config.mesh.fsdp=16
# shellcheck source=launch/environment.sh
. "${SLURM_SUBMIT_DIR:?start this with sbatch, in the project folder}/launch/environment.sh"
make_environment
if ! .venv/bin/python -c 'import jax_cuda13_plugin' 2>/dev/null && command -v nvidia-smi >/dev/null; then
    .venv/bin/python -m pip install --quiet -r requirements-cuda.txt
fi
first="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export JAX_COORDINATOR_ADDRESS="$first:$((20000 + SLURM_JOB_ID % 20000))"
export JAX_NUM_PROCESSES="$SLURM_JOB_NUM_NODES"
# exec, because the signal must reach Python itself
# shellcheck disable=SC2016
exec srun --kill-on-bad-exit=1 bash -c 'JAX_PROCESS_ID="$SLURM_PROCID" exec .venv/bin/python -m srt_jax.main "$@"' srt "$@"
