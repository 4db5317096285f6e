#!/usr/bin/env bash
# One vLLM server in the foreground, for trainers that use it through rollout.servers. Makes .venv-vllm, then serves
# MODEL_DIR with all flags that a trainer needs. Usage:
#   launch/vllm_server.sh MODEL_DIR [--port=8000] [--dtype=auto] [--max_model_len=4096] [--gpu=0] [--max_lora_rank=32]
#       [--gpu=0,1,2,3 --tensor_parallel=2 --data_parallel=2] [--max_sequences=256] [--memory_fraction=0.9] [--seed=0]
#       [--host=0.0.0.0 --allow_unauthenticated]
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
[ $# -ge 1 ] || refuse "give a model's directory, e.g. launch/vllm_server.sh MODEL_DIR --port=8000"
device="" # nvidia-smi decides, unless a GPU is named
for argument in "$@"; do [[ $argument != --gpu* ]] || device=gpu; done
make_vllm_environment "$device"
exec .venv-vllm/bin/python -m srt_jax.rollout.vllm.command "$@"
