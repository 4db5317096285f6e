"""The rollouts of a step on disk: rows for people, and arrays from which its update can be repeated bit for bit.

With vLLM the same seeds need not give the same samples again. After sampling everything is deterministic, so recorded
rollouts are enough.
"""

import dataclasses
import gzip
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from srt_jax import files
from srt_jax.data.base import Problem
from srt_jax.rollout.sampler import ARRAYS, Rollouts
from srt_jax.run.rollouts import Collected, Grading

ROWS, RECORDED = "jsonl.gz", "npz"


def rollouts_path(directory: pathlib.Path, step: int, ending: str) -> pathlib.Path:
    """<run>/rollouts/step_N.<ending>, in which ending is ROWS or RECORDED."""
    return directory / "rollouts" / f"step_{step:06d}.{ending}"


def write_rows(directory: pathlib.Path, step: int, rows: list[dict]) -> None:
    """Writes one row per response, for people; identical rows give identical bytes."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = rollouts_path(directory, step, ROWS)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_file(path, gzip.compress(data, compresslevel=1, mtime=0))


def write(directory: pathlib.Path, step: int, collected: Collected) -> None:
    """Writes token ids, log-probs, problem ids and which prompts were labelled; equal rollouts give equal bytes."""
    rollouts = collected.rollouts
    path = rollouts_path(directory, step, RECORDED)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replaced_file(path) as file:
        np.savez_compressed(
            file,
            ids=np.array([problem.id for problem in collected.problems]),
            prompts=np.concatenate([np.asarray(prompt, np.int32) for prompt in rollouts.prompts]),
            prompt_lengths=np.array([len(prompt) for prompt in rollouts.prompts]),
            labelled=np.array([graded.labelled for graded in collected.graded]),
            version=rollouts.version,
            rounds=collected.rounds,
            **{name: getattr(rollouts, name) for name in ARRAYS},
        )


def read(path: pathlib.Path, problems: Mapping[str, Problem], grading: Grading) -> Collected:
    """The rollouts that `write` recorded, graded again. `problems` by id; raises KeyError where one is missing."""
    with np.load(path) as saved:
        arrays = dict(saved)
    ends = np.cumsum(arrays["prompt_lengths"])[:-1]
    rollouts = Rollouts(
        [prompt.tolist() for prompt in np.split(arrays["prompts"], ends)],
        **{name: arrays[name] for name in ARRAYS},
        version=int(arrays["version"]),
    )
    chosen = [problems[id] for id in arrays["ids"].tolist()]
    rows = zip(chosen, rollouts.prompts, rollouts.responses(), rollouts.stopped, strict=True)
    graded = [grading(*row) for row in rows]
    # Resampling may have taken labels away.
    graded = [dataclasses.replace(g, labelled=bool(flag)) for g, flag in zip(graded, arrays["labelled"], strict=True)]
    return Collected(chosen, rollouts, graded, {"sample": 1.0, "grade": 0.0}, int(arrays["rounds"]))
