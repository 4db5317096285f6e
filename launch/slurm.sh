#!/usr/bin/env bash
#SBATCH --job-name=srt_jax
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --signal=TERM@300
# One run over the nodes of a SLURM job, with one trainer process per node. The run saves its state and stops before the
# time limit; the same command resumes it. All nodes must share the project folder. Usage, in the project folder:
#   sbatch --nodes=2 --gpus-per-node=8 --time=24:00:00 launch/slurm.sh --config=configs/srt.py --config.mesh.fsdp=16
# The in-process sampler uses all GPUs that train. With one of these options vLLM samples:
#   --serve_gpus=4 --model=DIR      the last 4 GPUs of each node serve, the others train
#   --serve_nodes=1 --model=DIR     the GPUs of the last node serve, the other nodes train
# The job starts one server per GPU with the Hugging Face directory DIR (model.path), starts it again when it ends, and
# stops it at the end. Servers listen on their own host only, so the first node reaches them through ssh. These options go
# to the servers (launch/vllm_server.sh): --tensor_parallel=N and --data_parallel=N (a server then gets the product of both
# in GPUs), --max_lora_rank=N for adapters, --max_model_len=N (the longest prompt + response, if the model's own length is
# longer), --dtype, --max_sequences, --memory_fraction.
# --dry_run prints the commands. It needs no SLURM if SLURM_JOB_NODELIST and SLURM_GPUS_ON_NODE are set.
# The job asks for all memory of its nodes (--mem=0), because --exclusive gives all cores, but only the default memory.

# sbatch runs a copy of this script, which is in another folder.
folder="$(dirname "${BASH_SOURCE[0]}")/.."
[ -f "$folder/launch/environment.sh" ] || folder="${SLURM_SUBMIT_DIR:-.}"
[ -f "$folder/launch/environment.sh" ] || {
    echo "error: there is no launch/environment.sh in $folder: start this with sbatch, in the project folder." >&2
    exit 2
}
# shellcheck source=launch/environment.sh
. "$folder/launch/environment.sh"
option dry_run "$@" && dry_run=yes
set -- "${rest[@]}"
serve_gpus=0 serve_nodes=0 model="" tensor_parallel=1 data_parallel=1 server_options=()
for name in serve_gpus serve_nodes model dtype memory_fraction tensor_parallel data_parallel max_model_len max_lora_rank \
    max_sequences; do
    if option "$name" "$@"; then
        case $name in
            model | dtype) [ "$value" != yes ] || refuse "--$name has no value: give --$name=VALUE." ;;
            memory_fraction) [[ $value =~ ^[0-9]*[.]?[0-9]+$ ]] || refuse "--$name=$value is not a number." ;;
            *) is_number "$value" || refuse "--$name=$value is not a whole number." ;;
        esac
        case $name in
            serve_gpus | serve_nodes | model) ;;
            *) server_options+=("--$name=$value") ;;
        esac
        printf -v "$name" %s "$value"
    fi
    set -- "${rest[@]}"
done
option config "$@" || refuse "give --config=FILE, e.g. sbatch ... launch/slurm.sh --config=configs/srt.py"

list="${SLURM_JOB_NODELIST:-}"
if command -v scontrol >/dev/null; then
    mapfile -t nodes < <(scontrol show hostnames "$list" 2>/dev/null)
else
    IFS=, read -ra nodes <<<"$list"
fi
for node in "${nodes[@]:-}"; do
    [[ $node =~ ^[A-Za-z0-9._-]+$ ]] ||
        refuse "SLURM_JOB_NODELIST is '$list', which does not give the name of each node: start this with sbatch, or, where" \
            "there is no scontrol, list all names with commas between them."
