"""Processes of a run die, hang or never come: all others end with a sentence, and the last checkpoint stays whole."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from srt_jax.run import parent
from srt_jax.run.checkpoint import Checkpoints
from srt_jax.run.watchdog import STATUS
from srt_jax.runtime.place import Place, place_of
from tests.helpers import SMALL_RUN
from tests.several_processes import is_gone, start

PEER_SECONDS, JOIN_SECONDS = 6.0, 8.0

# A trainer that only joins the others and waits in collectives, below a parent.
WAITS = """
import pathlib, sys, time
import numpy as np
from srt_jax import runtime
from srt_jax.run import interrupt, parent
folder, peer_seconds, join_seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
parent.obey()
if parent.needed():
    sys.exit(parent.watch(folder, peer_seconds, join_seconds, *map(float, sys.argv[6:])))
(folder / "started").mkdir(exist_ok=True)
import os
place = runtime.start(1, peer_seconds=peer_seconds, join_seconds=join_seconds)
parent.report_joined(place)
from jax.experimental import multihost_utils
def work():
    for step in range(10_000):
        multihost_utils.process_allgather(np.asarray(step))
        (folder / "started" / str(place.index)).write_text(str(os.getpid()))
        if sys.argv[4:5] == [str(place.index)]:
            print("error: this trainer has a mistake", file=sys.stderr)
            sys.exit(int(sys.argv[5]))
        time.sleep(0.05)
