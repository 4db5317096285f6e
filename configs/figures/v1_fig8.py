"""SRT v1, section 5.3 (figure 8) and SRT v2, figures 27, 28, 30: the easiest third of DAPO.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig8.py:vote_share
TINY      python -m srt_jax.main --config=configs/figures/v1_fig8.py:vote_share,tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     no collapse in three epochs; as good as ground truth on all of DAPO; pseudo-reward about 0.9.

Figure 30 cuts the subsets with Qwen2.5-Math-1.5B and trains it: configs/curriculum.py says how to cut one.

The tiny runs read what configs/curriculum.py says how to write: by both scores it is the same third of the sums.
"""
from configs.common import figure

get_config = figure("v1_fig8", {
    "vote_share": ("curriculum:qwen25_math_7b,dapo_easy_by_vote_share", {}, {}),
    "pass_rate": ("curriculum:qwen25_math_7b,dapo_easy_by_pass_rate", {}, {}),
    "all": ("srt:qwen25_math_7b,dapo", {}, {}),
    "ground_truth": ("ground_truth:qwen25_math_7b,dapo", {}, {}),
})
