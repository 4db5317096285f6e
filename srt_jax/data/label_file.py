"""Label files: pseudo-labels as JSON lines {id, label, ...}. The first line may be a header {"provenance": {...}}.

`python -m srt_jax label` writes such a file, with the vote shares of each problem and, if its answer is known, the pass
rate. A file from another source needs only `id` and `label`.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

from srt_jax.config.versions import version_of
from srt_jax.errors import DataError
from srt_jax.files import read_jsonl, shown

SCORES = ("vote_share", "vote_share_parsed", "pass_rate")


def read(path: str | Path) -> tuple[dict, dict[str, dict]]:
    """(provenance, {problem id: row}) of a label file. Raises DataError, or FormatError for a newer version."""
    path = Path(path)
    if not path.is_file():
        fault = "is a folder: name the file in it, or write one" if path.is_dir() else "does not exist: write it"
        raise DataError(f"the label file {path} {fault} with python -m srt_jax label.")
    provenance, rows = {}, {}
    for number, row in read_jsonl(path):
        if not rows and isinstance(row.get("provenance"), dict):
            provenance = row["provenance"]
            version_of(provenance, path)
            continue
        _check(row, f"{path} line {number}")
        if row["id"] in rows:
            raise DataError(f"{path} line {number} labels {shown(row['id'])} again: keep one row for each problem.")
        rows[row["id"]] = row
    if not rows:
        raise DataError(f"{path} has no labels: write it with python -m srt_jax label.")
    return provenance, rows


def _check(row: dict, where: str) -> None:
    if not isinstance(row.get("id"), str):
        raise DataError(f"{where} has id {shown(row.get('id'))}: give the problem's id as a string.")
    if "label" not in row or not (row["label"] is None or isinstance(row["label"], str)):
        raise DataError(f"{where} has label {shown(row.get('label'))}: give a string, or null for no label.")


def labels(path: str | Path, threshold: float = 0.0) -> dict[str, str]:
    """{problem id: label}. Problems without a label, or with a `vote_share` below the threshold, are left out."""
    _, rows = read(path)
    if threshold:
        require_score(path, rows, "vote_share", "labels.threshold")
    return {
        id: row["label"]
        for id, row in rows.items()
        if row["label"] is not None and row["label"].strip() and (not threshold or row["vote_share"] >= threshold)
    }


def easiest_first(path: str | Path, by: str) -> list[str]:
    """Problem ids, sorted by decreasing score `by` (one of SCORES) and then by id. Raises DataError without a score."""
    _, rows = read(path)
    require_score(path, rows, by, f"{by!r} as the measure")
    return rank({id: row[by] for id, row in rows.items()})


def rank(scores: Mapping[str, float]) -> list[str]:
    """Ids, sorted by decreasing score and then by id."""
    return sorted(scores, key=lambda id: (-scores[id], id))


def require_score(path: str | Path, rows: Mapping[str, dict], name: str, wanted_by: str) -> None:
    """Raises DataError if a row lacks the score `name`. wanted_by: the subject of the message."""
    without = next((id for id, row in rows.items() if not _is_score(row.get(name))), None)
    if without is not None:
        remedy = "only problems with a known answer have one" if name == "pass_rate" else "write it with srt label"
        raise DataError(f"{wanted_by} needs {name} of all problems, but {shown(without)} in {path} has none: {remedy}.")


def _is_score(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def fingerprint(path: str | Path) -> str:
    """sha256 of the file (64 hex digits). A resumed run must have the same labels."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
