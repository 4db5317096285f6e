"""Runs that hang are stopped with the stacks of their threads, and go on from the last finished step.

The hangs are real: a user's function that sleeps, one that keeps Python's global lock, a program of the devices that
never ends. They begin after four steps. The limit is six seconds, six times as many while a run starts.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from srt_jax.run import watchdog
from tests.helpers import REPOSITORY, SMALL_RUN

pytestmark = pytest.mark.slow
HANGS = """
import json, os, pathlib, re, time

import jax

from srt_jax.rl.advantages import rloo

def due():
    records = pathlib.Path(os.environ["RUN"], "metrics.jsonl")
    return records.exists() and len(records.read_bytes().splitlines()) > 4 and "HANG" in os.environ

def sleeps(answers, label, responses, truth):
    while due():
        time.sleep(1)
    return [float(answer is not None and answer == label) for answer in answers]

def keeps_the_lock(answers, label, responses, truth):
    if due():
        re.fullmatch("(a+)+b", "a" * 60)
    return sleeps(answers, label, responses, truth)

def waits(x):
    while due():
        time.sleep(1)
    return x

def in_the_update(returns, trained):
    return rloo(jax.pure_callback(waits, jax.ShapeDtypeStruct(returns.shape, returns.dtype), returns))
"""
ARGUMENTS = (
    *SMALL_RUN,
    "--config.checkpoint.every=2",
    "--config.stop.hang_seconds=6",
    "--config.steps=6",
    "--config.name=run",
)


class Process:
    """A run in a process of its own, whose reward or advantage is one of HANGS."""

    def __init__(self, untrained, out, hang, *arguments):
        (out / "hangs.py").write_text(HANGS)
        field = "rl.advantage" if hang == "in_the_update" else "reward.shape"
        command = [sys.executable, "-m", "srt_jax.main", *ARGUMENTS, f"--config.out={out}", *arguments]
        command += [f"--config.model.path={untrained}", f"--config.data.path={untrained}/train.jsonl"]
        command += [f"--config.{field}=hangs:{hang}"]
        self.environment = {**os.environ, "JAX_PLATFORMS": "cpu", "RUN": f"{out}/run", "PYTHONPATH": str(out)}
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**self.environment, "HANG": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self):
        """(exit status, stderr) at the end of the process."""
        try:
            _, errors = self.process.communicate(timeout=200)
        finally:
            self.process.kill()
        return self.process.returncode, errors


# hang -> (phase, the newest checkpoint, a function in the stacks)
KINDS = {"sleeps": ("sample", 4, "in sleeps"), "in_the_update": ("update", 4, "in waits")}


@pytest.mark.parametrize("hang", KINDS)
def test_a_run_that_hangs_is_stopped_and_the_printed_command_resumes_it(hang, untrained, tmp_path):
    phase, step, function = KINDS[hang]
    run = Process(untrained, tmp_path, hang, *(["--config.checkpoint.every=3"] if hang == "sleeps" else []))
    status, errors = run.ended()
    assert status == watchdog.STATUS, errors
    first, second = [line for line in errors.splitlines() if line][-2:]
    # Ten median steps may be longer than hang_seconds on a busy machine, so the time has any number of seconds.
    hangs = rf"the run hangs: no progress for \d+:\d\d in phase `{phase}` after step 4 \(limit"
    assert re.match(hangs, first), first
    assert second.startswith(f"stopped: the checkpoint of step {step} is complete; this command resumes the run: ")
    stacks = (tmp_path / "run/hang.log").read_text()
    assert function in stacks and "in train_loop" in stacks and "is MainThread" in stacks
    command = shlex.split(second.rpartition("resumes the run: ")[2])
    again = subprocess.run(
        command, cwd=REPOSITORY, env=run.environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert again.returncode == 0 and f"resuming from step {step} of 6" in again.stdout, again.stderr
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(7))


@pytest.mark.long
def test_a_function_that_keeps_the_global_lock_ends_the_process_with_its_stacks(untrained, tmp_path):
    status, errors = Process(untrained, tmp_path, "keeps_the_lock").ended()
    assert status == -signal.SIGPROF, errors
    assert "in keeps_the_lock" in (tmp_path / "run/hang.log").read_text()


@pytest.mark.long
def test_a_run_that_was_suspended_has_not_hung(untrained, tmp_path):
    run = Process(untrained, tmp_path, "sleeps", "--config.steps=4")
    records = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 100
    while not (records.exists() and records.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.process.send_signal(signal.SIGSTOP)
    time.sleep(8)
    run.process.send_signal(signal.SIGCONT)
    status, errors = run.ended()
    assert status == 0, errors
    assert not (tmp_path / "run/hang.log").exists()


@pytest.mark.parametrize(
    ("phase", "steps", "at_least", "wanted"),
    [
        ("sample", [1.0, 2.0, 3.0], 0.0, 600.0),
        ("update", [100.0, 20.0, 300.0], 0.0, 1000.0),
        ("update", [1.0, 1.0], 0.0, 3600.0),  # the first steps
        ("start", [], 0.0, 3600.0),
        ("eval", [500.0] * 9, 0.0, 5000.0),
        ("sample", [1.0] * 9, 3732.0, 3732.0),  # a vLLM server has its own limits
    ],
)
def test_the_limit_follows_the_median_and_the_phase(phase, steps, at_least, wanted):
    assert watchdog.limit(600.0, phase, steps, at_least) == wanted


def test_the_activity_is_that_of_the_phase_with_the_share_of_this_step(tmp_path):
    dog = watchdog.Watchdog(tmp_path, 0)
    assert dog.activity() == ""
    for share in (0.4, 1.0):
        dog.progress("sample")
        assert dog.activity() == "sampling"  # the share of the last step does not count
        dog.sampled(share, 10)
        assert dog.activity() == ("sampling 40%" if share < 1 else "sampling")
    dog.progress("update")
    assert dog.activity() == "updating"
