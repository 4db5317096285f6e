"""Reasoning Gym tasks as problems. Task, config and seed determine them, and the task's own scorer scores answers."""

import contextlib
import dataclasses
import difflib
import functools
import json
import os
import sys
import time
from collections.abc import Mapping

from srt_jax.data.base import Problem
from srt_jax.errors import DataError
from srt_jax.files import shown
from srt_jax.run.progress import Progress

# These tasks of reasoning-gym 0.1.25 depend on the order of Python sets, which differs between processes unless
# PYTHONHASHSEED is fixed. Every other task except codeio gave the same problems in three processes.
_FOLLOW_SET_ORDER = {
    "intermediate_integration",
    "isomorphic_strings",
    "knight_swap",
    "polynomial_multiplication",
    "ransom_note",
    "word_ladder",
}
# Reasoning Gym's scorers read the text between these tags. Configs use this text as prompts.instruction.
INSTRUCTION = "Think step by step, then write the final answer, and nothing else, inside <answer> </answer> tags."

SILENT_SECONDS = 5.0  # A generation that takes longer shows its progress.


def load_gym(config) -> list[Problem]:
    """The first `limit` (0: all) of `size` problems of Reasoning Gym's `task`, from its fields `config` and `seed`.

    Ids are "gym/TASK/SEED/INDEX". The same (task, config, seed) gives the same problems in every process.
    Most tasks generate problem i from `seed + i`, so sets with seeds 1 and 2 share nearly all problems. Therefore the
    seeds of training and held-out data must differ by at least the larger `size`.
    Raises DataError for an unknown task (and suggests close names), an unknown field, a value that the task refuses, or
    a task that is not repeatable.
    """
    maker, count = _maker_of(config), wanted(config)
    maker.make(count)
    return maker.problems[:count]


def wanted(config) -> int:
    """The number of problems of `load_gym(config)`."""
    return min(config["size"], config.get("limit") or config["size"])


def make_some(config, seconds: float, least: int) -> int:
    """Generates problems of `load_gym(config)` for `seconds`, but at least `least` problems. Returns their number.

    A later `load_gym` uses them. Raises DataError like `load_gym`.
    """
    maker, count, end = _maker_of(config), wanted(config), time.monotonic() + seconds
    while len(maker.problems) < count and (len(maker.problems) < least or time.monotonic() < end):
        maker.make(len(maker.problems) + 1)
    return min(count, len(maker.problems))


def _maker_of(config) -> "_Maker":
    fields = json.dumps(_plain(config["config"]), sort_keys=True)
    return _maker(config["task"], fields, config["seed"], config["size"])


class _Maker:
    """Generates the first problems of a task's data set when they are needed, because hard ones take long."""

    def __init__(self, task: str, fields: dict, seed: int, size: int):
        self._task, self._seed, self._settings = task, seed, {**fields, "seed": seed, "size": size}
        self._dataset = _create(task, fields, seed, size)
        self.problems: list[Problem] = []

    def make(self, count: int) -> None:
        """Generates those of the first `count` problems that are missing. Shows progress if it takes long."""
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            progress = None
            while len(self.problems) < count:
                index = len(self.problems)
                self.problems.append(_problem(self._task, self._seed, index, self._dataset[index], self._settings))
                if progress is None and time.monotonic() - started > SILENT_SECONDS:
                    progress = stack.enter_context(Progress(count, f"making {self._task}: problem", sys.stdout))
                if progress:
                    progress.update(len(self.problems))


@functools.cache
def _maker(task: str, fields: str, seed: int, size: int) -> _Maker:
    """One maker for each data set, because a run of several levels reads each of them more than once."""
    return _Maker(task, json.loads(fields), seed, size)


def _create(task: str, fields: dict, seed: int, size: int):
    """The task's dataset object. Raises DataError for every mistake in the request."""
    import reasoning_gym.factory  # This takes 2 seconds, so runs without Reasoning Gym do not import it.

    tasks = reasoning_gym.factory.DATASETS
    if task not in tasks:
        close = difflib.get_close_matches(str(task), tasks, n=3, cutoff=0.5)
        near = f"the closest names are {', '.join(close)}" if close else f"it has {len(tasks)} others"
        raise DataError(f"Reasoning Gym has no task {task!r}; {near}: set `task` to one of its names.")
    if task == "codeio":
        raise DataError("Reasoning Gym task 'codeio' ignores its seed, so no run is repeatable; use another task.")
    if task in _FOLLOW_SET_ORDER and not os.environ.get("PYTHONHASHSEED", "random").isdigit():
        raise DataError(
            f"Reasoning Gym task {task!r} gives other problems in every Python process, so no run could resume; "
            "set the environment variable PYTHONHASHSEED to 0 for every run on this data."
        )
    known = [field.name for field in dataclasses.fields(tasks[task][1]) if field.name not in ("seed", "size")]
    for name in fields:
        if name in ("seed", "size"):
            raise DataError(f"Reasoning Gym config of {task} sets {name!r}; set the source's own `{name}` instead.")
        if name not in known:
            fields_text = ", ".join(known)
            raise DataError(f"Reasoning Gym task {task} has no config field {name!r}; its fields are {fields_text}.")
    try:
        return reasoning_gym.factory.create_dataset(task, **fields, seed=seed, size=size)
    except (AssertionError, TypeError, ValueError) as error:
        settings = {**fields, "seed": seed, "size": size}
        raise DataError(
            f"Reasoning Gym task {task} refuses {shown(settings, 200)} ({error or type(error).__name__}); "
            "correct the field."
        ) from error


def _problem(task: str, seed: int, index: int, entry: dict, settings: dict) -> Problem:
    entry = _plain(entry)
    answer = entry["answer"]
    return Problem(
        id=f"gym/{task}/{seed}/{index}",
        prompt=entry["question"],
        answer=None if answer is None else str(answer),
        source=f"gym/{task}",
        level=_level(entry["metadata"].get("difficulty")),
        metadata={"task": task, "config": settings, "entry": entry},
    )


def _level(difficulty) -> str | None:
    """The level of a problem as a string; None if the task states no difficulty.

    {"difficulty": 2} -> "2"; {"n_people": 3, "depth": [2, 4]} -> "n_people=3,depth=2-4".
    """
    if not isinstance(difficulty, dict):
        return None if difficulty is None else str(difficulty)
    texts = {
        name: "-".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in difficulty.items()
    }
    if list(texts) == ["difficulty"]:
        return texts["difficulty"]
    return ",".join(f"{name}={text}" for name, text in texts.items()) or None


def _plain(value):
    """The value in JSON's types. Converts NumPy scalars and arrays, tuples, sets, dates and similar."""
    if isinstance(value, Mapping) or hasattr(value, "to_dict"):
        items = value.to_dict() if hasattr(value, "to_dict") else value
        return {str(name): _plain(item) for name, item in items.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=json.dumps)  # A set has no order.
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return _plain(value.tolist())
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)
