"""Processes of a run die, hang or never come: all others end with a sentence, and the last checkpoint stays whole."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from srt_jax.errors import ConfigError, FolderInUseError
from srt_jax.run import parent
from srt_jax.run.checkpoint import Checkpoints
from srt_jax.run.metrics_log import read_metrics
from srt_jax.run.watchdog import STATUS
from srt_jax.runtime.place import Place, place_of
from tests.helpers import SMALL_RUN
from tests.several_processes import are_gone, finish, start

# Seconds. The long limits are for tests whose faults show before a limit: a busy machine must not reach them.
PEER_SECONDS, LONG_PEER_SECONDS, JOIN_SECONDS, LONG_JOIN_SECONDS = 6, 60, 3, 120
START_SECONDS, BLAME_SECONDS = 60, 2  # BLAME_SECONDS beside PEER_SECONDS, else parent.BLAME

# A trainer that only joins the others and waits in collectives, below a parent.
WAITS = """
import pathlib, sys, time
from srt_jax.run import interrupt, parent
assert "jax" not in sys.modules  # a parent starts without it
folder, (peer_seconds, join_seconds, *more) = pathlib.Path(sys.argv[1]), map(float, sys.argv[2:6])
parent.obey()
if parent.needed():
    job = parent.training(folder)
    # As below the command `srt`, which reads signals in a thread.
    sys.exit(interrupt.run(lambda: parent.watch(job, peer_seconds, join_seconds, *more), "the parent has stopped"))
(folder / "started").mkdir(exist_ok=True)
import os
import numpy as np
from srt_jax import runtime
place = runtime.start(1, peer_seconds=peer_seconds, join_seconds=join_seconds)
parent.report_joined(place)
from jax.experimental import multihost_utils
def work():
    for step in range(10_000):
        multihost_utils.process_allgather(np.asarray(step))
        (folder / "started" / str(place.index)).write_text(str(os.getpid()))
        if sys.argv[6:] == [str(place.index)]:
            print("error: this trainer has a mistake", file=sys.stderr)
            sys.exit(2)
        time.sleep(0.05)
parent.leave_at_once(lambda: sys.exit(interrupt.run(work, "stopped")))
"""


# A trainer that ends with a status when the parents of two processes have seen each other, and both trainers run. A
# negative status is for a signal.
ENDS = """
import json, os, pathlib, sys, time
from srt_jax.run import parent
folder = pathlib.Path(sys.argv[1])
if parent.needed():
    sys.exit(parent.watch(parent.training(folder), 60, 120))
parent.obey()
(folder.parent / os.environ["JAX_PROCESS_ID"]).touch()
def ready(index):
    path = folder / "processes" / f"{index}.json"
    text = path.read_text() if path.exists() else ""
    return (folder.parent / str(index)).exists() and text.strip() and json.loads(text)["beat"] > 5
while not (ready(0) and ready(1)):
    time.sleep(0.1)
