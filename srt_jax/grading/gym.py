"""Reasoning Gym's own scorers. Only worker processes import this: some scorers evaluate the answer as Python."""

import ast
import importlib
import json
import math
import re
from collections.abc import Callable
from functools import lru_cache

# The scorers of _EVAL_MODULES call eval() on the answer: `_disarm` makes it accept literals only. Those of
# _PARSE_MODULES call parse_expr(): `_disarm` makes it accept arithmetic only.
_EVAL_MODULES = (
    "algorithmic.string_insertion", "algorithmic.spiral_matrix", "algorithmic.binary_matrix", "games.n_queens",
)  # fmt: skip
_PARSE_MODULES = ("games.puzzle24", "games.countdown")
_ARITHMETIC = re.compile(r"[0-9A-Za-z_+\-*/^().,= \n]{1,1000}")
_ATTRIBUTE = re.compile(r"\.\s*[A-Za-z_]")
_NAME = re.compile(r"[A-Za-z_]\w*")
_NAMES = {"sin", "cos", "tan", "exp", "log", "ln", "sqrt", "asin", "acos", "atan", "sinh", "cosh", "tanh", "pi"}


@lru_cache(maxsize=16)
def _dataset(task: str, config: str):
    import reasoning_gym

    _disarm()
    return reasoning_gym.create_dataset(task, **json.loads(config))


def scorer(task: str, config: dict) -> Callable[[str, dict], float]:
    """The scorer of a data set, as (answer, entry) -> score in [0, 1]."""
    dataset = _dataset(task, json.dumps(config, sort_keys=True))
    allowed = GUARDS.get(task, lambda answer, right: True)

    def score(answer: str, entry: dict) -> float:
        right = str(entry["answer"])
        if (_NO_NUMBER.search(answer) and not _NO_NUMBER.search(right)) or not allowed(answer, right):
            return 0.0
        value = float(dataset.score_answer(answer=answer, entry=_original(dataset, entry)))
        return value if math.isfinite(value) else 0.0

    return score


def _is_the_word(answer: str, right: str) -> bool:
    return answer.strip().casefold() == right.strip().casefold()


def _is_near(answer: str, right: str) -> bool:
    try:
        return abs(float(answer) - float(right)) <= NEAR
    except ValueError:
        return True  # the task's own scorer decides


# Two scorers of reasoning-gym 0.1.25 give the full score to junk: game_of_life_halting to any text, and coin_flip to
# the first few digits of the answer. These conditions are checked before the scorer is called. `nan` passes
# comparisons such as "not abs(a - b) > tolerance" (complex_arithmetic). For all tasks, an answer with nan or inf
# scores 0 unless the right answer has nan or inf, too.
GUARDS: dict[str, Callable[[str, str], bool]] = {"game_of_life_halting": _is_the_word, "coin_flip": _is_near}
NEAR = 1e-3
_NO_NUMBER = re.compile(r"(?<![a-z])(?:nan|inf(?:inity)?)j?(?![a-z])", re.IGNORECASE)


def _original(dataset, entry: dict) -> dict:
    """The entry as the data set generates it. JSON turned its tuples into lists, which some scorers do not accept."""
    index = entry["metadata"].get("source_index")
    if isinstance(index, int) and 0 <= index < len(dataset):
        made = dataset[index]
        if made["question"] == entry["question"]:
            return made
    return entry


@lru_cache(maxsize=1)
def _disarm() -> None:
    """Replaces `eval` and `parse_expr` in the scorers' modules by safe versions."""
    import sympy

    for name in _EVAL_MODULES:
        setattr(importlib.import_module(f"reasoning_gym.{name}"), "eval", ast.literal_eval)  # noqa: B010
    parse = sympy.parse_expr
    sympy.parse_expr = _guarded(parse)
    for name in _PARSE_MODULES:
        setattr(importlib.import_module(f"reasoning_gym.{name}"), "parse_expr", sympy.parse_expr)  # noqa: B010


def _guarded(parse: Callable) -> Callable:
    def parse_arithmetic(text: str, *args, **kwargs):
        """`parse` for numbers, operators, single letters and known functions. ValueError for any other text."""
        unknown = [name for name in _NAME.findall(text) if len(name) > 1 and name not in _NAMES]
        if unknown or not _ARITHMETIC.fullmatch(text) or _ATTRIBUTE.search(text):
            raise ValueError("not arithmetic")
        return parse(text, *args, **kwargs)

    return parse_arithmetic
