#!/usr/bin/env bash
# One node of 8 GPUs: the first half trains, each GPU of the other half runs a vLLM server of its own, and weights pass
# through a RAM disk. CUDA_VISIBLE_DEVICES, where it is set, says which GPUs to share out. Sets up both environments.
# Fields after the config change all of this. Usage:
#   launch/h200_node.sh configs/srt.py --config.rollout.steps_ahead=1 --config.rl.tis_cap=2.0
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
[ $# -ge 1 ] || { echo "error: name a config, e.g. launch/h200_node.sh configs/srt.py" >&2; exit 2; }
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
else
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
fi
if [ "${#gpus[@]}" -lt 2 ]; then
    echo "error: this node shows ${#gpus[@]} GPUs, but some train and some sample: it takes 2 at least." >&2
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