status = int(sys.argv[2:][int(os.environ["JAX_PROCESS_ID"])])
os.kill(os.getpid(), -status) if status < 0 else sys.exit(status)
"""


def start_waiting(
    folder: pathlib.Path,
    count: int = 2,
    indices=None,
    peer_seconds: int = LONG_PEER_SECONDS,
    join_seconds: int = LONG_JOIN_SECONDS,
    start_seconds: int = START_SECONDS,
    refuses: str = "",
) -> list[subprocess.Popen]:
    """refuses: the index of the process that refuses its input after it has joined the others."""
    blame_seconds = BLAME_SECONDS if peer_seconds == PEER_SECONDS else parent.BLAME
    limits = map(str, (peer_seconds, join_seconds, start_seconds, blame_seconds))
    return start(count, [sys.executable, "-c", WAITS, str(folder), *limits, refuses], indices)


def trainers(folder: pathlib.Path, started: list[subprocess.Popen]) -> list[int]:
    """The process ids of the trainers, when all wait in collectives."""
    files = [folder / "started" / str(index) for index in range(len(started))]
    texts: list[str] = []

    def all_wait() -> bool:
        texts[:] = [file.read_text() if file.exists() else "" for file in files]
        return all(texts)

    wait_for(all_wait, started)
    return list(map(int, texts))  # not read again: a trainer empties its file for a moment at each step


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


def end_of(process: subprocess.Popen, seconds: float = 120.0) -> tuple[int, str]:
    """(exit status, stderr) of a process that must end within the time."""
    _, errors = process.communicate(timeout=seconds)
    return process.returncode, errors


def test_a_killed_trainer_ends_the_others(tmp_path):
    started = start_waiting(tmp_path)
    with ending(started):
        pids = trainers(tmp_path, started)
        os.kill(pids[0], signal.SIGKILL)
        ends = [end_of(process) for process in started]
        assert are_gone(pids)
    for index, (status, said) in enumerate(ends):
        assert status == STATUS
        sentence = r"the run ends: process 0 on \S+ was killed by SIGKILL; start all processes again"
        assert re.search(sentence, said), said
        command = rf"JAX_COORDINATOR_ADDRESS=localhost:\d+ JAX_NUM_PROCESSES=2 JAX_PROCESS_ID={index} \S+python"
        assert re.search(command, said)
        limits = (LONG_PEER_SECONDS, LONG_JOIN_SECONDS, START_SECONDS, parent.BLAME)
        assert said.rstrip().endswith(" ".join(map(str, (tmp_path, *limits, "''"))))


# A host that loses power reports nothing. The trainers of the others fail at once or hang.


@pytest.mark.parametrize("victim, count", [(0, 2), pytest.param(1, 2, marks=pytest.mark.long), (2, 3)])
def test_a_killed_parent_ends_all(tmp_path, victim, count):
    """Process 1 of three reads no record but that of process 0, and still names process 2."""
    started = start_waiting(tmp_path, count, peer_seconds=PEER_SECONDS)
    with ending(started):
        pids = trainers(tmp_path, started)
        started[victim].kill()
        ends = [end_of(process) for index, process in enumerate(started) if index != victim]
        assert are_gone(pids)
    for status, said in ends:
        assert status == STATUS
        assert re.search(rf"process {victim}( on \S+)? gave no sign of life for 6 s[;,] ", said), said


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_suspended_trainer_is_found(tmp_path, victim):
    started = start_waiting(tmp_path, peer_seconds=PEER_SECONDS)
    with ending(started):
        pids = trainers(tmp_path, started)
        os.kill(pids[victim], signal.SIGSTOP)
        ends = [end_of(process) for process in started]
        assert are_gone(pids)
    for status, said in ends:
        assert status == STATUS, said
        assert re.search(rf"process {victim} on \S+ was suspended for 6 s; ", said), said


@pytest.mark.long
def test_a_suspended_host_is_found(tmp_path):
    """The parent and its trainer are suspended, as by a machine that swaps for minutes."""
    started = start_waiting(tmp_path, peer_seconds=PEER_SECONDS)
    with ending(started):
        pids = trainers(tmp_path, started)
        for pid in (started[1].pid, pids[1]):
            os.kill(pid, signal.SIGSTOP)
        status, said = end_of(started[0])
        assert are_gone(pids[:1])
    assert status == STATUS, said
    assert re.search(r"process 1( on \S+)? gave no sign of life for 6 s[;,] ", said), said


@pytest.mark.parametrize("missing", [0, 1])
def test_a_process_that_never_comes_is_named(tmp_path, missing):
    """Without the coordinator (0) the others cannot join; without another one the coordinator waits in a barrier."""
    (started,) = start_waiting(tmp_path, indices=(1 - missing,), join_seconds=JOIN_SECONDS)
    with ending([started]):
        status, said = end_of(started)
    assert status == STATUS
    assert re.search(rf"process {missing} has not started within 3 s \(stop\.join_seconds\), or does not share ", said)


@pytest.mark.long
def test_a_port_that_is_blocked(tmp_path):
    """The parents see each other, but the second trainer looks for the first one at a port where nobody answers."""
    limits = {"join_seconds": 20, "start_seconds": 4}
    started = [start_waiting(tmp_path, indices=(index,), **limits)[0] for index in (0, 1)]
    with ending(started):
        ends = list(map(end_of, started))
    for status, said in ends:
        assert status == STATUS
        assert re.search(r"the trainers have not come together at localhost:\d+ within 24 s, although their ", said)


def test_a_trainer_that_refuses_its_input_ends_the_others(tmp_path):
    """The collective of the first one fails at once or hangs: that depends on the moment."""
    started = start_waiting(tmp_path, refuses="1")
    with ending(started):
        (status, said), (other_status, other_said) = map(end_of, started)
    assert (status, other_status) == (STATUS, 2)
    assert re.search(r"process 1 on \S+ ended with status 2; ", said)
    assert "error: this trainer has a mistake" in other_said and "the run ends" not in other_said


def test_a_run_whose_processes_all_refuse_their_input_leaves_no_folder(tmp_path):
    started = start(2, [sys.executable, "-c", ENDS, str(tmp_path / "run"), "2", "2"])
    with ending(started):
        ends = list(map(end_of, started))
    assert [status for status, _ in ends] == [2, 2], ends
    assert not (tmp_path / "run").exists()


def test_a_death_that_looks_like_wrong_input(tmp_path):
    """A checkpoint that two processes write fails with status 2 if one of them is killed."""
    started = start(2, [sys.executable, "-c", ENDS, str(tmp_path / "run"), "2", "-9"])
    with ending(started):
        ends = list(map(end_of, started))
    for status, said in ends:
        assert status == STATUS, said
        assert re.search(r"the run ends: process 1 on \S+ was killed by SIGKILL; ", said), said
    assert not (tmp_path / "run/processes").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_crash_after_the_death_of_another_names_the_other(tmp_path, victim):
    """XLA's threads may read memory that is gone when a collective fails."""
    statuses = ["-11", "-11"]
    statuses[victim] = "-9"
    started = start(2, [sys.executable, "-c", ENDS, str(tmp_path / "run"), *statuses])
    with ending(started):
        ends = list(map(end_of, started))
    for status, said in ends:
        assert status == STATUS
        assert re.search(rf"the run ends: process {victim} on \S+ was killed by SIGKILL; ", said), said


