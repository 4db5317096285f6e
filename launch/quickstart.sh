#!/usr/bin/env bash
# The whole loop on a laptop: sets up .venv, makes the tiny base model, trains it on its own votes and on the answers,
# and puts both side by side in runs/quickstart. What exists already is used again. Arguments go to both runs, e.g.
# launch/quickstart.sh --config.seed=1 --config.out=runs/quickstart-1. With --sampler=vllm as the first one a vLLM server
# samples, from .venv-vllm, and the runs go to runs/quickstart_vllm.
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
