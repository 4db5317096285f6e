"""Data by short name: the training set, the evaluation sets, and the number of steps.

srt_jax/data/sets.py has the place of each set. The numbers of steps are those of the papers if a comment says so, and
otherwise our choice. A step has 16 prompts unless the method changes it (SePT: 128).
"""

import dataclasses

from ml_collections import ConfigDict

from srt_jax.config import source
from srt_jax.data import gym


def named(name: str, **fields):
    """A named set, from $SRT_JAX_DATA or the hub."""
    return source(kind="set", name=name, **fields)


@dataclasses.dataclass(frozen=True)
class Data:
    """train: source; evals: name -> source; steps; fields: other fields that a config with this data needs."""

    train: ConfigDict
    evals: dict[str, ConfigDict]
    steps: int
    fields: dict = dataclasses.field(default_factory=dict)


def _on(train: str, evals: tuple[str, ...], steps: int) -> Data:
    return Data(named(train), {name: named(name) for name in evals}, steps)


HELD_OUT = ("aime24", "aime25", "amc23")  # SRT v1's figure 2 shows their mean
SIX = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench")  # the test sets of SePT

SRT = {
    "dapo": ("dapo", 1200),  # SRT shows 1200 steps
    "math12k": ("math12k", 2250),  # three epochs: SRT collapses after two
    "aime": ("aime_1983_2023", 574),  # ten epochs, as in SRT v1
}
SETS = {
    **{name: _on(train, HELD_OUT, steps) for name, (train, steps) in SRT.items()},
    **{f"{name}_and_math500": _on(train, (*HELD_OUT, "math500"), steps) for name, (train, steps) in SRT.items()},
    "dapo_easy_by_pass_rate": _on("dapo_easy_by_pass_rate", HELD_OUT, 1087),  # three epochs, as in SRT v1, 5.3
    "dapo_easy_by_vote_share": _on("dapo_easy_by_vote_share", HELD_OUT, 1087),
    "big_math_llama": _on("big_math_llama", ("math500",), 2000),  # SRT v2, J.2
    "gsm8k": _on("gsm8k_train", ("gsm8k",), 467),  # one epoch
    # SePT: three epochs of 314 steps of 128 prompts. Its loader drops an incomplete last step.
    "deepscaler": _on("deepscaler", SIX, 942),
    "openthoughts3": _on("openthoughts3_math", SIX, 942),  # "nearly the same size" (SePT, 3.2.3)
    # Test-time training: the unlabelled test set is the training set.
    **{f"test_{name}": _on(name, (name,), 300) for name in (*SIX, "amc83")},
}

BOXED = "boxed_"
# Reasoning Gym: task -> the fields of a level. SRT v2, B.3 uses the first three, with these levels.
GYM = {
    "bitwise_arithmetic": lambda level: {"difficulty": level},
    "family_relationships": lambda level: {"min_family_size": level, "max_family_size": level},
    "knights_knaves": lambda level: {"n_people": level},
    "chain_sum": lambda level: {"min_terms": level, "max_terms": level, "min_digits": 2, "max_digits": 2},
    "number_sorting": lambda level: {"min_numbers": level, "max_numbers": level},
    "leg_counting": lambda level: {"min_animals": level, "max_animals": level},
}


GYM_STEPS = {"bitwise_arithmetic": 950}  # SRT v2, B.3, for level 2.


def gym_data(name: str, level: int) -> Data:
    """2,000 problems of a Reasoning Gym task at a level for training, and 128 others for evaluation.

    The sizes are our choice, and so are the 500 steps of all tasks except bitwise_arithmetic.

    name: TASK or boxed_TASK. TASK asks for <answer> tags, which Reasoning Gym uses. boxed_TASK asks for a box, with the
      instruction of SRT's authors (tajwarfahim/srt, branch reasoning_gym, examples/data_preprocess/reasoning_gym.py).
    """
    task = name.removeprefix(BOXED)
    fields = GYM[task](level)
    train = source(kind="gym", task=task, config=fields, size=2000)
    heldout = source(kind="gym", task=task, config=fields, size=128, seed=1_000_000)
    asked = {} if name != task else {"prompts.instruction": gym.INSTRUCTION, "answer.style": "answer_tag"}
    return Data(
        train,
        {f"{name}_{level}": heldout},
        GYM_STEPS.get(task, 500),
        {
            # Answers are compared as texts. Equal values are often different answers, and 0xbeb is not a product.
            **asked,
            "eval.samples": 16,
            "vote.match": "string",
            "reward.match": "string",
        },
    )


def sums(terms: int = 0) -> Data:
    """The sums of the miniature. terms: only sums with this many terms (3 to 5); 0 for all."""
    levels = (str(terms),) if terms else ()
    heldout = source(path="cache/miniature/heldout.jsonl", levels=levels, limit=64)
    return Data(source(path="cache/miniature/train.jsonl", levels=levels), {"heldout": heldout}, 30)


def test_sums() -> Data:
    """30 held-out sums for both training and evaluation: a small test-time training."""
    heldout = source(path="cache/miniature/heldout.jsonl", limit=30)
    return Data(heldout, {"heldout": heldout}, 30)


def find(name: str) -> Data:
    """The data with a short name. Raises ValueError for an unknown name.

    name: a key of SETS, [boxed_]TASK_LEVEL of Reasoning Gym, sums, sums_TERMS or test_sums.
    """
    if name in SETS:
        return SETS[name]
    task, _, level = name.rpartition("_")
    if task.removeprefix(BOXED) in GYM and level.isdigit():
        return gym_data(task, int(level))
    if name == "test_sums":
        return test_sums()
    if name == "sums" or (task == "sums" and level in "345"):
        return sums(int(level) if task else 0)
    raise ValueError(
        f"there is no data {name!r}: give one of {', '.join(SETS)}, a task and level such as "
        f"{next(iter(GYM))}_2, sums or sums_3."
    )