def test_a_crash_of_a_process_is_its_own_fault(tmp_path):
    """The other one's collective fails."""
    started = start(2, [sys.executable, "-c", ENDS, str(tmp_path / "run"), "70", "-11"])
    with ending(started):
        ends = list(map(end_of, started))
    for status, said in ends:
        assert status == STATUS
        assert re.search(r"the run ends: process 1 on \S+ was killed by SIGSEGV; ", said), said


# A trainer of three. The first two end with status 2 as soon as the file `dead` exists, as if a checkpoint had failed.
REFUSE = """
import os, pathlib, sys, time
from srt_jax.run import parent
folder = pathlib.Path(sys.argv[1])
if parent.needed():
    sys.exit(parent.watch(parent.training(folder), float(sys.argv[2]), 120))
parent.obey()
(folder.parent / os.environ["JAX_PROCESS_ID"]).touch()
while os.environ["JAX_PROCESS_ID"] == "2" or not (folder.parent / "dead").exists():
    time.sleep(0.1)
sys.exit(2)
"""


def test_a_dead_parent_among_three_is_named_although_the_other_trainers_end_with_status_2(tmp_path):
    """Process 0 alone sees process 2, and finds it silent after PEER_SECONDS. Process 1 waits for that."""
    folder = tmp_path / "run"
    started = start(3, [sys.executable, "-c", REFUSE, str(folder), str(PEER_SECONDS)])
    with ending(started):
        wait_for(lambda: all((tmp_path / str(index)).exists() for index in range(3)), started)
        wait_for(lambda: all(beats(folder, index) > 5 for index in range(3)), started)
        started[2].kill()
        (tmp_path / "dead").touch()
        for process in started[:2]:
            status, said = end_of(process)
            assert status == STATUS
            assert re.search(rf"the run ends: process 2 on \S+ gave no sign of life for {PEER_SECONDS} s;", said), said


