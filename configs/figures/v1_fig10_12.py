"""SRT v1 and v2, figures 10 to 12: the runs of figure 2 test set by test set, Qwen2.5-Math-7B.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig10_12.py:srt_math12k
TINY      python -m srt_jax.main --config=configs/figures/v1_fig10_12.py:srt_math12k,tiny
HARDWARE  8 H200
PAPER     Figure 10 is DAPO and shows the collapse, figure 11 is MATH-12k, figure 12 is AIME 1983 to 2023.

Only figure 11 has MATH-500 among its test sets.
"""

from srt_jax.experiments import figure

DATA = {"dapo": "dapo", "math12k": "math12k_and_math500", "aime": "aime"}

get_config = figure(
    "v1_fig10_12",
    {
        f"{method}_{name}": (f"{method}:qwen25_math_7b,{data}", {}, {})
        for name, data in DATA.items()
        for method in ("srt", "ground_truth")
    },
)
