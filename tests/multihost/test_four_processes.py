"""Four real trainers, with the default limits: each dies in turn, one is suspended, the coordinator never comes."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from srt_jax.run.checkpoint import Checkpoints
from srt_jax.run.metrics_log import read_metrics
from srt_jax.run.watchdog import STATUS
from tests.helpers import SMALL_RUN
from tests.multihost.test_parents import end_of, ending, wait_for
from tests.several_processes import are_gone, finish, start

LIMIT = 60  # seconds in which all others must end


def begin(model, out: pathlib.Path, processes: int, steps: int, indices=None) -> list[subprocess.Popen]:
    """Starts or resumes the run in so many processes, with four devices in all."""
    command = [
        *(sys.executable, "-m", "srt_jax.main", *SMALL_RUN, f"--config.out={out}", "--config.name=run"),
        *(f"--config.model.path={model}", f"--config.data.path={model}/train.jsonl", "--config.mesh.fsdp=4"),
        *("--config.checkpoint.every=1", f"--config.mesh.cpu_devices={4 // processes}"),
        *("--allow_change=mesh.cpu_devices", f"--config.steps={steps}"),
    ]
    return start(processes, command, indices)


def check_ends(started: list[subprocess.Popen], victim: int, sentence: str) -> str:
    """All processes but the victim end within LIMIT, and say why. Returns what the first one prints."""
    begun, printed = time.monotonic(), ""
    for index, process in enumerate(started):
        if index != victim:
            text, said = process.communicate(timeout=2 * LIMIT)
            seconds, printed = time.monotonic() - begun, printed or text
            assert process.returncode == STATUS, said
            assert re.search(rf"the run ends: process {victim}( on \S+)? {sentence}.*JAX_PROCESS_ID={index} ", said), (
                said
            )
    print(f"process {victim} {sentence}: all others have ended after {seconds:.1f} s")
    assert seconds < LIMIT
    return printed


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_each_of_four_dies_in_turn_and_the_run_continues_on_four_two_and_one(miniature, tmp_path):
    directory, step = tmp_path / "run", 0
    silent = r"gave no sign of life for 30 s[;,]"
    faults = [  # (victim, whether its parent gets the signal, its trainer, the signal, the sentence of the others)
        (0, True, False, signal.SIGKILL, silent),
        (1, False, True, signal.SIGKILL, "was killed by SIGKILL;"),
        (2, True, False, signal.SIGKILL, silent),
        (3, False, True, signal.SIGKILL, "was killed by SIGKILL;"),
        (1, True, True, signal.SIGSTOP, silent),
    ]
    for victim, to_parent, to_trainer, number, sentence in faults:
        started = begin(miniature, tmp_path, 4, 1000)
        with ending(started):
            wait_for(lambda step=step: Checkpoints(directory).steps()[-1:] > [step], started, seconds=600)
            pids = [json.loads((directory / "processes" / f"{i}.json").read_text())["pid"] for i in range(4)]
            for pid in [started[victim].pid] * to_parent + [pids[victim]] * to_trainer:
                os.kill(pid, number)
            printed = check_ends(started, victim, sentence)
            assert not step or f"resuming from step {step} of 1000" in printed
            assert are_gone([pid for i, pid in enumerate(pids) if i != victim or number == signal.SIGKILL])
        newest, damaged = Checkpoints(directory).newest_whole()
        assert newest > step and not damaged
        step = newest
    for processes in (2, 1):
        printed = finish(begin(miniature, tmp_path, processes, step + 1))
        assert f"resuming from step {step} of {step + 1}" in printed[0][0]
        step += 1
    assert [record["step"] for record in read_metrics(directory) if record["step"]] == list(range(1, step + 1))


@pytest.mark.long
@pytest.mark.parametrize("missing", [0, 2])
def test_three_of_four_end_if_the_other_one_never_comes(miniature, tmp_path, missing):
    """They start at about the same time, and stop.join_seconds is 50."""
    started = begin(miniature, tmp_path, 4, 1000, [index for index in range(4) if index != missing])
    with ending(started):
        begun = time.monotonic()
        ends = list(map(end_of, started))
        seconds = time.monotonic() - begun
    print(f"process {missing} is missing: {seconds:.1f} s")
    for status, said in ends:
        assert status == STATUS and f"process {missing} has not started within 50 s (stop.join_seconds)" in said, said
    assert seconds < LIMIT
    assert not (tmp_path / "run" / "checkpoints").exists()