def beats(folder: pathlib.Path, index: int) -> int:
    """The number of signs of life in a parent's record, 0 before the first one."""
    return record_in(folder, index).get("beat", 0)


def record_in(folder: pathlib.Path, index: int) -> dict:
    """A parent's record, {} before the first sign of life."""
    path = folder / "processes" / f"{index}.json"
    text = path.read_text().strip() if path.exists() else ""
    return json.loads(text) if text else {}


@pytest.mark.parametrize("before", [None, "", "of an earlier start"])
def test_a_trainer_that_dies_in_its_first_second_is_named(tmp_path, before):
    """No other record of it was read than the last one."""
    path = tmp_path / "0.json"
    old = {"id": "old", "host": "a", "pid": 1, "beat": 9, "ended": "ended with status 1"}
    if before is not None:
        path.write_text(json.dumps(old) if before else "")
    peer = parent.Peer(tmp_path, 0)
    peer.look(1.0)
    assert peer.ended() is None and not peer.seen and peer.silent == 1.0
    path.write_text(json.dumps({**old, "id": "new", "beat": 2, "ended": "was killed by SIGKILL"}))
    peer.look(1.0)
    assert peer.ended() == "process 0 on a was killed by SIGKILL" and peer.silent == 0.0
    path.write_text(json.dumps({**old, "beat": 10, "ended": "ended with status 2"}))  # of another start
    peer.look(1.0)
    assert peer.ended() == "process 0 on a was killed by SIGKILL"


def test_a_signal_to_a_parent_reaches_its_trainer(tmp_path):
    started = start_waiting(tmp_path)
    with ending(started):
        trainers(tmp_path, started)
        started[1].send_signal(signal.SIGTERM)
        (status, said), (other_status, other_said) = map(end_of, started)
    assert other_status == 130 and "\nstopped\n" in other_said and "the run ends" not in other_said
    assert "\nthe parent has stopped\n" not in said + other_said
    assert status == STATUS
    assert re.search(r"the run ends: process 1 on \S+ was interrupted by a signal; start all", said), said


def test_a_signal_to_all_processes_ends_each_with_its_own_sentence(tmp_path):
    """As launchers do. The collectives of the slower trainer may fail before it reads the signal."""
    started = start_waiting(tmp_path)
    with ending(started):
        pids = trainers(tmp_path, started)
        # Suspended, they all get the signal before the first one ends. A parent may be late on a busy machine.
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: all("T" in status_of(pid, "State") for pid in pids), started)
        for process in started:
            process.send_signal(signal.SIGINT)
        interrupt = 1 << (signal.SIGINT - 1)
        wait_for(lambda: all(int(status_of(pid, "ShdPnd"), 16) & interrupt for pid in pids), started)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        ends = list(map(end_of, started))
    for status, said in ends:
        assert status == 130 and "\nstopped\n" in said, said
        assert "the run ends" not in said and "Traceback" not in said, said


