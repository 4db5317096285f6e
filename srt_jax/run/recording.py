"""The rollouts of a step on disk: rows to read, and arrays from which the update can be repeated bit for bit.

With vLLM, equal seeds do not always give equal samples. Everything after sampling is deterministic, so recorded
rollouts are enough to repeat a step.
"""

import dataclasses
import gzip
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from srt_jax import files
from srt_jax.data.base import Problem
from srt_jax.reward.labels import FROM_OTHER_SAMPLES
from srt_jax.rollout.sampler import ARRAYS, Rollouts
from srt_jax.run.rollouts import Collected, Grading

ROWS, RECORDED = "jsonl.gz", "npz"


def rollouts_path(directory: pathlib.Path, step: int, ending: str) -> pathlib.Path:
    """<run>/rollouts/step_N.<ending>, in which ending is ROWS or RECORDED."""
    return directory / "rollouts" / f"step_{step:06d}.{ending}"


def write_rows(directory: pathlib.Path, step: int, rows: list[dict]) -> None:
    """Writes one JSON line per response, to be read by people. Identical rows give identical bytes."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = rollouts_path(directory, step, ROWS)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_file(path, gzip.compress(data, compresslevel=1, mtime=0))


def write(directory: pathlib.Path, step: int, collected: Collected) -> None:
    """Writes token ids, log-probs, problem ids, the labels of a teacher or of paraphrases, and two flags per prompt.

    The flags tell whether the prompt has a label, and whether resampling leaves it out of the loss. Equal rollouts give
    equal bytes.
    """
    rollouts = collected.rollouts
    labels: dict[str, Any] = {}
    if collected.teacher or collected.graded[0].label.source in FROM_OTHER_SAMPLES:
        labels["labels"] = np.array([json.dumps(graded.label.text) for graded in collected.graded])
    path = rollouts_path(directory, step, RECORDED)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replaced_file(path) as file:
        np.savez_compressed(
            file,
            ids=np.array([problem.id for problem in collected.problems]),
            prompts=np.concatenate([np.asarray(prompt, np.int32) for prompt in rollouts.prompts]),
            prompt_lengths=np.array([len(prompt) for prompt in rollouts.prompts]),
            labelled=np.array([graded.labelled for graded in collected.graded]),
            left_out=np.array([graded.left_out for graded in collected.graded]),
            version=rollouts.version,
            rounds=collected.rounds,
            **labels,
            **{name: getattr(rollouts, name) for name in ARRAYS},
        )


def read(path: pathlib.Path, problems: Mapping[str, Problem], grading: Grading) -> Collected:
    """Reads the rollouts that `write` recorded, and grades them again. Raises KeyError for a missing problem id."""
    with np.load(path) as saved:
        arrays = dict(saved)
    ends = np.cumsum(arrays["prompt_lengths"])[:-1]
    rollouts = Rollouts(
        [prompt.tolist() for prompt in np.split(arrays["prompts"], ends)],
        **{name: arrays[name] for name in ARRAYS},
        version=int(arrays["version"]),
    )
    chosen = [problems[id] for id in arrays["ids"].tolist()]
    if "labels" in arrays:  # those of a teacher, whose samples are not recorded, or of paraphrases
        labels = zip(arrays["ids"].tolist(), map(json.loads, arrays["labels"].tolist()), strict=True)
        grading = grading.with_labels({id: label for id, label in labels if label is not None})
    rows = zip(chosen, rollouts.prompts, rollouts.responses(), rollouts.stopped, strict=True)
    # Older versions did not write left_out, but recorded a prompt that is left out as one without a label, also in the
    # metrics of the run. Their flags are kept as they are, so that the replayed metrics are equal.
    labelled = arrays["labelled"].tolist()
    flags = zip(labelled, arrays["left_out"].tolist() if "left_out" in arrays else [False] * len(labelled), strict=True)
    graded = [
        dataclasses.replace(grading(*row), labelled=has_label, left_out=left_out)
        for row, (has_label, left_out) in zip(rows, flags, strict=True)
    ]
    return Collected(chosen, rollouts, graded, {"sample": 1.0, "grade": 0.0}, int(arrays["rounds"]))
