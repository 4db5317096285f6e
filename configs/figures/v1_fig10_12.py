"""SRT v1 and v2, figures 10 to 12: Qwen2.5-Math-7B per test set, MATH-500 among them for two training sets.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig10_12.py:srt_math12k
TINY      python -m srt_jax.main --config=configs/figures/v1_fig10_12.py:srt_math12k,tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     figure 10: DAPO, collapse; figure 11: MATH-12k; figure 12: AIME 1983 to 2023.
"""
from configs.common import figure

get_config = figure("v1_fig10_12", {
    f"{method}_{data}": (f"{method}:qwen25_math_7b,{data}", {}, {})
    for data in ("dapo_and_math500", "math12k", "aime") for method in ("srt", "ground_truth")
})
