"""SRT v1, figure 7 (section 5.2), and SRT v2, figure 26: labels that the base model makes once.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig7.py:offline
TINY      python -m srt_jax.main --config=configs/figures/v1_fig7.py:offline,tiny
HARDWARE  8 H200
PAPER     Offline labels do about as well as SRT and stay stable. More than one epoch of MATH-12k collapses all the
          same.

configs/offline_labels.py says how to make the labels.
"""

from srt_jax.experiments import figure

get_config = figure(
    "v1_fig7",
    {
        "offline": ("offline_labels:qwen25_math_7b,dapo", {}, {}),
        "offline_math12k": ("offline_labels:qwen25_math_7b,math12k", {}, {}),
        "srt": ("srt:qwen25_math_7b,dapo", {}, {}),
        "ground_truth": ("ground_truth:qwen25_math_7b,dapo", {}, {}),
    },
)
