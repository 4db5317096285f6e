"""Writes one record of metrics per step to metrics.jsonl and TensorBoard; reads and repairs metrics.jsonl."""

import json
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from srt_jax import files
from srt_jax.log import logger
from srt_jax.run import board
from srt_jax.run.metrics import USUALLY_ZERO, curves_page, describe_tag
from srt_jax.run.progress import Progress


class RunLog:
    """Writes one record per step to metrics.jsonl and TensorBoard, and shows the progress of the run."""

    def __init__(self, directory: pathlib.Path, total_steps: int, last_step: int | None = None):
        """last_step: the step to resume from, after which all records are dropped. None: a new run, without records."""
        self.directory, self.total_steps = directory, total_steps
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "metrics.jsonl"
        last = -1 if last_step is None else last_step
        if self._path.exists():
            _keep_records(self._path, last)
        self._file = self._path.open("a")
        records = read_metrics(directory)
        self._seen, self._last = {tag for record in records for tag in record}, records[-1] if records else {}
        self._board = board.Board(directory, purge_step=last + 1)
        self._warnings = []
        self._progress: Progress | None = None  # from the first step on
        self.activity: Callable[[], str] = lambda: ""  # for the progress line: what happens at the moment

    def introduce(self, config: ConfigDict) -> None:
        """Writes hyper-parameters, charts and the meaning of the curves to TensorBoard."""
        self._board.introduce(config.name, config)
        self._board.text("curves", curves_page(), 0)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the scalars of a step to metrics.jsonl and TensorBoard under the same tags, except NaN (unknown).

        A second record of the last step is merged with the first one, and seconds are added. This happens if a resumed
        run repeats an evaluation that was stopped.
        """
        values = {name: float(v) for name, v in values.items() if not math.isnan(float(v))}
        values = {name: v for name, v in values.items() if v or name in self._seen or name not in USUALLY_ZERO}
        self._seen |= values.keys()
        record: dict[str, Any] = {"step": step, **values}
        if self._warnings:
            record["warning"] = "\n".join(self._warnings)
            self._board.text("warning", board.paragraphs(self._warnings), step)
            self._warnings = []
        if self._last.get("step") == step:
            self._file.close()
            _keep_records(self._path, step - 1)
            self._file, record = self._path.open("a"), _joined(self._last, record)
        self._last = record
        with files.naming(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        for name in values:
            self._board.scalar(name, record[name], step, describe_tag(name))

    def warn(self, text: str) -> None:
        """Prints a warning now, and adds it to the next record and TensorBoard's Text tab as `warning`."""
        logger.warning(text)
        self._warnings.append(text)

    def text(self, tag: str, text: str, step: int) -> None:
        """Writes a Markdown text to TensorBoard's Text tab."""
        self._board.text(tag, text, step)

    def progress(self, step: int, summary: str, left: float | None = None) -> None:
        """Shows the progress line: 20 times in a run, and every minute. left: seconds until the last step ends."""
        self._progress = self._progress or Progress(self.total_steps, "step", activity=self.activity)
        self._progress.update(step, summary, left, now=step % max(1, self.total_steps // 20) == 0)

    def pause(self) -> None:
        """Hides the progress line until the next call of `progress`: an evaluation shows its own line."""
        if self._progress:
            self._progress.pause()

    def flush(self) -> None:
        """Writes all buffers to the operating system, so that a crash of the process loses nothing."""
        self._board.flush()

    def close(self) -> None:
        """Closes the files and ends the progress line."""
        if self._progress:
            self._progress.close()
        try:
            with files.naming(self._path):  # it tries again to write what did not fit on a full disk
                self._file.close()
        finally:
            self._board.close()


class NoLog:
    """The log of every process but the first: it writes nothing."""

    def __init__(self) -> None:
        self.activity: Callable[[], str] = lambda: ""

    def write(self, *_) -> None:
        """See RunLog."""

    introduce = warn = text = progress = pause = flush = close = write


def _joined(first: dict, second: dict) -> dict:
    """Merges two records of one step."""
    joined = first | second
    joined |= {
        tag: first[tag] + second[tag]
        for tag in first.keys() & second.keys()
        if tag.startswith("time/") and tag != "time/compilations"
    }
    if "warning" in first and "warning" in second:
        joined["warning"] = f"{first['warning']}\n{second['warning']}"
    return joined


def _keep_records(path: pathlib.Path, last_step: int) -> None:
    """Removes the records after `last_step`, and damaged lines."""
    files.write_jsonl(path, [record for record in _scan(path)[0] if record["step"] <= last_step])


def last_recorded_step(directory: pathlib.Path) -> int:
    """The last step in a run's metrics.jsonl; 0 if there is none."""
    path = directory / "metrics.jsonl"
    return max((record["step"] for record in _scan(path)[0]), default=0) if path.exists() else 0


def read_metrics(directory: str | os.PathLike) -> list[dict]:
    """The records of a run's metrics.jsonl, without damaged lines and lines that were cut short."""
    return _scan(pathlib.Path(directory) / "metrics.jsonl")[0]


def _scan(path: pathlib.Path) -> tuple[list[dict], list[int]]:
    """(records, numbers of the damaged lines). Each line is read by itself, so a damaged one hides no other."""
    records, damaged = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line:
            continue
        try:
            record = files.parse_json(line)
        except ValueError:
            record = None
        if is_record(record):
            records.append(record)
        else:
            damaged.append(number)
    return records, damaged


def is_record(value) -> bool:
    """Tells whether a JSON value is the record of a step: numbers by tag, and perhaps the text of a warning."""

    def is_number(x) -> bool:
        return isinstance(x, (int, float)) and not isinstance(x, bool)

    return (
        isinstance(value, dict)
        and type(value.get("step")) is int
        and all(is_number(x) or (tag == "warning" and isinstance(x, str)) for tag, x in value.items())
    )


def restore_records(directory: pathlib.Path, last_step: int) -> None:
    """Completes metrics.jsonl up to `last_step`, from which the run resumes, and warns about lost records.

    A damaged or missing record is read back from TensorBoard's files if they have the step. It then has float32 values
    and no warnings.
    """
    path = directory / "metrics.jsonl"
    records, damaged = _scan(path) if path.exists() else ([], [])
    there = {record["step"]: record for record in records if record["step"] <= last_step}
    missing = [step for step in range(1, last_step + 1) if step not in there]
    if not missing:
        return
    found = board.read_scalars(directory)
    there |= {step: {"step": step, **found[step]} for step in (0, *missing) if step in found and step not in there}
    files.write_jsonl(path, [there[step] for step in sorted(there)])
    lost = [step for step in missing if step not in there]
    cause = f"its lines {_numbers(damaged)} are damaged" if damaged else "it was removed or cut short"
    outcome = f"those of steps {_numbers(lost)} are lost" if lost else "they were read back from TensorBoard's files"
    logger.warning(f"{path} misses {len(missing)} records ({cause}): {outcome}.")


def _numbers(numbers: Sequence[int], most: int = 8) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return f"{shown} and {len(numbers) - most} more" if len(numbers) > most else shown
