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
    answer: ground truth, or None where there is none.
    source: where it came from: the file's stem, or "gym/TASK".
    level: difficulty as a string, where the source gives one.
    metadata: Reasoning Gym only, JSON-serialisable: {"task": name, "config": {...}, "entry": {question, answer,
      metadata}}, which is what the task's own scorer needs.
    labelled: for labels.source mixed: whether the answer may be trained on; None where the source does not say.
    """

    id: str
    prompt: str
    answer: str | None
    source: str
    level: str | None = None
    metadata: dict | None = None
    labelled: bool | None = None


def fingerprint(problems: Iterable[Problem]) -> str:
    """sha256 (64 hex digits) over ids, prompts and answers, in order: equal when training would see the same data."""
    digest = hashlib.sha256()
    for problem in problems:
        # A JSON line per problem is unambiguous: no text of one field can be mistaken for part of the next.
        row = [problem.id, problem.prompt, problem.answer] + ([] if problem.labelled is None else [problem.labelled])
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
