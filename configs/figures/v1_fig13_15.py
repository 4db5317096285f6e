"""SRT v1 and v2, figures 13 to 15: Qwen3-14B-Base on the same training sets, four test sets each.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig13_15.py:srt_dapo
TINY      python -m srt_jax.main --config=configs/figures/v1_fig13_15.py:srt_dapo,tiny
HARDWARE  8 H200
PAPER     Figure 13 is DAPO and shows a collapse, figure 14 is MATH-12k and stable, figure 15 is AIME 1983 to 2023 and
          mixed.
"""

from srt_jax.experiments import figure

get_config = figure(
    "v1_fig13_15",
    {
        f"{method}_{data}": (f"{method}:qwen3_14b,{data}_and_math500", {}, {})
        for data in ("dapo", "math12k", "aime")
        for method in ("srt", "ground_truth")
    },
)
