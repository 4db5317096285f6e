#!/usr/bin/env bash
# The whole experiment on a laptop. Makes .venv and the tiny base model. Then it trains the model on its own votes, on its
# votes at a high learning rate without and with the guard, and on the answers at that rate, and draws all four runs in
# runs/quickstart. Uses existing environments, models and runs again. Arguments go to all runs, e.g.
# launch/quickstart.sh --config.seed=1 --config.out=runs/quickstart-1. With --sampler=vllm as the first argument a vLLM
# server from .venv-vllm samples for two runs, on votes and on the answers, in runs/quickstart_vllm. The teacher of the
# guard needs the in-process sampler.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
out=runs/quickstart
arms=(vote srt_fast srt_fast_guard ground_truth_fast)
if [ "${1:-}" = --sampler=vllm ]; then
    make_vllm_environment
    out=runs/quickstart_vllm
    arms=(vote ground_truth)
    set -- --config.rollout.sampler=vllm "${@:2}"
fi
for argument in "$@"; do
    case $argument in --config.out=*) out=${argument#*=} ;; esac
done
make_environment

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
.venv/bin/python -m srt_jax pretrain --out=cache/miniature
if [ $# -gt 0 ]; then # an argument that one of the runs refuses is refused before the first one
    for arm in "${arms[@]}"; do
        .venv/bin/python -m srt_jax.main --config="configs/quickstart.py:$arm" --config.out="$out" "$@" --dry_run >/dev/null
    done
fi
runs=()
for arm in "${arms[@]}"; do
    .venv/bin/python -m srt_jax.main --config="configs/quickstart.py:$arm" --config.out="$out" "$@"
    runs+=("$out/${arm/#vote/srt}")
done
.venv/bin/python -m srt_jax figures --out="$out" --board "${runs[@]}"
