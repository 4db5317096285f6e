"""SRT v1, figure 2: SRT beside ground truth on three training sets, Qwen2.5-Math-7B.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig2.py:srt_dapo
TINY      python -m srt_jax.main --config=configs/figures/v1_fig2.py:srt_dapo,tiny
HARDWARE  8 H200
PAPER     The two rise together. Then SRT collapses: on DAPO, and on MATH-12k after more than two epochs.

The figure shows the mean over AIME24, AIME25 and AMC23. v1_fig10_12.py has the same runs test set by test set.
"""

from srt_jax.experiments import figure

get_config = figure(
    "v1_fig2",
    {
        f"{method}_{data}": (f"{method}:qwen25_math_7b,{data}", {}, {})
        for data in ("dapo", "math12k", "aime")
        for method in ("srt", "ground_truth")
    },
)
