"""Turns rows with named columns into problems. JSONL files, Parquet files and the named sets share this code."""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path

from srt_jax.data.base import Problem
from srt_jax.errors import DataError
from srt_jax.files import shown
from srt_jax.grading.golds import bare_answer

_DEFAULT_COLUMNS = {"prompt": "problem", "answer": "answer", "id": "id", "level": "level"}
# SRT's code (reward_manager/self_learning.py) writes this instead of an answer that training must not see.
_NO_LABEL = "LABEL_BY_SELF_CONSISTENCY"


def problems_of(rows: Iterable[tuple[int, dict]], path, config, unit: str = "line") -> list[Problem]:
    """Problems of numbered rows, in order.

    config has these fields:
      `prompt_column`, `answer_column`, `id_column`, `level_column`, `labelled_column`: names of columns. A dot reaches
        into a nested column. Rows in verl's format (a nested `reward_model`) need no column names.
      `levels`: only problems of these levels are read; () for all.
      `limit`: only this many problems are read; 0 for all.
      `duplicates`: "refuse" is an error for two rows with one id. "first" skips a row with the id, the prompt and the
        answer of an earlier row.
    path, unit ("line" or "row"): for messages. The path's stem is the source of the problems.

    A row without an id gets a hash of its prompt. A missing, null or blank answer is None. An answer inside a solution
    (`#### 5`, a box) or a list such as `['5']` is extracted. A prompt may be a list of messages. Then the first user
    message counts. Raises DataError for a row without a prompt, a value that is not a scalar, a stored label that is
    not the true answer, duplicate ids, or a file without problems.
    """
    path = Path(path)
    columns = {role: config.get(f"{role}_column") or name for role, name in _DEFAULT_COLUMNS.items()}
    columns["labelled"] = config.get("labelled_column") or ""
    limit, levels = config.get("limit") or None, config.get("levels") or ()
    levels = {str(level) for level in (levels if isinstance(levels, list | tuple) else [levels])}
    problems: dict[str, Problem] = {}
    number_of: dict[str, int] = {}
    levels_seen: set[str | None] = set()
    for number, row in rows:
        problem, hashed = _problem(path, f"{path} {unit} {number}", row, columns)
        levels_seen.add(problem.level)
        if levels and problem.level not in levels:
            continue
        if problem.id in number_of:
            same = (problem.prompt, problem.answer) == (problems[problem.id].prompt, problems[problem.id].answer)
            if same and config.get("duplicates") == "first":
                continue
            places = f"{path} {unit}s {number_of[problem.id]} and {number}"
            raise DataError(_duplicate_message(places, problem.id, hashed, same, columns["id"]))
        number_of[problem.id] = number
        problems[problem.id] = problem
        if len(problems) == limit:
            break
    if not problems and levels_seen:
        raise DataError(
            f"{path} has no row of the levels {', '.join(sorted(levels))} in column {columns['level']!r}; "
            f"it has {', '.join(sorted(map(str, levels_seen)))}: correct `levels` or `level_column`."
        )
    if not problems:
        raise DataError(f"{path} has no rows; write one problem per {unit}, or name another file in `path`.")
    return list(problems.values())


