"""The table of a study: one row for each evaluation of each finished run, in a CSV file that users commit.

A study continues from its table alone. A run whose key is in the table is not made again. The file is replaced as a
whole under a lock, so several processes can add rows. A process that is killed leaves all finished runs in the table.
"""

import contextlib
import csv
import fcntl
import io
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from srt_jax.errors import DataError
from srt_jax.files import write_file
from srt_jax.study.rules import Curve

RUN = ("key", "arm", "setting", "seed", "commit", "finished")  # columns that identify the run of a row
WHERE = ("step", "tokens", "seconds")  # RL steps, generated tokens and seconds so far, without those of evaluations
CPU = "cpu_seconds"  # of the process that finished the run; a run that was resumed took more
TRAINING = ("label/", "update/kl", "update/entropy", "rollout/response_tokens", "rollout/truncated")
Row = dict[str, str | float]


def rows_of_run(
    records: Sequence[dict], sequences: int, teacher_responses: int, teacher_sequences: int = 0
) -> list[Row]:
    """One row per evaluation in the records of a run's metrics.jsonl.

    A row also has the means of the training metrics since the previous evaluation. sequences: number of responses
    sampled from the policy in a step. teacher_responses: number of responses sampled from a teacher before the run.
    Their mean length is taken to be that of the initial model's responses in the first evaluation, and their tokens
    count from the start. teacher_sequences: number of responses sampled from a teacher in
    a step that has one.
    """
    rows, tokens, seconds, pending = [], 0.0, 0.0, []
    for record in records:
        if "rollout/response_tokens" in record:
            tokens += sequences * record["rollout/response_tokens"]
            tokens += teacher_sequences * record.get("teacher/response_tokens", 0.0)
            pending.append(record)
        seconds += sum(record.get(f"time/{phase}", 0.0) for phase in ("sample", "grade", "wait", "load", "update"))
        evaluated = {tag: value for tag, value in record.items() if tag.startswith(("eval/", "guard/"))}
        if not evaluated:
            continue
        if not rows:
            tokens += teacher_responses * _base_length(evaluated)
        tags = sorted({tag for r in pending for tag in r if tag.startswith(TRAINING)})
        means = {tag: _mean([r[tag] for r in pending if tag in r]) for tag in tags}
        rows.append({"step": record["step"], "tokens": tokens, "seconds": seconds, **evaluated, **means})
        pending = []
    return rows


def _base_length(evaluated: dict) -> float:
    return _mean([value for tag, value in evaluated.items() if tag.endswith("/response_tokens")])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def read(path: pathlib.Path) -> list[Row]:
    """The rows of a table, with numbers as floats and the seed as int. [] if there is no file.

    Raises DataError if columns are missing or values are damaged.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = {*RUN, *WHERE} - {*(reader.fieldnames or ())}
        if missing:
            raise DataError(f"{path} has no columns {', '.join(sorted(missing))}: restore it, or delete it.")
        try:
            return [{name: _value(name, text) for name, text in row.items() if text} for row in reader]
        except (TypeError, ValueError) as e:
            raise DataError(f"{path} is damaged ({e}): restore it, or delete it.") from None


def _value(name: str, text: str) -> str | float:
    if name == "seed":
        return int(text)
    return text if name in RUN else float(text)


def add(path: pathlib.Path, rows: Iterable[Row]) -> None:
    """Adds the rows of a finished run. They replace earlier rows with the same key, arm, setting and seed."""
    rows = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        kept = [row for row in read(path) if _run(row) not in {_run(new) for new in rows}]
        write(path, [*kept, *rows])


def _run(row: Row) -> tuple:
    return row["key"], row["arm"], row.get("setting", ""), row["seed"]


def write(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """Replaces the file by a table of these rows. Floats keep at least six significant digits."""
    others = sorted({name for row in rows for name in row} - {*RUN, *WHERE})
    text = io.StringIO()
    writer = csv.DictWriter(text, [*RUN, *WHERE, *others], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _text(value) for name, value in row.items()} for row in rows)
    write_file(path, text.getvalue())


def _text(value) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}" if abs(value) < 1e6 else f"{value:.0f}"
    return str(value)


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Waits until no other process has the lock of this path, which is the file .NAME.lock beside it."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def curves(rows: Iterable[Row], column: str, over: str = "step") -> dict[tuple[str, str, int], Curve]:
    """{(arm, setting, seed): [(position, value)]} of a column, sorted by position.

    over: the column of the position, `step` or `tokens`. Rows without a value in `column` are left out. Of a run's rows
    at one position the last counts: the first evaluation of a level repeats the last one of the level before.
    """
    found: dict[tuple[str, str, int], dict[float, float]] = {}
    for row in rows:
        if column in row:
            run = str(row["arm"]), str(row.get("setting", "")), int(row["seed"])
            found.setdefault(run, {})[float(row[over])] = float(row[column])
    return {run: sorted(points.items()) for run, points in found.items()}