def status_of(pid: int, field: str) -> str:
    """A field of a process's status, of its main thread: e.g. its state, and the signals that wait for it."""
    return re.search(rf"{field}:\s*(.*)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]


def test_records_of_an_earlier_start_are_ignored(tmp_path):
    old = parent.Record(tmp_path / "old", 0, 1)
    old.renew(ended="was killed by SIGKILL", verdict="process 3 on h was killed by SIGKILL")
    shutil.copy(tmp_path / "old" / "0.json", tmp_path)
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
    new.renew(ended=parent.INTERRUPTED)
    peer.look(1.0)
    assert peer.interrupted() and not peer.orderly()


def test_a_second_start_does_not_write_the_record_of_a_run_that_works(tmp_path):
    folder = tmp_path / "processes"
    job = parent.training(tmp_path)
    parent.check_not_started(job, Place(0, 2, "h:1"), 60)
    first, peer = parent.Record(folder, 0, 1), parent.Peer(folder, 0)
    peer.look(1.0)
    first.renew()
    second = parent.Record(folder, 0, 2)
    second.renew(ended="was killed by SIGKILL", verdict="process 3 on h was killed by SIGKILL")
    second.remove()
    peer.look(1.0)
    assert (second.is_ours(), peer.seen, peer.done, peer.ended(), peer.verdict()) == (False, True, False, None, None)
    assert json.loads((folder / "0.json").read_text())["pid"] == 1
    with pytest.raises(
        FolderInUseError, match=r"is used by process 1 on \S+, which is process 0 of another start: wait"
    ):
        parent.check_not_started(job, Place(0, 2, "h:1"), 60)
    os.close(first._descriptor)  # as at the end of the first process
    parent.check_not_started(job, Place(0, 2, "h:1"), 60)
    second.renew()
    assert second.is_ours() and json.loads((folder / "0.json").read_text())["pid"] == 2


def record_of_another_host(folder: pathlib.Path, index: int) -> parent.Record:
    """A record that is locked, as a file server locks that of another host."""
    record = parent.Record(folder, index, 77, count=2)
    record._fields |= {"host": "node7", "boot": "other"}
    record.renew()
    return record


def test_the_record_of_a_host_that_is_gone_is_replaced_although_it_is_locked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parent, "POLL", 0.05)
    folder = tmp_path / "processes"
    old = record_of_another_host(folder, 0)
    peer = parent.Peer(folder, 0)
    parent.check_not_started(parent.training(tmp_path), Place(0, 2, "h:1"), 0.5)
    said = f"process 77 on node7 has {folder}/0.json locked: if it gives no sign of life for 0 s, this start goes on"
    assert said in capsys.readouterr().err
    new = parent.Record(folder, 0, 2)
    assert new.is_ours() and not old.is_ours()
    peer.look(1.0)
    assert peer.seen and peer.id() == new.id
    old.renew()  # as after a suspension of its host
    old.remove()
    peer.look(1.0)
    assert json.loads((folder / "0.json").read_text())["pid"] == 2 and not peer.done
    assert {path.name for path in folder.iterdir()} == {"0.json", "1.json"}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]"])
def test_a_locked_record_that_says_nothing_is_replaced_when_it_stays_silent(content, tmp_path, monkeypatch, capsys):
    """Its host may have died before the first record was written."""
    monkeypatch.setattr(parent, "POLL", 0.05)
    folder = tmp_path / "processes"
    folder.mkdir()
    with (folder / "0.json").open("wb") as old:
        old.write(content)
        old.flush()
        fcntl.flock(old, fcntl.LOCK_EX)
        parent.check_not_started(parent.training(tmp_path), Place(0, 2, "h:1"), 0.3)
    assert f"another process has {folder}/0.json locked" in capsys.readouterr().err
    assert parent.Record(folder, 0, 2).is_ours()


def test_a_run_that_works_on_another_host_is_not_disturbed(tmp_path, monkeypatch):
    monkeypatch.setattr(parent, "POLL", 0.05)
    record, ended = record_of_another_host(tmp_path / "processes", 1), threading.Event()

    def renew() -> None:
        while not ended.wait(0.5):
            record.renew()

    beat = threading.Thread(target=renew)
    beat.start()
    try:
        with pytest.raises(FolderInUseError, match="is used by process 77 on node7, which is process 1 of another "):
            parent.check_not_started(parent.training(tmp_path), Place(1, 2, "h:1"), 60)
    finally:
        ended.set()
        beat.join()
    assert record.is_ours()


