"""SRT v2, figure 2: Reasoning Gym, an evolving teacher beside a fixed one, Qwen3-4B-Base.

COMMAND   python -m srt_jax.main --config=configs/figures/v2_fig2.py:knights_knaves
TINY      python -m srt_jax.main --config=configs/figures/v2_fig2.py:knights_knaves,tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     avg@16 and maj@16 rise on all three tasks; SRT ends 6 (knights), 10 (bitwise) and 8 points (family) above the
          fixed teacher. The start was trained with answers on the easiest level.

TASK climbs from the easiest level on, TASK_fixed is the last step of it with the labels of its starting point; configs/
reasoning_gym.py says how to make them. Start TASK_fixed from runs/v2_fig2/TASK/level_N/final with --config.model.path.
"""
from configs.common import figure

HARDEST = {"knights_knaves": 7, "bitwise_arithmetic": 3, "family_relationships": 5}

get_config = figure("v2_fig2", {
    **{task: (f"climb:qwen3_4b,{task}", {}, {}) for task in HARDEST},
    **{f"{task}_fixed": (f"reasoning_gym:fixed_teacher,qwen3_4b,{task}_{n}", {}, {}) for task, n in HARDEST.items()},
})
