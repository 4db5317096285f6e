"""SRT v1, figure 2: SRT beside ground truth on three training sets, Qwen2.5-Math-7B.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig2.py:srt_dapo
TINY      python -m srt_jax.main --config=configs/figures/v1_fig2.py:srt_dapo,tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     the two rise together; on DAPO SRT then collapses, on MATH-12k after more than two epochs.

v1's figures 10 to 12 show the same runs per test set: v1_fig10_12.py.
"""
from configs.common import figure

get_config = figure("v1_fig2", {
    f"{method}_{data}": (f"{method}:qwen25_math_7b,{data}", {}, {})
    for data in ("dapo", "math12k", "aime") for method in ("srt", "ground_truth")
})
