"""`Problem`, which every data source produces, and the fingerprint of a list of problems."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One problem to solve.

    id: unique within its data set; sampling keys and pseudo-label files refer to it.
    prompt: the problem text alone, without instruction or chat template.
    answer: ground truth; None if it is unknown.
    source: the stem of its file, or "gym/TASK".
    level: difficulty as a string, if the source gives one.
    metadata: the input of the task's own scorer, JSON-serialisable, for Reasoning Gym only: {"task": name,
      "config": {...}, "entry": {question, answer, metadata}}.
    labelled: for labels.source mixed, whether training may use the answer; None if the source does not say.
    """

    id: str
    prompt: str
    answer: str | None
    source: str
    level: str | None = None
    metadata: dict | None = None
    labelled: bool | None = None


def fingerprint(problems: Iterable[Problem]) -> str:
    """sha256 (64 hex digits) over ids, prompts and answers, in order. Equal hashes mean the same training data."""
    digest = hashlib.sha256()
    for problem in problems:
        # JSON lines are unambiguous: text cannot move from one field to the next without changing the hash.
        row = [problem.id, problem.prompt, problem.answer] + ([] if problem.labelled is None else [problem.labelled])
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
