"""Sums of two numbers with one or two digits, from Reasoning Gym. Training and held-out problems are disjoint.

Reasoning Gym draws with replacement, so two of its seeds share problems. Here one draw is split: of its different sums
the first HELDOUT are held out. 3 + 8 and 8 + 3 are one sum, and the example in the prompt (7 + 25) is none of them.
Half of Reasoning Gym's draws have numbers up to 10, and there are only 66 such sums. So 30 of the 64 held-out sums have
no larger number, but only 36 of the 1,024 training sums.
"""

import reasoning_gym

HELDOUT, TRAIN = 64, 1024
EXAMPLE = ("25", "7")  # in the prompt of real_config.py
TASK = {
    "min_terms": 2,
    "max_terms": 2,
    "min_digits": 1,
    "max_digits": 2,
    "operators": ["+"],
    "allow_parentheses": False,
    "allow_negation": False,
}


def heldout(source: dict) -> list[dict]:
    """The held-out problems, with answers."""
    return draw()[:HELDOUT]


def train(source: dict) -> list[dict]:
    """The training problems. Their answers serve labels.source=ground_truth and the metrics, but not the votes."""
    return draw()[HELDOUT:]


def draw() -> list[dict]:
    """HELDOUT + TRAIN problems with different sums, the one of the example left out."""
    drawn = reasoning_gym.create_dataset("basic_arithmetic", **TASK, seed=0, size=4 * (HELDOUT + TRAIN))
    rows = {}
    for row in drawn:
        rows.setdefault(terms(row["question"]), {"problem": row["question"], "answer": row["answer"]})
    rows.pop(EXAMPLE, None)
    return list(rows.values())[: HELDOUT + TRAIN]


def terms(question: str) -> tuple[str, ...]:
    """The numbers of `Calculate 7 + 25.`, sorted as text."""
    return tuple(sorted(question.removeprefix("Calculate ").removesuffix(".").split(" + ")))
