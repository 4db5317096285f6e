"""Climbs levels of a task: the first level is trained with answers, all later ones with votes (SRT v2, figure 5).

COMMAND   python -m srt_jax.main --config=configs/climb.py:qwen3_4b,knights_knaves
TINY      python -m srt_jax.main --config=configs/climb.py:tiny
PAPER     Qwen3-4B-Base has answers for level 2 only. It climbs to nearly 100% on knights_knaves_9 and improves on
          bitwise_arithmetic_4. B.3 names the levels: 2, 3, 5, 7, 9 for knights_knaves, 2, 3, 4 for
          bitwise_arithmetic, 4, 5 for family_relationships.

Each level starts from the weights of the previous level. Its run folder is runs/climb/NAME/level_N. The same command
resumes a stopped run. boxed_TASK has the authors' prompt (configs/reasoning_gym.py).
"""

from srt_jax.experiments import data, experiment, load

GYM = load("reasoning_gym").GYM
LEVELS = {
    "knights_knaves": (2, 3, 5, 7, 9),
    "bitwise_arithmetic": (2, 3, 4),
    "family_relationships": (4, 5),
    "chain_sum": (2, 3, 4, 5),
    "sums": (3, 4, 5),
}


def get_config(arguments: str = ""):
    """MODEL,TASK"""
    model, _, task = arguments.partition(",")
    task = task or ("sums" if model == "tiny" else "knights_knaves")
    numbers = LEVELS.get(task.removeprefix(data.BOXED))
    if not numbers:
        raise ValueError(f"there is no task {task!r} with levels: give one of {', '.join(LEVELS)}.")
    config = experiment("climb", f"{model or 'qwen3_4b'},{task}_{numbers[0]}", GYM, {"steps": 10, "eval.every": 5})
    config.out, config.name = "runs/climb", f"{model or 'qwen3_4b'}-{task}"
    config.levels = tuple(level(task, number, number == numbers[0]) for number in numbers)
    return config


def level(task: str, number: int, first: bool) -> dict:
    """The fields of a level: its name, its data and its labels. Only the first level has answers as labels."""
    found = data.find(f"{task}_{number}")
    return {
        "name": f"level_{number}",
        "labels": {"source": "ground_truth" if first else "vote"},
        "data": found.train.to_dict(),
        "eval": {"sets": {name: judge.to_dict() for name, judge in found.evals.items()}},
    }
