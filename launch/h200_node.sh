#!/usr/bin/env bash
# Trains on one node of 8 GPUs. The first half of the GPUs trains. Each GPU of the other half runs a vLLM server, and
# weights are exchanged through a RAM disk. If CUDA_VISIBLE_DEVICES is set, only those GPUs are used. Makes both
# environments. Fields after the config override these settings. Usage:
#   launch/h200_node.sh configs/srt.py --config.rollout.steps_ahead=1 --config.rl.tis_cap=2.0
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
[ $# -ge 1 ] || { echo "error: give a config, e.g. launch/h200_node.sh configs/srt.py" >&2; exit 2; }
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
else
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
fi
if [ "${#gpus[@]}" -lt 2 ]; then
    echo "error: this node has ${#gpus[@]} visible GPUs, but training and sampling need at least 2." >&2
    exit 2
fi
make_environment
make_vllm_environment
half=$((${#gpus[@]} / 2))
CUDA_VISIBLE_DEVICES="$(IFS=,; echo "${gpus[*]:0:half}")"
export CUDA_VISIBLE_DEVICES
.venv/bin/python -c 'import jax; jax.devices("gpu")' 2>/dev/null || .venv/bin/python -m pip install --quiet -r requirements-cuda.txt
exec .venv/bin/python -m srt_jax.main --config="$1" --config.mesh.fsdp="$half" \
    --config.rollout.sampler=vllm --config.rollout.vllm.num_servers="$half" \
    --config.rollout.vllm.gpus="($(IFS=,; echo "${gpus[*]:half:half}"),)" \
    --config.rollout.vllm.weights_directory="/dev/shm/srt_jax-$(id -un)" "${@:2}"
