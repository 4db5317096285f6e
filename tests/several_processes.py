"""Starts a command as several processes of one run, as on several hosts."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from srt_jax.run.metrics_log import read_metrics
from tests.helpers import REPOSITORY

RESERVED: list[socket.socket] = []  # each keeps its port until this process ends


def reserved_port() -> int:
    """A port at which nobody answers, and which no other program gets while this process runs: only a server of JAX.

    A port that is merely free at the moment may be another's when a trainer has imported its modules.
    """
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # shares the port with servers of gRPC, which set it, too
    s.bind(("127.0.0.1", 0))
    RESERVED.append(s)
    return s.getsockname()[1]


def variables_of(processes: int, coordinator: str, index: int) -> dict[str, str]:
    """The environment variables of one of several processes on the CPU, without those that it inherits."""
    flags = os.environ.get("XLA_FLAGS", "").replace("--xla_cpu_use_fusion_emitters=false", "")  # tests/conftest.py
    variables = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "XLA_FLAGS": flags}
    if processes > 1:
        variables |= {"JAX_COORDINATOR_ADDRESS": coordinator, "JAX_NUM_PROCESSES": str(processes)}
    return variables | {"JAX_PROCESS_ID": str(index)}


def start(
    processes: int, command: Sequence[str], indices: Sequence[int] | None = None, **variables: str
) -> list[subprocess.Popen]:
    """Starts the command in so many processes on the CPU; variables: further ones of the environment.

    indices: only these processes of the run start.
    """
    coordinator = f"localhost:{reserved_port()}"
    return [
        subprocess.Popen(
            list(command),
            cwd=REPOSITORY,
            env=os.environ | variables_of(processes, coordinator, i) | variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in (range(processes) if indices is None else indices)
    ]


def finish(started: list[subprocess.Popen], status: int = 0, seconds: float = 600) -> list[tuple[str, str]]:
    """The (stdout, stderr) of each process, after all ended with this status."""
    try:
        printed = [process.communicate(timeout=seconds) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, printed):
        assert process.returncode == status, errors[-3000:]
    return printed


def wait_for_steps(directory: pathlib.Path, steps: int, started: list[subprocess.Popen], seconds: float = 240) -> None:
    """Waits until the run in this folder has logged so many steps, or until one of its processes has ended."""
    deadline = time.monotonic() + seconds
    while all(process.poll() is None for process in started):
        if (directory / "metrics.jsonl").exists() and len(read_metrics(directory)) > steps:
            return
        if time.monotonic() > deadline:
            for process in started:
                process.kill()
            printed = "\n".join(text[-3000:] for process in started for text in process.communicate())
            pytest.fail(f"{directory} has not logged {steps} steps after {seconds} s:\n{printed}")
        time.sleep(0.1)


def lines(said: str) -> list[str]:
    """The lines of a process's stdout, without those of gloo, which connects the processes."""
    return [line for line in said.splitlines() if not is_of_gloo(line)]


# What gloo writes, one piece at a time: "[Gloo] Rank 1 is connected to 3 peer ranks. Expected number of ... is : 3\n".
GLOO = re.compile(
    r"(\[Gloo\] Rank |\d+| is connected to | peer ranks\. |Expected number of connected peer ranks is : )*\n?"
)


def is_of_gloo(line: str) -> bool:
    """Its threads write their pieces at the same time, so a line may have any of them: it may be "33", or empty."""
    return GLOO.fullmatch(line) is not None


def are_gone(pids: Iterable[int], seconds: float = 10.0) -> bool:
    """Tells whether these processes end within the time. A process closes its files shortly before it is gone."""
    deadline = time.monotonic() + seconds
    while not (gone := all(map(is_gone, pids))) and time.monotonic() < deadline:
        time.sleep(0.01)
    return gone


def is_gone(pid: int) -> bool:
    """Tells whether a process has ended; one that nobody has waited for yet counts as ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] in (b"Z", b"X")
    except OSError:
        return True


REPLAY = """
import json, pathlib, sys
from srt_jax import runtime
runtime.start(8)
from srt_jax.jobs.replay import replay
print(json.dumps(replay(pathlib.Path(sys.argv[1]))))
"""


def check_in_one_process(directory: pathlib.Path, steps: int) -> None:
    """One process with eight devices makes the same updates from a run's rollouts, up to the rounding of sums."""
    ((said, _),) = finish(start(1, [sys.executable, "-c", REPLAY, str(directory)]))
    replayed = json.loads(said.splitlines()[-1])
    assert len(replayed) == steps
    for step, differing in replayed.items():
        for name, (there, here) in differing.items():
            atol = 1e-4 if "logprob_gap" in name else 1e-6  # these are rounding errors themselves
            np.testing.assert_allclose(here, there, rtol=1e-5 * int(step), atol=atol, err_msg=f"step {step}: {name}")
