"""Data by short name: what is trained on, what judges it, for how many steps of 16 prompts.

The sets themselves stand in srt_jax/data/sets.py. Steps are the papers' where a comment says so, else our choice.
"""
import dataclasses

from srt_jax.config import source
from srt_jax.data import gym


def named(name: str, **fields):
    """A named set, from $SRT_JAX_DATA or the hub."""
    return source(kind="set", name=name, **fields)


@dataclasses.dataclass(frozen=True)
class Data:
    """train: source; evals: name -> source; steps; fields: whatever else the data asks of a config."""
    train: object
    evals: dict
    steps: int
    fields: dict = dataclasses.field(default_factory=dict)


def _on(train: str, evals: tuple[str, ...], steps: int) -> Data:
    return Data(named(train), {name: named(name) for name in evals}, steps)


HELD_OUT = ("aime24", "aime25", "amc23")  # SRT's test sets
SIX = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench")  # SePT's

SETS = {
    "dapo": _on("dapo", HELD_OUT, 1200),  # SRT shows 1200 steps
    "dapo_and_math500": _on("dapo", (*HELD_OUT, "math500"), 1200),
    "dapo_easy_by_pass_rate": _on("dapo_easy_by_pass_rate", HELD_OUT, 1087),  # three epochs, as in SRT v1, 5.3
    "dapo_easy_by_vote_share": _on("dapo_easy_by_vote_share", HELD_OUT, 1087),
    "math12k": _on("math12k", (*HELD_OUT, "math500"), 2250),  # three epochs: SRT collapses after two
    "aime": _on("aime_1983_2023", HELD_OUT, 574),  # ten epochs, as in SRT v1
    "big_math_llama": _on("big_math_llama", ("math500",), 2000),  # SRT v2, J.2
    "gsm8k": _on("gsm8k_train", ("gsm8k",), 467),  # one epoch
    "deepscaler": _on("deepscaler", SIX, 945),  # SePT: three epochs of steps of 128 prompts
    "openthoughts3": _on("openthoughts3_math", SIX, 945),  # as many as on DeepScaleR
    # Test-time training: the unlabelled test set is the training set.
    "test_aime24": _on("aime24", ("aime24",), 300),
    "test_aime25": _on("aime25", ("aime25",), 300),
    "test_amc23": _on("amc23", ("amc23",), 300),
    "test_amc83": _on("amc83", ("amc83",), 300),
}

# Reasoning Gym: task -> the fields that make a level. SRT v2, B.3 uses the first three, with these levels.
GYM = {
    "bitwise_arithmetic": lambda level: {"difficulty": level},
    "family_relationships": lambda level: {"min_family_size": level, "max_family_size": level},
    "knights_knaves": lambda level: {"n_people": level},
    "chain_sum": lambda level: {"min_terms": level, "max_terms": level, "min_digits": 2, "max_digits": 2},
    "number_sorting": lambda level: {"min_numbers": level, "max_numbers": level},
    "leg_counting": lambda level: {"min_animals": level, "max_animals": level},
}


def gym_data(task: str, level: int) -> Data:
    """2,000 problems of a Reasoning Gym task at a level, and 128 others that judge. Sizes and steps are our choice."""
    fields = GYM[task](level)
    train = source(kind="gym", task=task, config=fields, size=2000)
    heldout = source(kind="gym", task=task, config=fields, size=128, seed=1_000_000)
    return Data(train, {f"{task}_{level}": heldout}, 500, {
        "prompts.instruction": gym.INSTRUCTION, "answer.style": "answer_tag", "eval.samples": 16,
        # As texts: of many tasks two answers of one value are not one answer, and 0xbeb is no product of zeros.
        "vote.match": "string", "reward.match": "string"})


def sums(terms: int = 0) -> Data:
    """The miniature's sums, or only those of so many terms (3 to 5)."""
    levels = (str(terms),) if terms else ()
    heldout = source(path="cache/miniature/heldout.jsonl", levels=levels, limit=64)
    return Data(source(path="cache/miniature/train.jsonl", levels=levels), {"heldout": heldout}, 30)


def test_sums() -> Data:
    """30 held-out sums, to train on and to judge: test-time training in small."""
    heldout = source(path="cache/miniature/heldout.jsonl", limit=30)
    return Data(heldout, {"heldout": heldout}, 30)


def find(name: str) -> Data:
    """The data of a short name: a key of SETS, TASK_LEVEL of Reasoning Gym, sums, sums_TERMS or test_sums."""
    if name in SETS:
        return SETS[name]
    task, _, level = name.rpartition("_")
    if task in GYM and level.isdigit():
        return gym_data(task, int(level))
    if name == "test_sums":
        return test_sums()
    if name == "sums" or (task == "sums" and level in "345"):
        return sums(int(level) if task else 0)
    raise ValueError(f"there is no data {name!r}: give one of {', '.join(SETS)}, a task and level such as "
                     f"{next(iter(GYM))}_2, sums or sums_3.")
