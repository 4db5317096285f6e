"""Shared by tests: a small experiment on the miniature base model, and marks for the fast cases of a test."""

import functools
import json
import pathlib
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from srt_jax.config import base, source
from srt_jax.reward import rewards
from srt_jax.reward.labels import BY_VOTE

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


@functools.cache
def may_mount() -> bool:
    """Tells whether this user may mount a file system in a namespace of the process's own."""
    command = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /tmp"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


# Arguments of `python -m srt_jax.main` for a run with small steps and without evaluations.
SMALL_RUN = (
    "--config=configs/quickstart.py",
    "--config.batch.prompts_per_step=4",
    "--config.batch.samples_per_prompt=4",
    "--config.batch.microbatch_sequences=16",
    "--config.rollout.prompts_per_call=4",
    "--config.eval.sets={}",
)


def small_config(model: pathlib.Path, out: pathlib.Path, name: str, steps: int) -> ConfigDict:
    """A run of 8 prompts x 8 samples on 8 simulated devices, which takes seconds."""
    config = base()
    config.name, config.out, config.steps = name, str(out), steps
    config.model.path, config.model.dtype, config.model.remat = str(model), "float32", "none"
    config.data = source(path=str(model / "train.jsonl"), limit=64)
    config.prompts.template, config.prompts.plain_template, config.prompts.instruction = "plain", "{problem}=", ""
    config.batch.prompts_per_step, config.batch.samples_per_prompt = 8, 8
    config.batch.max_prompt_tokens, config.batch.max_response_tokens = 10, 18
    config.batch.microbatch_sequences, config.batch.length_buckets = 32, (28,)
    config.rollout.prompts_per_call, config.rollout.prompt_buckets, config.rollout.old_logprobs = 8, (10,), "sampler"
    config.optimizer.learning_rate = 2e-4
    with config.eval.unlocked():
        config.eval.sets.heldout = source(path=str(model / "heldout.jsonl"), limit=8)
    config.eval.samples, config.eval.every, config.checkpoint.every = 4, 100, 100
    return config


def fast_cases(cases, *fast) -> list:
    """All cases as parameters of a test. `launch/test.sh --fast` runs only the cases in `fast`."""
    assert {*fast} <= {*cases}, f"no such case among {list(cases)}"
    return [pytest.param(case, marks=() if case in fast else pytest.mark.slow) for case in cases]


def from_json(text: str) -> ConfigDict:
    """A config from the JSON of `to_json_best_effort`."""
    return ConfigDict(json.loads(text)).lock()


def graded_together(problems, answers, grader, settings=BY_VOTE, lengths=None, stopped=None) -> SimpleNamespace:
    """Each problem graded by `rewards.grade`: `parts`, and their fields as lists over the prompts or arrays [P, n]."""
    rows = zip(problems, answers, lengths or [None] * len(problems), stopped or [None] * len(problems), strict=True)
    parts = [rewards.grade(p, a, grader, settings, length, stop) for p, a, length, stop in rows]
    arrays = ("shaped", "rewards", "kept", "labelled", "true_rewards", "majority_correct", "label_correct")
    return SimpleNamespace(
        parts=parts,
        groups=[g.groups for g in parts],
        votes=[g.vote for g in parts],
        labels=[g.label.text for g in parts],
        sources=[g.label.source for g in parts],
        **{name: np.array([getattr(g, name) for g in parts]) for name in arrays},
    )
