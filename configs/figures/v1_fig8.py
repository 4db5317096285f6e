"""SRT v1, figures 8 and 16 (section 5.3), and SRT v2, figures 27, 28 and 30: the easiest third of DAPO.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig8.py:vote_share
TINY      python -m srt_jax.main --config=configs/figures/v1_fig8.py:vote_share,tiny
HARDWARE  8 H200
PAPER     The runs do not collapse in three epochs and are as good as ground truth on all of DAPO. Figure 16 shows their
          dynamics: the pseudo-reward levels off at about 0.9.

v2's figure 30 cuts the subsets with Qwen2.5-Math-1.5B and trains that model; configs/curriculum.py says how to cut one.
The tiny runs read the file that configs/curriculum.py says how to write. It is the same third of the sums by both
scores.
"""

from srt_jax.experiments import figure

get_config = figure(
    "v1_fig8",
    {
        "vote_share": ("curriculum:qwen25_math_7b,dapo_easy_by_vote_share", {}, {}),
        "pass_rate": ("curriculum:qwen25_math_7b,dapo_easy_by_pass_rate", {}, {}),
        "all": ("srt:qwen25_math_7b,dapo", {}, {}),
        "ground_truth": ("ground_truth:qwen25_math_7b,dapo", {}, {}),
    },
)
