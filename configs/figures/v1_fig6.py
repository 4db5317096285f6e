"""SRT v1, figure 6 (section 5.1), and SRT v2, figure 25: early stopping on 1% of DAPO.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig6.py:early_stopping
TINY      python -m srt_jax.main --config=configs/figures/v1_fig6.py:early_stopping,tiny
HARDWARE  8 H200
PAPER     The peak comes at about the same step on all test sets, so that stopping by the 1% is near the best of each.
"""

from srt_jax.experiments import figure

get_config = figure(
    "v1_fig6",
    {
        "early_stopping": ("early_stopping:qwen25_math_7b,dapo", {}, {}),
        "no_stop": ("early_stopping:qwen25_math_7b,dapo", {"stop.patience": 0}, {"stop.patience": 0, "eval.every": 10}),
    },
)