done
gpus="${SLURM_GPUS_ON_NODE:-0}"
is_number "$gpus" || refuse "SLURM_GPUS_ON_NODE is $gpus, which is not a whole number: give --gpus-per-node=N to sbatch."
is_number "${SLURM_JOB_ID:-0}" || refuse "SLURM_JOB_ID is $SLURM_JOB_ID, which is not a whole number: start this with sbatch."
per_server=$((tensor_parallel * data_parallel)) serving=$((serve_gpus > 0 ? serve_gpus : gpus))
if [ "$serve_gpus" -gt 0 ] || [ "$serve_nodes" -gt 0 ]; then
    [ -n "$model" ] || refuse "vLLM servers need --model=DIR, the Hugging Face directory of model.path."
    [ "$serve_gpus" -eq 0 ] || [ "$serve_nodes" -eq 0 ] || refuse "give one of --serve_gpus and --serve_nodes."
    [ "$gpus" -gt 0 ] ||
        refuse "vLLM servers need GPUs, but SLURM_GPUS_ON_NODE is ${SLURM_GPUS_ON_NODE:-not set}: give --gpus-per-node=N to sbatch."
    [ "$serve_gpus" -lt "$gpus" ] || refuse "--serve_gpus=$serve_gpus leaves none of the $gpus GPUs of a node to train."
    [ "$serve_nodes" -lt "${#nodes[@]}" ] || refuse "--serve_nodes=$serve_nodes leaves none of ${#nodes[@]} nodes to train."
    { [ "$per_server" -gt 0 ] && [ $((serving % per_server)) -eq 0 ]; } ||
        refuse "$serving GPUs of a node serve, which cannot be shared out to servers of" \
            "--tensor_parallel=$tensor_parallel x --data_parallel=$data_parallel GPUs."
    make_vllm_environment gpu
elif [ -n "$model" ] || [ ${#server_options[@]} -gt 0 ]; then
    refuse "${server_options[*]:---model=$model} is for vLLM servers: give --serve_gpus=K or --serve_nodes=K, too."
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

# --export=ALL: with `sbatch --export=NONE` a step would get no variables. --ntasks is always given: srun would take the
# number of tasks of the whole job from SLURM_NTASKS.
step=(--overlap --export=ALL)
# srun sets these in each step, CUDA_VISIBLE_DEVICES to all GPUs of the job. So the step's own shell sets them again.
# shellcheck disable=SC2016
variables='JAX_PROCESS_ID="$SLURM_PROCID"'
urls=() served=$port
serve() { # NODE GPU: with this GPU and those after it
    served=$((served + 1))
    keep srun "${step[@]}" --nodes=1 --ntasks=1 --nodelist="$1" launch/vllm_server.sh "$model" --port="$served" \
        --gpu="$(seq -s, "$2" $(($2 + per_server - 1)))" "${server_options[@]}"
    [ "$1" = "${nodes[0]}" ] || keep ssh -N -o ExitOnForwardFailure=yes -o ServerAliveInterval=15 -L "$served:127.0.0.1:$served" "$1"
    urls+=("'http://127.0.0.1:$served'")
}
if [ "$serve_gpus" -gt 0 ]; then
    for node in "${nodes[@]}"; do
        for ((gpu = gpus - serve_gpus; gpu < gpus; gpu += per_server)); do serve "$node" "$gpu"; done
    done
    variables+=" CUDA_VISIBLE_DEVICES=$(seq -s, 0 $((gpus - serve_gpus - 1)))"
elif [ "$serve_nodes" -gt 0 ]; then
    for node in "${nodes[@]: -serve_nodes}"; do
        for ((gpu = 0; gpu < gpus; gpu += per_server)); do serve "$node" "$gpu"; done
    done
fi
if [ ${#urls[@]} -gt 0 ]; then
    set -- "$@" --config.rollout.sampler=vllm --config.rollout.servers="($(IFS=,; echo "${urls[*]}"),)"
    [ "$data_parallel" -eq 1 ] || set -- "$@" --config.rollout.vllm.data_parallel="$data_parallel" # the probe scores each copy
fi

set_variables JAX_COORDINATOR_ADDRESS="${nodes[0]}:$port" JAX_NUM_PROCESSES="${#training[@]}"
# Not --kill-on-bad-exit: the processes end each other, and say why.
trainer=(srun "${step[@]}" --kill-on-bad-exit=0 --nodes="${#training[@]}" --ntasks="${#training[@]}" --ntasks-per-node=1
    --nodelist="$(IFS=,; echo "${training[*]}")"
    bash -c "$variables"' exec .venv/bin/python -m srt_jax.main "$@"' srt "$@")
if [ ${#pids[@]} -eq 0 ]; then
    run_last "${trainer[@]}" # exec, because the signal must reach Python itself
else
    "${trainer[@]}"
fi
