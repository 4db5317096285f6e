"""SRT v2, figure 5: climbing levels of Reasoning Gym without answers, Qwen3-4B-Base.

COMMAND   python -m srt_jax.main --config=configs/figures/v2_fig5.py:knights_knaves
TINY      python -m srt_jax.main --config=configs/figures/v2_fig5.py:knights_knaves,tiny
HARDWARE  8 H200
PAPER     Answers are used for level 2 only. knights_knaves comes near 100% at level 9, bitwise_arithmetic gains at
          level 4.
"""

from srt_jax.experiments import figure

get_config = figure(
    "v2_fig5", {task: (f"climb:qwen3_4b,{task}", {}, {}) for task in ("knights_knaves", "bitwise_arithmetic")}
)
