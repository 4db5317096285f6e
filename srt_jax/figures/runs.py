"""Reads runs from their folders, and groups the runs that differ in their seed only."""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from srt_jax.errors import FiguresError
from srt_jax.files import read_json_object
from srt_jax.run.metrics import by_set
from srt_jax.run.metrics_log import read_metrics

OWN = ("seed", "name", "out")  # the fields of the config in which runs of one group may differ
PATH_SEED = re.compile(r"[-_. ]?seed[-_ ]?\d+")  # in paths, such as cache/rival-seed1
FOLDER_SEED = re.compile(rf"({PATH_SEED.pattern}|[-_. ]\d+)(-[0-9a-f]{{8}})?$")  # a study adds the start of its key

Points = list[tuple[float, float]]  # (x, y), sorted by x


@dataclasses.dataclass(frozen=True)
class RunData:
    """A run folder. The files are read when they are first needed."""

    name: str
    folder: pathlib.Path

    @functools.cached_property
    def records(self) -> list[dict]:
        """The records of metrics.jsonl."""
        return read_metrics(self.folder)

    @functools.cached_property
    def summary(self) -> dict:
        """summary.json, or what metrics.jsonl says so far."""
        return read_summary(self.folder)

    @functools.cached_property
    def config(self) -> dict:
        """config.json; {} if it is missing."""
        path = self.folder / "config.json"
        return json.loads(path.read_text()) if path.exists() else {}


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only. A figure shows them as one curve."""

    label: str
    runs: tuple[RunData, ...]

    def curves(self, points: Callable[[RunData], Points]) -> list[Points]:
        """The curve of each run that has one."""
        return [found for found in map(points, self.runs) if found]


def names_of(runs: Sequence[pathlib.Path]) -> list[str]:
    """The folders' names, with as many parent folders as are needed to distinguish them."""
    depth, paths = 1, [run.resolve() for run in runs]
    while True:
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names) or depth > max(len(path.parts) for path in paths):
            return names
        depth += 1


def read_runs(folders: Sequence[pathlib.Path]) -> list[RunData]:
    """The runs in these folders. Raises FiguresError if a folder has no metrics.jsonl."""
    for folder in folders:
        if not (folder / "metrics.jsonl").exists():
            raise FiguresError(f"{folder} has no metrics.jsonl: name folders of runs.")
    return [RunData(name, folder) for name, folder in zip(names_of(folders), folders)]


def read_summary(folder: pathlib.Path) -> dict:
    """summary.json of a run. For a run that is not finished, the same fields from metrics.jsonl, as far as known."""
    if (folder / "summary.json").exists():
        return read_json_object(folder / "summary.json")
    records = read_metrics(folder)
    evaluated = [record for record in records if by_set(record)]
    seconds: dict[str, float] = {}
    for record in records:
        for tag, value in record.items():
            if tag.startswith("time/") and tag not in ("time/step", "time/compilations"):
                seconds[tag.removeprefix("time/")] = seconds.get(tag.removeprefix("time/"), 0.0) + value
    return {
        "steps": records[-1]["step"] if records else 0,
        "base": evaluated[0] if evaluated and evaluated[0]["step"] == 0 else {},
        "last": evaluated[-1] if evaluated else {},
        "best": {},
        "ended_early": None,
        "seconds": seconds,
        "versions": {},
    }


def groups(runs: Sequence[RunData]) -> list[Group]:
    """The runs as groups, in order of appearance.

    Runs of one group have different seeds and otherwise equal configs, except for the fields OWN and for `seedN` in
    paths: each seed may have its own base model.
    """
    found: dict[str, list[RunData]] = {}
    for run in runs:
        config = {name: value for name, value in run.config.items() if name not in OWN}
        seed = run.config.get("seed")
        key = PATH_SEED.sub("", json.dumps(config, sort_keys=True)) if config else run.name
        if any(other.config.get("seed") == seed for other in found.get(key, [])):
            key = f"{run.name} {key}"  # the same run twice is no further seed
        found.setdefault(key, []).append(run)
    labels = [_label(members) for members in found.values()]
    return [
        Group(label if labels.count(label) == 1 else members[0].name, tuple(members))
        for label, members in zip(labels, found.values())
    ]


def _label(runs: Sequence[RunData]) -> str:
    """The name of a run, or what several folders' names have before their seeds, with the number of seeds."""
    if len(runs) == 1:
        return runs[0].name
    common = {FOLDER_SEED.sub("", run.folder.resolve().name) for run in runs}
    name = common.pop() if len(common) == 1 and all(common) else runs[0].name
    return f"{name} ({len(runs)} seeds)"


def mean_and_range(curves: Sequence[Points]) -> tuple[np.ndarray, ...]:
    """(x, mean, lowest, highest) [T] of several curves at the positions x that all of them have."""
    common = sorted(set.intersection(*({x for x, _ in curve} for curve in curves))) if curves else []
    if not common:
        return (np.array([]),) * 4
    values = np.array([[dict(curve)[x] for x in common] for curve in curves])
    return np.array(common), values.mean(0), values.min(0), values.max(0)
