"""Paraphrases of problems, from JSON lines {id, paraphrase}, for labels.source = paraphrase.

A line may have the problem's text as `problem` instead of `id`, for problems whose rows have no id. It may have an
`answer`, which must equal the known one, because a paraphrase does not change it. Their canonical forms are compared
(grading/canonical.py), in which 0.5 equals 1/2 and not 50%: write both in the same form. An empty answer counts as
missing. Training reads pairs: a problem, and after it a second problem with the text of the paraphrase.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from srt_jax.data.base import Problem
from srt_jax.data.batching import batch_indices
from srt_jax.data.rows import prompt_id, refuse_half_characters
from srt_jax.errors import DataError
from srt_jax.files import read_jsonl, shown
from srt_jax.grading.canonical import canonical
from srt_jax.grading.golds import bare_answer

ENDING = "/paraphrase"  # after the id of a problem: the id of its paraphrase


def read(path: str | Path) -> dict[str, str]:
    """{problem id: paraphrase}. Raises DataError for a missing file, a bad line, or a second line of one problem."""
    return {id: row["paraphrase"] for id, (_, row) in _rows(path).items()}


def _rows(path: str | Path) -> dict[str, tuple[str, dict]]:
    """{problem id: (the place of its line, the line)}. Raises the errors of `read`."""
    path = Path(path)
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(
            f"data.paraphrases {path} {fault}: write one line {{id, paraphrase}} for each problem to a file. Those of "
            "the miniature are made by python -m srt_jax pretrain."
        )
    found: dict[str, tuple[str, dict]] = {}
    for number, row in read_jsonl(path):
        where = f"{path} line {number}"
        id, text = _id(row, where), row.get("paraphrase")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where} has paraphrase {shown(text)}: give a text that is not blank.")
        refuse_half_characters(where, text, "paraphrase")
        if id in found:
            raise DataError(f"{where} has a second paraphrase of {shown(id)}: keep one line for each problem.")
        found[id] = where, row
    return found


def _id(row: dict, where: str) -> str:
    id = row.get("id")
    if isinstance(id, str) or type(id) is int:  # a number is text in the data, too
        return str(id)
    if id is None and isinstance(row.get("problem"), str):
        return prompt_id(row["problem"])
    raise DataError(f"{where} has id {shown(row.get('id'))}: give the problem's id, or its text as `problem`.")


def paraphrased(problems: Sequence[Problem], path: str | Path) -> list[Problem]:
    """The paraphrase of each problem as a problem, in the same order, with the same known answer.

    Raises DataError if one is missing or has another answer, if all repeat their problems, if an id could be that of a
    paraphrase, and for the errors of `read`.
    """
    rows = _rows(path)
    if taken := [problem.id for problem in problems if problem.id.endswith(ENDING)]:
        raise DataError(
            f"the data has the id {shown(taken[0])}, and with labels.source 'paraphrase' ids that end with {ENDING!r} "
            "are those of paraphrases: give the problem another id."
        )
    without = [problem.id for problem in problems if problem.id not in rows]
    if without:
        raise DataError(
            f"{path} has no paraphrase of {len(without)} of {len(problems)} problems (the first has the id "
            f"{shown(without[0])}): add one line {{id, paraphrase}} for each of them, or remove them from the data."
        )
    for problem in problems:
        where, row = rows[problem.id]
        answer = row.get("answer")
        if answer not in (None, "") and problem.answer is not None and not _equal(answer, problem.answer):
            raise DataError(
                f"{where} has the answer {shown(answer)}, but its problem has {shown(problem.answer)}, and a "
                "paraphrase does not change the answer: correct one of them, write both in the same form, or leave "
                "`answer` out."
            )
    others = [dataclasses.replace(p, id=p.id + ENDING, prompt=rows[p.id][1]["paraphrase"]) for p in problems]
    if problems and repeated(problems, others) == len(problems):
        raise DataError(f"{path} repeats the text of each problem as its paraphrase: give other texts.")
    return others


def _equal(answer: object, known: str) -> bool:
    return canonical(bare_answer(str(answer))) == canonical(known)


def repeated(problems: Sequence[Problem], others: Sequence[Problem]) -> int:
    """How many of the paraphrases have the same text as their problem? Such a pair has one prompt, twice."""
    return sum(problem.prompt == other.prompt for problem, other in zip(problems, others, strict=True))


def pair_indices(num_problems: int, prompts_per_step: int, seed: int, step: int) -> np.ndarray:
    """Indices into a list of pairs for step `step` (from 0): int64 [prompts_per_step], both of a pair side by side.

    num_problems: the length of the list, with the paraphrases. Both numbers are even. The pairs have the order of
    `batch_indices`. Raises DataError if a step needs more pairs than there are.
    """
    if not 2 <= prompts_per_step <= num_problems:
        raise DataError(
            f"batch.prompts_per_step is {prompts_per_step}, which needs {prompts_per_step // 2} problems with their "
            f"paraphrases, but there are {num_problems // 2}: set it between 2 and {num_problems}, or give more "
            "problems."
        )
    first = 2 * batch_indices(num_problems // 2, prompts_per_step // 2, seed, step)
    return np.stack([first, first + 1], axis=1).ravel()


def partner(position: int) -> int:
    """The position of the other problem of a pair, in a list of pairs."""
    return position ^ 1
