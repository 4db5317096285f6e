"""JSONL files (one JSON object per line) as problems."""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from srt_jax.data.base import DataError, Problem, shown

_DEFAULT_COLUMNS = {"prompt": "problem", "answer": "answer", "id": "id", "level": "level"}


def load_jsonl(config) -> list[Problem]:
    """Problems of the file `config["path"]`, in file order; reads line by line and stops after `limit` rows (0: all).

    Columns are named by `prompt_column`, `answer_column`, `id_column`, `level_column` (defaults "problem", "answer",
    "id", "level"). A row without an id gets a hash of its prompt; a missing, null or blank answer is None; white
    lines are skipped.
    Raises DataError for a missing or empty file, a line that is not a JSON object, a row without a prompt, duplicate
    ids.
    """
    path = Path(config["path"]).expanduser()
    columns = {role: config.get(f"{role}_column") or name for role, name in _DEFAULT_COLUMNS.items()}
    limit = config.get("limit") or None
    problems: list[Problem] = []
    line_of: dict[str, int] = {}
    for number, row in islice(_rows(path), limit):
        problem, hashed = _problem(path, number, row, columns)
        if problem.id in line_of:
            lines = f"{path} lines {line_of[problem.id]} and {number}"
            raise DataError(_duplicate_message(lines, problem.id, hashed, columns["id"]))
        line_of[problem.id] = number
        problems.append(problem)
    if not problems:
        raise DataError(f"{path} holds no rows; write one JSON object per line, or name another file in `path`.")
    return problems


def _rows(path: Path) -> Iterator[tuple[int, dict]]:
    """(line number from 1, object) of every line that is not white."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; set `path` to a JSONL file that exists.")
    # Binary: only \n ends a line (str.splitlines would also cut at U+2028), and a cut UTF-8 character is found with
    # its line.
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                half = not line.endswith(b"\n")
                what = "is the last one and looks half-written" if half else "is not valid JSON"
                remedy = "write the file again or delete that line" if half else "correct or delete that line"
                raise DataError(f"{path} line {number} {what} ({error}); {remedy}.") from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{path} line {number} is {shown(row)}, not a JSON object; "
                    "write every line as an object with named columns."
                )
            yield number, row


def _problem(path: Path, number: int, row: dict, columns: dict[str, str]) -> tuple[Problem, bool]:
    """The problem of one row, and whether its id is a hash of its prompt."""
    prompt = row.get(columns["prompt"])
    if not isinstance(prompt, str) or not prompt.strip():
        if columns["prompt"] in row:
            found = f"{shown(prompt)} in column {columns['prompt']!r}, which is not a text"
            remedy = "give every row a non-blank string there"
        else:
            found = f"no column {columns['prompt']!r} (it has {', '.join(map(repr, row)) or 'no columns'})"
            remedy = "add it, or set `prompt_column`"
        raise DataError(f"{path} line {number} has {found}; {remedy}.")
    scalars = {role: _text(path, number, row, columns[role]) for role in ("id", "answer", "level")}
    hashed = scalars["id"] is None
    problem = Problem(
        id=hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16] if hashed else scalars["id"],
        prompt=prompt,
        answer=scalars["answer"],
        source=path.stem,
        level=scalars["level"],
    )
    return problem, hashed


def _text(path: Path, number: int, row: dict, column: str) -> str | None:
    """A string or number of the row as text (5 -> "5", 142.0 -> "142.0"); None where it is missing, null or blank."""
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    # bool is an int to Python; a true/false answer is written as a string by everyone who means it.
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(
            f"{path} line {number} has {shown(value)} in column {column!r}; "
            "write a string or a number there, or name another column."
        )
    return str(value)


def _duplicate_message(lines: str, id: str, hashed: bool, column: str) -> str:
    if hashed:
        return (
            f"{lines} hold the same prompt and no {column!r}, so that their ids, hashes of the prompt, are equal; "
            "add an id column (or set `id_column`), or remove the duplicates from the file."
        )
    return f"{lines} have the same id {shown(id)} in column {column!r}; make the ids unique or set `id_column`."
