"""SRT v1 and v2, figures 13 to 15: Qwen3-14B-Base on the same training sets.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig13_15.py:srt_dapo
TINY      python -m srt_jax.main --config=configs/figures/v1_fig13_15.py:srt_dapo,tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     figure 13: DAPO, collapse; figure 14: MATH-12k, stable; figure 15: AIME 1983 to 2023, mixed.
"""
from configs.common import figure

get_config = figure("v1_fig13_15", {
    f"{method}_{data}": (f"{method}:qwen3_14b,{data}", {}, {})
    for data in ("dapo", "math12k", "aime") for method in ("srt", "ground_truth")
})