@pytest.mark.parametrize("lives", [False, True])
def test_a_process_whose_number_jax_has_found_replaces_the_record_of_a_host_that_is_gone(tmp_path, monkeypatch, lives):
    monkeypatch.setattr(parent, "POLL", 0.05)
    old = record_of_another_host(tmp_path, 0)
    new = parent.Record(tmp_path, 0, 2, patience=0.5)
    for _ in range(40):
        if lives:
            old.renew()
        new.renew()
        time.sleep(0.05)
    assert (old.is_ours(), new.is_ours()) == (lives, not lives)


@pytest.mark.parametrize("mine, other", [(0, 1), (1, 0)])
def test_a_process_that_starts_again_does_not_follow_the_others_of_the_earlier_start(tmp_path, mine, other):
    """They still live, and will find its earlier start silent."""
    earlier, living = (parent.Record(tmp_path / "old", index, 1, count=2) for index in (mine, other))
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    living._path = tmp_path / "new" / f"{other}.json"
    os.close(living._descriptor)
    living._descriptor = None
    again = parent.Record(tmp_path / "new", mine, 2, count=2)
    peer = parent.Peer(tmp_path / "new", other, again)
    silent = {"verdict": f"process {mine} on h gave no sign of life for 30 s"}
    for fields in ({"follows": {str(mine): earlier.id}}, silent):
        living.renew(**fields)
        peer.look(1.0)
        assert (peer.seen, peer.verdict(), peer.ended(), peer.silent) == (
            False,
            None,
            None,
            1.0 + bool(fields == silent),
        )
    new = parent.Record(tmp_path / "newer", other, 3, count=2)  # it starts after `again`, or before
    for follows in ({}, {str(mine): again.id}):
        new.renew(follows=follows)
        shutil.copy(tmp_path / "newer" / f"{other}.json", tmp_path / "new")
        peer.look(1.0)
        assert peer.seen and peer.id() == new.id and peer.silent == 0.0