def prompt_id(prompt: str) -> str:
    """The id of a problem whose row has none. The same text has the same id in every file."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def user_text(value):
    """The first user message of a list of messages ({role, content} or {from, value}). Other values are unchanged."""
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        return value
    users = [m for m in value if m.get("role", m.get("from")) in ("user", "human")]
    return users[0].get("content", users[0].get("value")) if users else None


def _problem(path: Path, place: str, row: dict, columns: dict[str, str]) -> tuple[Problem, bool]:
    """The problem of one row, and whether its id is a hash of its prompt."""
    if isinstance(row.get("reward_model"), dict) and columns["prompt"] not in row:
        row, columns = _from_verl(place, row, columns)
    prompt = user_text(_get(row, columns["prompt"]))
    if not isinstance(prompt, str) or not prompt.strip():
        if columns["prompt"] in row:
            found = f"{shown(prompt)} in column {columns['prompt']!r}, which is not a text"
            remedy = "give every row a non-blank string there"
        else:
            found = f"no column {columns['prompt']!r} (it has {', '.join(map(repr, row)) or 'no columns'})"
            remedy = "add it, or set `prompt_column`"
        raise DataError(f"{place} has {found}; {remedy}.")
    refuse_half_characters(place, prompt, columns["prompt"])
    scalars = {role: _text(place, row, columns[role]) for role in ("id", "answer", "level")}
    hashed = scalars["id"] is None
    problem = Problem(
        id=prompt_id(prompt) if hashed else scalars["id"],
        prompt=prompt,
        answer=None if scalars["answer"] is None else bare_answer(scalars["answer"]),
        source=path.stem,
        level=scalars["level"],
        labelled=_flag(place, row, columns["labelled"]) if columns["labelled"] else None,
    )
    return problem, hashed


def _from_verl(place: str, row: dict, columns: dict[str, str]) -> tuple[dict, dict[str, str]]:
    """(a row of verl's format with our columns added, the names of these columns).

    SRT's files have the true answer of an unlabelled row in `solution_hidden_during_training`. The metrics use it, but
    `labelled` is False, so training does not use it. Raises DataError if a stored label is not the true answer.
    """
    reward = row["reward_model"]
    answer, hidden = reward.get("ground_truth"), reward.get("solution_hidden_during_training")
    labelled = answer != _NO_LABEL
    if labelled and hidden not in (None, "") and str(hidden) != str(answer):
        raise DataError(
            f"{place} stores the label {shown(answer)}, while the true answer in solution_hidden_during_training is "
            f"{shown(hidden)}; write the labels as lines of id and label to a file for labels.path, and set "
            "`prompt_column` to 'prompt' and `answer_column` to 'reward_model.solution_hidden_during_training'."
        )
    if not labelled:
        answer = hidden
    ours = {"problem": row.get("prompt"), "answer": answer, "labelled": labelled}
    return {**row, **ours}, {**columns, "prompt": "problem", "answer": "answer", "labelled": "labelled"}


def _get(row: dict, column: str):
    """The value of a column, or None. "a.b" is key b of column a if there is no column "a.b"."""
    if column in row or "." not in column:
        return row.get(column)
    outer, _, inner = column.partition(".")
    return _get(row[outer], inner) if isinstance(row.get(outer), dict) else None


def _text(place: str, row: dict, column: str) -> str | None:
    """A string or number of the row as text (5 -> "5", 142.0 -> "142.0"). Raises DataError for other types.

    None if the value is missing, null, blank, infinite or NaN. Data frames write NaN for a missing value.
    """
    value = _get(row, column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    # bool is an int in Python. A true/false answer must be a string.
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(
            f"{place} has {shown(value)} in column {column!r}; "
            "write a string or a number there, or name another column."
        )
    if isinstance(value, str):
        refuse_half_characters(place, value, column)
    return str(value)


def refuse_half_characters(place: str, text: str, column: str) -> None:
    """Raises DataError for half of a surrogate pair. JSON can contain one, but tokenizers and UTF-8 files refuse it."""
    if not text.isascii() and (half := next((c for c in text if 0xD800 <= ord(c) <= 0xDFFF), None)):
        raise DataError(
            f"{place} has half of a surrogate pair ({half!r}) in column {column!r}; write the whole "
            "character, or remove it."
        )


def _flag(place: str, row: dict, column: str) -> bool:
    value = _get(row, column)
    if not isinstance(value, bool):
        raise DataError(f"{place} has {shown(value)} in `labelled_column` {column!r}; write true or false there.")
    return value


def _duplicate_message(places: str, id: str, hashed: bool, same: bool, column: str) -> str:
    if same:
        what = f"the same prompt and no {column!r}" if hashed else f"the same id {shown(id)} in column {column!r}"
        return (
            f"{places} have {what}; add an id column (or set `id_column`), remove the duplicates from the file, or "
            "set `duplicates` to 'first'."
        )
    if hashed:
        return (
            f"{places} have the same prompt and no {column!r}, so their ids (hashes of the prompt) are equal; "
            "add an id column (or set `id_column`), or remove the duplicates from the file."
        )
    return f"{places} have the same id {shown(id)} in column {column!r}; make the ids unique or set `id_column`."
