#!/usr/bin/env bash
# The whole experiment on a laptop. Makes .venv and the tiny base model, trains the model on its own votes and on the
# answers, and plots both in runs/quickstart. Uses existing environments, models and runs again. Arguments go to both
# runs, e.g. launch/quickstart.sh --config.seed=1 --config.out=runs/quickstart-1. With --sampler=vllm as the first
# argument a vLLM server from .venv-vllm samples, and the runs go to runs/quickstart_vllm.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
out=runs/quickstart
if [ "${1:-}" = --sampler=vllm ]; then
    make_vllm_environment
    out=runs/quickstart_vllm
    set -- --config.rollout.sampler=vllm "${@:2}"
fi
for argument in "$@"; do
    case $argument in --config.out=*) out=${argument#*=} ;; esac
done
make_environment

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
.venv/bin/python -m srt_jax pretrain --out=cache/miniature
.venv/bin/python -m srt_jax.main --config=configs/quickstart.py --config.out="$out" "$@"
.venv/bin/python -m srt_jax.main --config=configs/quickstart.py:ground_truth --config.out="$out" "$@"
.venv/bin/python -m srt_jax figures --out="$out" "$out/srt" "$out/ground_truth"
