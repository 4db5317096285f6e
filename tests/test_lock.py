"""Two trainers never share a run folder."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from srt_jax import cli
from srt_jax.errors import FolderInUseError
from srt_jax.run import lock
from tests.helpers import REPOSITORY


def hold(directory, beat=lock.BEAT) -> subprocess.Popen:
    """A process that locks the folder until it is killed; returns once it has the lock."""
    script = (
        f"import pathlib, sys, time\nfrom srt_jax.run import lock\nlock.BEAT = {beat}\n"
        "with lock.locked(pathlib.Path(sys.argv[1])):\n    print('locked', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(directory)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_trainer_on_this_host_is_refused_until_the_first_one_ends(tmp_path):
    first = hold(tmp_path / "run")
    refused = pytest.raises(FolderInUseError, match=rf"is used by process {first.pid} on .*: wait for it or stop it")
    with refused, lock.locked(tmp_path / "run", take_over=True):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    with lock.locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run/lock").read_text())["pid"] == os.getpid()
        (tmp_path / "run/config.json").write_text("{}")
    assert (tmp_path / "run/lock").read_text() == ""


def test_a_run_that_is_refused_leaves_no_folder(tmp_path):
    with lock.locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_the_folder_of_a_refused_run_stays_while_the_parents_of_its_processes_use_it(tmp_path):
    (tmp_path / "run/processes").mkdir(parents=True)
    with lock.locked(tmp_path / "run"):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["processes"]


def test_the_command_refuses_a_second_trainer(tmp_path):
    first = hold(tmp_path / "small")
    command = [sys.executable, "-m", "srt_jax.main", "--config=configs/quickstart.py", f"--config.out={tmp_path}"]
    command += ["--config.name=small", f"--config.model.path={tmp_path}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    first.kill()
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path}/small is used by process {first.pid}")


def test_a_trainer_on_another_host_counts_as_gone_after_two_minutes(tmp_path):
    path = tmp_path / "lock"
    there = {**lock.this_process(), "host": "node7", "boot": "other", "pid": 7}
    path.write_text(json.dumps(there))
    refused = pytest.raises(FolderInUseError, match=r"seconds ago by process 7 on node7.*or add --take_over")
    with refused, lock.locked(tmp_path):
        pass
    (tmp_path / "config.json").write_text("{}")
    with lock.locked(tmp_path, take_over=True):
        pass
    path.write_text(json.dumps(there))
    os.utime(path, (0, time.time() - lock.STALE - 1))
    with lock.locked(tmp_path):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("take_over", [True, False])
def test_the_lock_of_a_host_that_is_gone_is_broken(take_over, tmp_path, monkeypatch, capsys):
    """A file server may keep it. Without --take_over the trainer must be silent for two minutes."""
    first = hold(tmp_path / "run", beat=8)  # it comes back after SILENCE
    monkeypatch.setattr(lock, "boot_id", lambda: "other")
    monkeypatch.setattr(lock, "SILENCE", 1.0)
    monkeypatch.setattr(lock, "PAUSE", 0.2)
    path = tmp_path / "run/lock"
    if not take_over:
        refused = pytest.raises(
            FolderInUseError, match=r"is used by process .*\. If its host is gone, add --take_over\."
        )
        with refused, lock.locked(tmp_path / "run"):
            pass
        os.utime(path, (0, time.time() - lock.STALE - 1))
    with lock.locked(tmp_path / "run", take_over):
        said = f"has {path} locked: if it gives no sign of life for 1 s, this start goes on ..."
        assert said in capsys.readouterr().err
        _, errors = first.communicate(timeout=60)
        assert first.returncode == 1 and f"{tmp_path}/run was taken over by process {os.getpid()} on" in errors
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", range(3))  # before the fix one of eight failed
def test_of_two_starts_that_wait_for_a_host_that_is_gone_one_gets_the_folder(number, tmp_path, monkeypatch):
    """The later one must not break the lock of the earlier one."""
    monkeypatch.setattr(lock, "SILENCE", 0.1)
    monkeypatch.setattr(lock, "PAUSE", 0.05)
    (tmp_path / "config.json").touch()
    outcomes = []

    def start():
        try:
            with lock.locked(tmp_path, take_over=True):
                outcomes.append("works")
                time.sleep(0.5)
        except FolderInUseError:
            outcomes.append("refused")

    with (tmp_path / "lock").open("w") as gone:
        gone.write(json.dumps({**lock.this_process(), "host": "node7", "boot": "other"}))
        gone.flush()
        fcntl.flock(gone, fcntl.LOCK_EX)
        starts = [threading.Thread(target=start) for _ in range(2)]
        for thread in starts:
            thread.start()
        for thread in starts:
            thread.join()
    assert sorted(outcomes) == ["refused", "works"]
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "lock"}


def test_a_file_system_that_fails_for_a_moment_does_not_end_the_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 0.3)
    monkeypatch.setattr(lock, "PAUSE", 0.1)
    (tmp_path / "lock").write_text("{}")
    tries = []

    class Path:
        """Cannot be opened at the first two tries, or always."""

        def __init__(self, failures):
            self.failures = failures

        def open(self, mode):
            tries.append(mode)
            if len(tries) <= self.failures:
                raise OSError(errno.ESTALE, "stale file handle")
            return (tmp_path / "lock").open(mode)

    assert lock._is_silent(Path(2), {}, lambda: None) and len(tries) == 5
    with pytest.raises(OSError, match="stale"):
        lock._is_silent(Path(1000), {}, lambda: None)


def test_a_trainer_that_lives_on_another_host_keeps_its_lock(tmp_path, monkeypatch):
    first = hold(tmp_path / "run", beat=0.5)
    monkeypatch.setattr(lock, "boot_id", lambda: "other")
    monkeypatch.setattr(lock, "PAUSE", 0.2)
    refused = pytest.raises(FolderInUseError, match=rf"is used by process {first.pid} on .*config\.name\.$")
    with refused, lock.locked(tmp_path / "run", take_over=True):
        pass
    assert first.poll() is None
    first.kill()


def test_a_trainer_that_has_not_written_its_name_yet_is_another_process(tmp_path):
    first = hold(tmp_path)
    (tmp_path / "lock").write_text("")
    refused = pytest.raises(FolderInUseError, match="is used by another process, which has just started: wait for it")
    with refused, lock.locked(tmp_path):
        pass
    first.kill()


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_run_folder_that_is_a_file_is_refused_in_one_sentence(name, tmp_path, capsys):
    (tmp_path / "file").write_text("")

    def main(_):
        with lock.locked(tmp_path / name):
            pass

    assert cli._guarded(main, []) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tmp_path}/file") and "correct the path" in message and message.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff" * 9000])
def test_a_lock_file_that_says_nothing_is_no_obstacle(content, tmp_path):
    (tmp_path / "lock").write_bytes(content)
    with lock.locked(tmp_path):
        pass


def test_a_trainer_whose_folder_was_taken_over_ends_at_once(tmp_path):
    """As after a suspension of minutes, in which a trainer on another host took the folder over."""
    first = hold(tmp_path / "run", beat=0.2)
    there = {**lock.this_process(), "host": "node7", "boot": "other", "pid": 7}
    (tmp_path / "run/lock").write_text(json.dumps(there))
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 1
    assert f"{tmp_path}/run was taken over by process 7 on node7" in errors and "saves nothing" in errors
    assert json.loads((tmp_path / "run/lock").read_text()) == there


def test_the_lock_is_renewed_while_a_program_compiles(tmp_path):
    """The heartbeat's thread needs Python's global lock, which XLA releases while it compiles and computes."""
    script = (
        "import os, pathlib, sys, threading, time\nfrom srt_jax.run import lock\nimport jax, jax.numpy as jnp\n"
        "lock.BEAT = 0.1\npath = pathlib.Path(sys.argv[1])\n"
        "def f(x):\n    for i in range(800): x = jnp.sin(x) @ x + i\n    return x\n"
        "lowered = jax.jit(f).lower(jnp.ones((4, 4)))\n"
        "with lock.locked(path):\n    time.sleep(0.3)\n    file = path / 'lock'\n"
        "    before, started = os.stat(file).st_mtime, time.time()\n"
        "    lowered.compile()\n    print(time.time() - started, os.stat(file).st_mtime - before)\n"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    compiled, renewed = map(float, done.stdout.split())
    assert compiled > 0.2 and renewed > compiled / 2


def test_the_lock_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    with lock.locked(tmp_path):
        os.utime(tmp_path / "lock", (0, 0))
        deadline = time.monotonic() + 60
        while (tmp_path / "lock").stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (tmp_path / "lock").stat().st_mtime > 0
