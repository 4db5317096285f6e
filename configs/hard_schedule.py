"""A schedule of difficulty: the first steps have only easy problems, and the share of hard problems grows.

COMMAND   python -m srt_jax.main --config=configs/hard_schedule.py:qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/hard_schedule.py:tiny
PAPER     This is not in the papers. SRT v1's conclusion and SRT v2, I.3 name curricula as future work. All numbers are
          our choice.

A label file defines which problems are easy. offline_labels.py reads the same file and shows how to make it.
"""

from srt_jax.experiments import experiment

SCHEDULE = {"curriculum.by": "vote_share", "curriculum.easy_fraction": 0.33333, "curriculum.steps": 600}


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    config = experiment("hard_schedule", arguments, SCHEDULE, tiny={"curriculum.steps": 20})
    config.curriculum.path = f"runs/labels/{config.name.removeprefix('hard_schedule-')}.jsonl"
    return config
