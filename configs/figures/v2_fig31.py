"""SRT v2, figure 31: prompts whose vote is weak are replaced by others (an online curriculum).

COMMAND   python -m srt_jax.main --config=configs/figures/v2_fig31.py:threshold_0.6
TINY      python -m srt_jax.main --config=configs/figures/v2_fig31.py:threshold_0.6,tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     no collapse within the budget with a threshold of 0.6.

Here prompts whose rewards all agree are replaced too, and three further batches at most are drawn; theirs went on.
"""
from configs.common import COLLAPSE, figure

ONLINE = {"labels.threshold": 0.6, "batch.resample_rounds": 3}
TINY = {"labels.threshold": 0.4, "batch.resample_rounds": 1}  # the miniature's votes are 0.4 sure at first

get_config = figure("v2_fig31", {
    "threshold_0.6": ("srt:qwen25_math_7b,dapo", ONLINE, COLLAPSE | TINY),
    "no_threshold": ("srt:qwen25_math_7b,dapo", {}, COLLAPSE),
})
