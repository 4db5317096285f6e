"""A schedule over difficulty: steps of easy problems at first, the share of hard ones growing to the data's end.

COMMAND   python -m srt_jax.main --config=configs/hard_schedule.py:qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/hard_schedule.py:tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; srt_jax.plan --topology=h200:8 estimates a step; tiny: about a minute
PAPER     not in the papers; v1's conclusion and v2, I.3 name curricula as the direction. All numbers are our choice.

Easy is what a label file says (the same file as for offline_labels.py, which tells how to make it).
"""
from configs.common import experiment

SCHEDULE = {"curriculum.by": "vote_share", "curriculum.easy_fraction": 0.33333, "curriculum.steps": 600}


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    config = experiment("hard_schedule", arguments, SCHEDULE, tiny={"curriculum.steps": 20})
    config.curriculum.path = f"runs/labels/{config.name.removeprefix('hard_schedule-')}.jsonl"
    return config