# A trainer that ends when a file exists.
SLEEPS = """
import pathlib, sys, time
from srt_jax.run import parent
folder = pathlib.Path(sys.argv[1])
if parent.needed():
    sys.exit(parent.watch(parent.training(folder), float(sys.argv[2]), 120))
parent.obey()
while not (folder.parent / "end").exists():
    time.sleep(0.1)
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_starts_again_before_the_others_have_ended_waits_for_their_new_start(tmp_path, victim):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", SLEEPS, str(folder), str(PEER_SECONDS)]
    first = start(2, command)
    with ending(first):
        wait_for(lambda: all(beats(folder, index) > 5 for index in range(2)), first)
        first[victim].kill()
        first[victim].wait()
        (again,) = start(2, command, [victim])
        with ending([again]):
            status, said = end_of(first[1 - victim])
            assert status == STATUS
            assert re.search(rf"process {victim} on \S+ gave no sign of life for {PEER_SECONDS} s;", said), said
            time.sleep(3)
            assert again.poll() is None
            (other,) = start(2, command, [1 - victim])
            with ending([other]):
                follows = {str(victim), str(1 - victim)}
                wait_for(
                    lambda: {i for k in range(2) for i in record_in(folder, k).get("follows", ())} == follows, [again]
                )
                (tmp_path / "end").touch()
                assert end_of(again) == (0, "") and end_of(other) == (0, "")
    assert not folder.exists()


def test_a_second_start_is_ignored_on_a_file_system_without_locks(tmp_path):
    first, peer = parent.Record(tmp_path, 0, 1), parent.Peer(tmp_path, 0)
    peer.look(1.0)
    first.renew()
    peer.look(1.0)
    second = parent.Record(tmp_path / "other", 0, 2)
    second.renew(ended="was killed by SIGKILL", verdict="process 3 on h was killed by SIGKILL")
    shutil.copy(tmp_path / "other" / "0.json", tmp_path)
    peer.look(1.0)
    assert (peer.ended(), peer.verdict(), peer.silent) == (None, None, 1.0)
    first.renew()
    peer.look(1.0)
    assert (peer.ended(), peer.verdict(), peer.silent) == (None, None, 0.0)


def test_the_records_of_a_failure_stay_only_if_a_process_vanished_without_a_word(tmp_path):
    folder = tmp_path / "processes"
    first, second = (parent.Record(folder, index, 1, count=3) for index in (0, 1))
    first.renew(verdict="process 1 on h was killed by SIGKILL")
    assert not first.all_over()
    second.renew(ended="was killed by SIGKILL")
    assert first.all_over()  # process 2 never began
    first.remove_all()
    assert not folder.exists() and not first.all_over()


@pytest.mark.parametrize("content", ["", "[1]", "{", "null"])
def test_a_record_without_content_is_no_sign_of_life(tmp_path, content):
    """A parent creates the records of all processes, because NFS clients remember that a file is missing."""
    parent.Record(tmp_path, 0, 1, count=3)
    assert {path.name for path in tmp_path.iterdir()} == {"0.json", "1.json", "2.json"}
    (tmp_path / "1.json").write_text(content)
    peer = parent.Peer(tmp_path, 1)
    for _ in range(2):
        peer.look(1.0)
    assert (peer.seen, peer.done, peer.silent) == (False, False, 2.0)
    record = parent.Record(tmp_path, 1, 2)
    for _ in range(2):
        record.renew()
        peer.look(1.0)
    assert (peer.seen, peer.silent) == (True, 0.0)


def test_the_sentence_names_the_command_that_resumes_the_run():
    command, job = ["python", "a b"], parent.training(pathlib.Path("run"))
    again = "start all processes again to resume it from its last checkpoint, this one by "
    variables = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    assert parent.how_to_resume(job, {}, command) == f"{again}python 'a b'"
    assert parent.how_to_resume(job, {"JAX_PROCESS_ID": "0", "SRT_PROCESSES": "auto"}, command) == (
        f"{again}SRT_PROCESSES=auto python 'a b'"
    )
    assert parent.how_to_resume(job, variables, command) == (
        f"{again}JAX_COORDINATOR_ADDRESS=h:1 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 python 'a b'"
    )
    assert parent.how_to_resume(job, variables | {"SLURM_JOB_ID": "7"}, command).startswith(
        "submit the SLURM job again "
    )


def test_a_record_that_is_removed_belongs_to_a_process_that_is_done(tmp_path):
    folder = tmp_path / "run" / "processes"
    record, peer = parent.Record(folder, 0, 1), parent.Peer(folder, 0)
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
        ({"SLURM_STEP_NUM_TASKS": "", "SLURM_PROCID": ""}, None),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}, Place(3, 4, "")),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, Place(1, 2, "")),
        ({"SRT_PROCESSES": "auto"}, Place(None, None, "")),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            Place(1, 2, "h:1"),
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "[::1]:65535", "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
            Place(0, 1, "[::1]:65535"),
        ),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1", "MEGASCALE_NUM_SLICES": "1"}, Place(1, 2, "")),
    ],
)
def test_the_place_in_a_run(environment, place):
    assert place_of(environment) == place
    assert parent.needed(environment) == (place is not None)
    assert not parent.needed(environment | {parent.VARIABLE: "1:3"})


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"SLURM_STEP_NUM_TASKS": "four", "SLURM_PROCID": "3"}, "SLURM_STEP_NUM_TASKS is 'four': set it to a number"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": ""}, "SLURM_PROCID is '': set it to a number in every process"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "4"}, "number the processes of a run from 0 to 3"),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_PROCESS_ID": "1"},
            "JAX_NUM_PROCESSES is '': set it to a number in every process, or unset JAX_COORDINATOR_ADDRESS",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "\u00b2"},
            "JAX_PROCESS_ID is '\u00b2': set it to a number",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "0", "JAX_PROCESS_ID": "0"},
            "JAX_NUM_PROCESSES is 0: set it to the number of processes",
        ),
        *(
            (
                {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
                f"JAX_COORDINATOR_ADDRESS is '{address}': set it to host:port of process 0 in every process",
            )
            for address in ("localhost", "localhost:", ":1234", "localhost:port", "localhost:0", "localhost:65536")
        ),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "2"}, "TPU_WORKER_ID is 2, but TPU_WORKER_HOSTNAMES has 2: "),
        *(
            (
                variables | {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"},
                "MEGASCALE_NUM_SLICES is '2', but a run uses one TPU slice: create a single slice",
            )
            for variables in (
                {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"},
                {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},  # one host per slice
                {"SRT_PROCESSES": "auto"},
            )
        ),
    ],
)
def test_a_wrong_place_is_refused(environment, message):
    with pytest.raises(ConfigError, match=message):
        place_of(environment)


def test_a_run_continues_after_each_of_its_processes_was_killed(miniature, tmp_path):
    """The real trainer, with a checkpoint after every step. A second start is refused, and does not disturb the run."""
    out = tmp_path / "runs"
    command = [
        *(sys.executable, "-m", "srt_jax.main", *SMALL_RUN, f"--config.out={out}", "--config.name=run"),
        *(f"--config.model.path={miniature}", f"--config.data.path={miniature}/train.jsonl"),
        *("--config.checkpoint.every=1", "--config.mesh.cpu_devices=1", "--config.mesh.fsdp=2"),
        f"--config.stop.peer_seconds={LONG_PEER_SECONDS}",
    ]
    directory = out / "run"

    def last_step() -> int:
        records = read_metrics(directory) if (directory / "metrics.jsonl").exists() else []
        return records[-1]["step"] if records else 0  # a line may be half-written when it is read

    resumed = 0
    for victim in (1, 0):
        started = start(2, [*command, "--config.steps=1000"])
        with ending(started):
            begun = last_step() + 2
            wait_for(lambda begun=begun: (directory / "metrics.jsonl").exists() and last_step() >= begun, started)
            if not resumed:
                second = start(2, [*command, "--config.steps=1000"])
                with ending(second):
                    ends = list(map(end_of, second))
                assert [status for status, _ in ends] == [2, 2] and f"{directory} is used by process " in ends[0][1]
                step = last_step()
                wait_for(lambda step=step: last_step() > step, started)
            record = json.loads((directory / "processes" / f"{victim}.json").read_text())
            os.kill(record["pid"], signal.SIGKILL)
            (printed, _), *_ = ends = [process.communicate(timeout=120) for process in started]
        assert [process.returncode for process in started] == [STATUS, STATUS]
        for _, said in ends:
            assert f"process {victim} on " in said and "was killed by SIGKILL; start all" in said
        assert not resumed or f"resuming from step {resumed} of 1000" in printed
        step, damaged = Checkpoints(directory).newest_whole()
        assert step > resumed and not damaged
        resumed = step


@pytest.mark.long
def test_a_run_goes_on_after_the_end_of_hosts_whose_locks_stay(miniature, tmp_path):
    """The wait for the folder's lock is longer than Gloo waits for a process."""
    directory = tmp_path / "run"
    (directory / "processes").mkdir(parents=True)
    there = {"id": "old", "host": "node7", "boot": "other", "pid": 77, "beat": 900, "started": "2026-11-28 05:00:00"}
    with contextlib.ExitStack() as held:
        for name in ("processes/0.json", "processes/1.json", "lock"):
            (directory / name).write_text(json.dumps(there))
            file = held.enter_context(open(directory / name))
            fcntl.flock(file, fcntl.LOCK_EX)
        command = [
            *(sys.executable, "-m", "srt_jax.main", *SMALL_RUN, f"--config.out={tmp_path}", "--config.name=run"),
            *(f"--config.model.path={miniature}", f"--config.data.path={miniature}/train.jsonl", "--config.steps=1"),
            *("--config.mesh.cpu_devices=1", "--config.mesh.fsdp=2", f"--config.stop.peer_seconds={PEER_SECONDS}"),
            "--take_over",
        ]
        for _, said in finish(start(2, command)):
            assert f"if it gives no sign of life for {PEER_SECONDS} s, this start goes on ..." in said, said
    assert (directory / "summary.json").exists()
