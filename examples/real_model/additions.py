"""Sums of two numbers from 1 to 20. Training and held-out problems are disjoint, in either order of the two numbers.

There are 210 such sums. The first HELDOUT of a fixed random order are held out. The others are the training problems,
each in both orders: 3 + 8 and 8 + 3. The example in the prompt (7 + 25) is none of them.
"""

import itertools
import random

LARGEST, HELDOUT = 20, 64


def heldout(source: dict) -> list[dict]:
    """The held-out problems, with answers."""
    return [problem(*pair) for pair in shuffled()[:HELDOUT]]


def train(source: dict) -> list[dict]:
    """The training problems. Their answers serve labels.source=ground_truth and the metrics, but not the votes."""
    pairs = shuffled()[HELDOUT:]
    return [problem(*pair) for a, b in pairs for pair in dict.fromkeys([(a, b), (b, a)])]


def shuffled() -> list[tuple[int, int]]:
    """All sums, a <= b, in a random order that is always the same."""
    pairs = list(itertools.combinations_with_replacement(range(1, LARGEST + 1), 2))
    random.Random(0).shuffle(pairs)
    return pairs


def problem(a: int, b: int) -> dict:
    """The problem `3 + 8` and its answer."""
    return {"problem": f"{a} + {b}", "answer": str(a + b)}