parent.leave_at_once(lambda: sys.exit(interrupt.run(work, "stopped")))
"""


def start_waiting(folder: pathlib.Path, count: int = 2, indices=None, more: tuple[str, ...] = ()):
    command = [sys.executable, "-c", WAITS, str(folder), str(PEER_SECONDS), str(JOIN_SECONDS), *more]
    return start(count, command, indices)


def trainers(folder: pathlib.Path, started: list[subprocess.Popen]) -> list[int]:
    """The process ids of the trainers, when all wait in collectives."""
    files = [folder / "started" / str(index) for index in range(len(started))]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files), started)
    return [int(file.read_text()) for file in files]


def wait_for(happened, started: list[subprocess.Popen], seconds: float = 200.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        ended = [process for process in started if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            for process in started:
                process.kill()
            pytest.fail(f"ended or too slow: {[process.communicate() for process in started]}")
        time.sleep(0.05)


@contextlib.contextmanager
def ending(started: list[subprocess.Popen]):
    """Kills what is left of these processes; their trainers die with them."""
    try:
        yield
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()


def end_of(process: subprocess.Popen, seconds: float = 60.0) -> tuple[int, str]:
    """(exit status, stderr) of a process that must end within the time."""
    _, errors = process.communicate(timeout=seconds)
    return process.returncode, errors


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_trainer_ends_the_others(tmp_path, victim):
    started = start_waiting(tmp_path)
    with ending(started):
        pids = trainers(tmp_path, started)
        os.kill(pids[victim], signal.SIGKILL)
        (status, said), (other_status, other_said) = (end_of(started[i]) for i in (victim, 1 - victim))
        assert all(map(is_gone, pids))
    assert (status, other_status) == (STATUS, STATUS)
    for text in (said, other_said):
        assert re.search(
            rf"the run ends: process {victim} on \S+ was killed by SIGKILL; start all processes again", text
        )
        assert text.rstrip().endswith(" ".join(map(str, (PEER_SECONDS, JOIN_SECONDS))))  # the command


def test_process_0_passes_on_what_it_finds(tmp_path):
    """Process 1 reads no record but that of process 0, and still names process 2."""
    started = start_waiting(tmp_path, 3)
    with ending(started):
        pids = trainers(tmp_path, started)
        os.kill(pids[2], signal.SIGKILL)
        ends = list(map(end_of, started))
        assert all(map(is_gone, pids))
    for status, said in ends:
        assert status == STATUS and re.search(r"the run ends: process 2 on \S+ was killed by SIGKILL; ", said)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_parent_ends_all(tmp_path, victim):
    """As if its host had lost power: nothing reports the death, so the others wait for peer_seconds."""
    started = start_waiting(tmp_path)
    with ending(started):
        pids = trainers(tmp_path, started)
        started[victim].kill()
        status, said = end_of(started[1 - victim])
        assert all(map(is_gone, pids))
    assert status == STATUS
    assert re.search(rf"process {victim} on \S+ gave no sign of life for 6 s; ", said)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_suspended_trainer_is_found(tmp_path, victim):
    started = start_waiting(tmp_path)
    with ending(started):
        pids = trainers(tmp_path, started)
        os.kill(pids[victim], signal.SIGSTOP)
        ends = [end_of(process) for process in started]
        assert all(map(is_gone, pids))
    for status, said in ends:
        assert status == STATUS and re.search(rf"process {victim} on \S+ was suspended for 6 s; ", said)


def test_a_suspended_host_is_found(tmp_path):
    """The parent and its trainer are suspended, as by a machine that swaps for minutes."""
    started = start_waiting(tmp_path)
    with ending(started):
        pids = trainers(tmp_path, started)
        for pid in (started[1].pid, pids[1]):
            os.kill(pid, signal.SIGSTOP)
        status, said = end_of(started[0])
        assert is_gone(pids[0])
    assert status == STATUS and re.search(r"process 1 on \S+ gave no sign of life for 6 s; ", said)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_process_that_never_comes_is_named(tmp_path, missing):
    """Without the coordinator (0) the others cannot join; without another one the coordinator waits in a barrier."""
    (started,) = start_waiting(tmp_path, indices=(1 - missing,))
    with ending([started]):
        status, said = end_of(started)
    assert status == STATUS
    assert re.search(rf"process {missing} has not started within 8 s \(stop\.join_seconds\), or does not share ", said)


def test_a_port_that_is_blocked(tmp_path):
    """The parents see each other, but the second trainer looks for the first one at a port where nobody answers."""
    more = ("", "", "4")  # seconds for the start of a trainer
    started = [*start_waiting(tmp_path, indices=(0,), more=more), *start_waiting(tmp_path, indices=(1,), more=more)]
    with ending(started):
        ends = list(map(end_of, started))
    for status, said in ends:
        assert status == STATUS
        assert re.search(r"the trainers have not come together at localhost:\d+ within 12 s, although their ", said)


def test_a_trainer_that_refuses_its_input_ends_the_others(tmp_path):
    started = start_waiting(tmp_path, more=("1", "2"))
    with ending(started):
        (status, said), (other_status, other_said) = map(end_of, started)
    # The collective of the first one fails at once, or does not: that depends on the moment.
    assert (status, other_status) in ((STATUS, 2), (1, 2))
    assert status == 1 or re.search(r"process 1 on \S+ ended with status 2; ", said)
    assert "error: this trainer has a mistake" in other_said and "the run ends" not in other_said


def test_a_signal_to_a_parent_reaches_its_trainer(tmp_path):
    started = start_waiting(tmp_path)
    with ending(started):
        trainers(tmp_path, started)
        for process in started:
            process.send_signal(signal.SIGTERM)
        ends = list(map(end_of, started))
    assert [status for status, _ in ends] == [130, 130]
    assert all("stopped" in said and "the run ends" not in said for _, said in ends)


def test_records_of_an_earlier_start_are_ignored(tmp_path):
    old = parent.Record(tmp_path, 0, 1)
    old.renew(ended="was killed by SIGKILL", verdict="process 3 on h was killed by SIGKILL")
    peer = parent.Peer(tmp_path, 0)
    for _ in range(3):
        peer.look(1.0)
    assert (peer.seen, peer.verdict(), peer.ended(), peer.silent) == (False, None, None, 3.0)
    new = parent.Record(tmp_path, 0, 2)
    peer.look(1.0)
    assert (peer.seen, peer.verdict(), peer.ended(), peer.silent) == (True, None, None, 0.0)
    new.renew(ended="ended with status 2")
    peer.look(1.0)
    assert peer.orderly() and re.fullmatch(r"process 0 on \S+ ended with status 2", peer.ended())


def test_a_record_that_is_removed_belongs_to_a_process_that_is_done(tmp_path):
    record, peer = parent.Record(tmp_path / "processes", 0, 1), parent.Peer(tmp_path / "processes", 0)
    peer.look(1.0)
    assert not peer.done
    record.renew()
    peer.look(1.0)
    record.remove()
    peer.look(1.0)
    assert peer.done and peer.ended() is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "environment, place",
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}, Place(3, 4, "")),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, Place(1, 2, "")),
        ({"SRT_PROCESSES": "auto"}, Place(None, None, "")),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            Place(1, 2, "h:1"),
        ),
    ],
)
def test_the_place_in_a_run(environment, place):
    assert place_of(environment) == place
    assert parent.needed(environment) == (place is not None)
    assert not parent.needed(environment | {parent.VARIABLE: "1:3"})


def test_a_run_continues_after_each_of_its_processes_was_killed(miniature, tmp_path):
    """The real trainer, with a checkpoint after every step."""
    out = tmp_path / "runs"
    command = [
        *(sys.executable, "-m", "srt_jax.main", *SMALL_RUN, f"--config.out={out}", "--config.name=run"),
        *(f"--config.model.path={miniature}", f"--config.data.path={miniature}/train.jsonl"),
        *("--config.checkpoint.every=1", "--config.mesh.cpu_devices=2", "--config.mesh.fsdp=4"),
        f"--config.stop.peer_seconds={PEER_SECONDS}",
    ]
    directory = out / "run"

    def last_step() -> int:
        records = (directory / "metrics.jsonl").read_text().splitlines() if directory.exists() else []
        return json.loads(records[-1])["step"] if records else 0

    resumed = 0
    for victim in (1, 0):
        started = start(2, [*command, "--config.steps=1000"])
        with ending(started):
            begun = last_step() + 3
            wait_for(lambda begun=begun: (directory / "metrics.jsonl").exists() and last_step() >= begun, started)
            record = json.loads((directory / "processes" / f"{victim}.json").read_text())
            os.kill(record["pid"], signal.SIGKILL)
            (printed, _), *_ = ends = [process.communicate(timeout=60) for process in started]
        assert [process.returncode for process in started] == [STATUS, STATUS]
        for _, said in ends:
            assert f"process {victim} on " in said and "was killed by SIGKILL; start all" in said
        assert not resumed or f"resuming from step {resumed} of 1000" in printed
        step, damaged = Checkpoints(directory).newest_whole()
        assert step > resumed and not damaged
        resumed = step
