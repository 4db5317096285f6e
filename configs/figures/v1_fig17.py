"""SRT v1, figure 17, and SRT v2, figure 29: Qwen3-14B-Base on Qwen2.5-Math-7B's easiest third of DAPO.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig17.py:vote_share
TINY      python -m srt_jax.main --config=configs/figures/v1_fig17.py:vote_share,tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     no collapse in three epochs, as with the 7B model.

The tiny runs read what configs/curriculum.py says how to write: by both scores it is the same third of the sums.
"""
from configs.common import figure

get_config = figure("v1_fig17", {
    by: (f"curriculum:qwen3_14b,dapo_easy_by_{by}", {}, {}) for by in ("vote_share", "pass_rate")
})
