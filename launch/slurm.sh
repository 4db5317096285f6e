#!/usr/bin/env bash
#SBATCH --job-name=srt_jax
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=TERM@300
# One run over the nodes of a SLURM job, with one trainer process per node. The run saves its state and stops before the
# time limit; the same command resumes it. All nodes must share the project folder. Usage, in the project folder:
#   sbatch --nodes=2 --gpus-per-node=8 --time=24:00:00 launch/slurm.sh --config=configs/srt.py --config.mesh.fsdp=16
# The in-process sampler uses all GPUs that train. With one of these options vLLM samples:
#   --serve_gpus=4 --model=DIR      the last 4 GPUs of each node serve, the others train
#   --serve_nodes=1 --model=DIR     the GPUs of the last node serve, the other nodes train
# The job starts one server per GPU with the Hugging Face directory DIR (model.path), starts it again when it ends, and
# stops it at the end. Servers listen on their own host only, so the first node reaches them through ssh. --max_model_len=N
# is the longest prompt + response, if the model's own length is longer.
# --dry_run prints the commands. It needs no SLURM if SLURM_JOB_NODELIST and SLURM_GPUS_ON_NODE are set.

# sbatch runs a copy of this script, which is in another folder.
folder="$(dirname "${BASH_SOURCE[0]}")/.."
[ -f "$folder/launch/environment.sh" ] || folder="${SLURM_SUBMIT_DIR:-.}"
[ -f "$folder/launch/environment.sh" ] || {
    echo "error: there is no launch/environment.sh in $folder: start this with sbatch, in the project folder." >&2
    exit 2
}
# shellcheck source=launch/environment.sh
. "$folder/launch/environment.sh"
serve_gpus=0 serve_nodes=0 model="" max_model_len=0
for name in dry_run serve_gpus serve_nodes model max_model_len; do
    option "$name" "$@" && printf -v "$name" %s "$value"
    set -- "${rest[@]}"
done
option config "$@" || refuse "give --config=FILE, e.g. sbatch ... launch/slurm.sh --config=configs/srt.py"

if command -v scontrol >/dev/null; then
    mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
else
    IFS=, read -ra nodes <<<"$SLURM_JOB_NODELIST"
fi
gpus="${SLURM_GPUS_ON_NODE:-0}"
for count in "$serve_gpus" "$serve_nodes"; do
    [[ $count =~ ^[0-9]+$ ]] || refuse "--serve_gpus and --serve_nodes take numbers, and got $count."
done
if [ "$serve_gpus" -gt 0 ] || [ "$serve_nodes" -gt 0 ]; then
    [ -n "$model" ] || refuse "vLLM servers need --model=DIR, the Hugging Face directory of model.path."
    [ "$serve_gpus" -eq 0 ] || [ "$serve_nodes" -eq 0 ] || refuse "give one of --serve_gpus and --serve_nodes."
    [[ $gpus =~ ^[1-9][0-9]*$ ]] ||
        refuse "vLLM servers need GPUs, but SLURM_GPUS_ON_NODE is ${SLURM_GPUS_ON_NODE:-not set}: give --gpus-per-node=N to sbatch."
    [ "$serve_gpus" -lt "$gpus" ] || refuse "--serve_gpus=$serve_gpus leaves none of the $gpus GPUs of a node to train."
    [ "$serve_nodes" -lt "${#nodes[@]}" ] || refuse "--serve_nodes=$serve_nodes leaves none of ${#nodes[@]} nodes to train."
    make_vllm_environment
fi
make_environment
[ "$gpus" -eq 0 ] || install_accelerator gpu

training=("${nodes[@]:0:${#nodes[@]}-serve_nodes}")
port=$((20000 + ${SLURM_JOB_ID:-0} % 20000))
pids=()
stop() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
}
trap stop EXIT

# Runs a command in the background, and again whenever it ends.
keep() {
    if [ -n "$dry_run" ]; then
        printf 'until it is stopped: ' && run "$@"
        return
    fi
    (
        # The signal may come before `child=$!` would have run, so the trap asks for the job.
        trap 'kill $(jobs -p) 2>/dev/null; exit' TERM
        while true; do
            "$@" &
            wait $! || true
            sleep "${RESTART_SECONDS:-5}"
        done
    ) &
    pids+=($!)
}

# srun sets these in each step, CUDA_VISIBLE_DEVICES to all GPUs of the job. So the step's own shell sets them again.
# shellcheck disable=SC2016
variables='JAX_PROCESS_ID="$SLURM_PROCID"'
urls=() served=$port
serve() { # NODE GPU
    served=$((served + 1))
    keep srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" launch/vllm_server.sh "$model" --port="$served" --gpu="$2" \
        --max_model_len="$max_model_len"
    [ "$1" = "${nodes[0]}" ] || keep ssh -N -o ExitOnForwardFailure=yes -o ServerAliveInterval=15 -L "$served:127.0.0.1:$served" "$1"
    urls+=("'http://127.0.0.1:$served'")
}
if [ "$serve_gpus" -gt 0 ]; then
    for node in "${nodes[@]}"; do
        for ((gpu = gpus - serve_gpus; gpu < gpus; gpu++)); do serve "$node" "$gpu"; done
    done
    variables+=" CUDA_VISIBLE_DEVICES=$(seq -s, 0 $((gpus - serve_gpus - 1)))"
elif [ "$serve_nodes" -gt 0 ]; then
    for node in "${nodes[@]: -serve_nodes}"; do
        for ((gpu = 0; gpu < gpus; gpu++)); do serve "$node" "$gpu"; done
    done
fi
if [ ${#urls[@]} -gt 0 ]; then
    set -- "$@" --config.rollout.sampler=vllm --config.rollout.servers="($(IFS=,; echo "${urls[*]}"),)"
fi

set_variables JAX_COORDINATOR_ADDRESS="${nodes[0]}:$port" JAX_NUM_PROCESSES="${#training[@]}"
# Not --kill-on-bad-exit: the processes end each other, and say why.
trainer=(srun --overlap --kill-on-bad-exit=0 --nodes="${#training[@]}" --ntasks-per-node=1
    --nodelist="$(IFS=,; echo "${training[*]}")"
    bash -c "$variables"' exec .venv/bin/python -m srt_jax.main "$@"' srt "$@")
if [ ${#pids[@]} -eq 0 ]; then
    run_last "${trainer[@]}" # exec, because the signal must reach Python itself
else
    "${trainer[@]}"
fi
