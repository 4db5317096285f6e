#!/usr/bin/env bash
# Runs every experiment on the miniature, one after another (about a minute each on two free cores), and prints a table.
# Skips finished runs. Arguments go to every run, e.g. launch/tiny.sh --config.seed=1 --config.out=runs/tiny-1
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
out=runs/tiny
for argument in "$@"; do
    case $argument in --config.out=*) out=${argument#*=} ;; esac
done
labels=runs/labels
.venv/bin/python -m srt_jax pretrain --out=cache/miniature
for set in tiny-sums:srt.py:tiny tiny-sums_4:reasoning_gym.py:vote,tiny; do
    [ -e "$labels/${set%%:*}.jsonl" ] ||
        .venv/bin/python -m srt_jax label --config="configs/${set#*:}" --out="$labels/${set%%:*}.jsonl"
done
[ -e $labels/tiny-sums-easy.jsonl ] ||
    .venv/bin/python -m srt_jax subset --config=configs/srt.py:tiny --labels=$labels/tiny-sums.jsonl \
        --by=vote_share --fraction=0.33333 --out=$labels/tiny-sums-easy.jsonl

for config in \
    srt.py:tiny ground_truth.py:tiny srt_as_released.py:tiny offline_labels.py:tiny semi_supervised.py:tiny \
    curriculum.py:tiny hard_schedule.py:tiny early_stopping.py:tiny test_time.py:tiny ttrl.py:tiny climb.py:tiny \
    reasoning_gym.py:vote,tiny reasoning_gym.py:ground_truth,tiny reasoning_gym.py:fixed_teacher,tiny \
    rl.py:grpo,tiny rl.py:dr_grpo,tiny rl.py:reinforce,tiny rl.py:reinforce_baseline,tiny rl.py:reinforce_pp,tiny \
    rl.py:reinforce_pp_baseline,tiny rl.py:dapo,tiny rl.py:ppo_clip,tiny \
    sept.py:tiny em_ft.py:tiny sept_variants.py:offline,tiny sept_variants.py:coupled,tiny \
    sept_variants.py:constant,tiny sept_variants.py:grpo,tiny figures.py:sept_ablations,rollouts_4,tiny \
    figures.py:sept_ablations,rollouts_8,tiny \
    figures.py:v1_fig3,srt,tiny figures.py:v1_fig3,ground_truth,tiny figures.py:v1_fig6,no_stop,tiny \
    figures.py:v2_fig8,grpo,tiny figures.py:v2_fig8,kl_0.01,tiny figures.py:v2_fig8,lr_1e-7,tiny \
    figures.py:v2_fig8,samples_8,tiny figures.py:v2_fig8,samples_16,tiny figures.py:v2_fig8,entropy_0.003,tiny \
    figures.py:v2_fig31,threshold_0.6,tiny; do
    echo "== configs/$config"
    .venv/bin/python -m srt_jax.main --config="configs/$config" --config.out="$out" "$@"
done
.venv/bin/python -m srt_jax figures "$out"
