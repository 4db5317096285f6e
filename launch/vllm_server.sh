#!/usr/bin/env bash
# One vLLM server in the foreground, for trainers that use it through rollout.servers. Makes .venv-vllm, then serves
# MODEL_DIR with all flags that a trainer needs. Usage:
#   launch/vllm_server.sh MODEL_DIR [--port=8000] [--dtype=auto] [--max_model_len=4096] [--gpu=0] [--max_lora_rank=32]
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_vllm_environment
exec .venv-vllm/bin/python -m srt_jax.rollout.vllm.command "$@"
