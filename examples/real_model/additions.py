"""Sums of two numbers with one or two digits, from Reasoning Gym. Training and held-out problems are disjoint.

Reasoning Gym draws with replacement, so two of its seeds share problems. Here one draw is split: of its different
problems the first HELDOUT are held out.
"""

import reasoning_gym

HELDOUT, TRAIN = 64, 1024
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
    """HELDOUT + TRAIN different problems."""
    drawn = reasoning_gym.create_dataset("basic_arithmetic", **TASK, seed=0, size=4 * (HELDOUT + TRAIN))
    rows = {row["question"]: {"problem": row["question"], "answer": row["answer"]} for row in drawn}
    return list(rows.values())[: HELDOUT + TRAIN]
