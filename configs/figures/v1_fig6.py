"""SRT v1, section 5.1 (figure 6) and SRT v2, figure 25: early stopping on 1% of DAPO.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig6.py:early_stopping
TINY      python -m srt_jax.main --config=configs/figures/v1_fig6.py:early_stopping,tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     the peak comes at about the same step on all test sets; stopping by the 1% is near the best of each.
"""
from configs.common import figure

get_config = figure("v1_fig6", {
    "early_stopping": ("early_stopping:qwen25_math_7b,dapo", {}, {}),
    "no_stop": ("early_stopping:qwen25_math_7b,dapo", {"stop.patience": 0}, {"stop.patience": 0, "eval.every": 10}),
})
