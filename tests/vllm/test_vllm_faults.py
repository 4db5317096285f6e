"""Servers that are killed, hang, find their port taken or outlive nothing: real processes, real signals."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from vllm_support import PYTHON, START_SECONDS, changed, open_vllm_sampler, vllm_config

from srt_jax.errors import ConfigError, RolloutError
from srt_jax.rollout.sampler import Sampling, problem_seeds
from srt_jax.rollout.vllm import client as vllm_client
from srt_jax.rollout.vllm import guard
from srt_jax.rollout.vllm.command import free_port
from tests.helpers import REPOSITORY

PROMPTS = [[3 + p % 9, 13, 3 + p // 9] for p in range(24)]
SEEDS = problem_seeds(0, "train", 1, [str(p) for p in range(24)])
N = 16


def group(server) -> list[psutil.Process]:
    """The processes of a server."""
    return [p for p in psutil.process_iter() if p.pid and group_of(p) == server.process.pid]


def group_of(process) -> int:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return -1


def leftovers(record: pathlib.Path) -> list[pathlib.Path]:
    """The segments, the temporary folder and the record of a server that serves."""
    temporary, _, *segments = record.read_text().splitlines()
    found = [guard.SHARED_MEMORY / line.split()[1] for line in segments]
    assert any(pathlib.Path(temporary).iterdir())
    return [*found, pathlib.Path(temporary), record]


def own_servers(miniature, out, **fields):
    config = vllm_config(miniature, out, "run")
    config.rollout.vllm.update(
        {"python": str(PYTHON), "start_seconds": START_SECONDS, "seconds_per_token": 0.1, **fields}
    )
    return config


@pytest.fixture(scope="module")
def two(miniature, tmp_path_factory):
    """A sampler with two servers of its own, of which the first found its port taken; and what its weights sample."""
    config = own_servers(
        miniature, tmp_path_factory.mktemp("two"), num_servers=2, max_restarts=1, max_sequences=2 * N
    )  # so that most prompts wait for their turn
    sampler, _, params, _ = open_vllm_sampler(config)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = iter([taken.getsockname()[1], free_port()])
        sampler._servers[0]._choose_port = lambda: next(ports, None) or free_port()
        try:
            sampler.load(params, 1)
            assert str(taken.getsockname()[1]) in sampler._servers[0].log.read_text()
            assert not sampler._servers[0].url.endswith(f":{taken.getsockname()[1]}")
            yield sampler, params, sampler.generate(PROMPTS, N, Sampling(18), SEEDS)
        finally:
            processes = [p for s in sampler._servers if s.process for p in group(s)]
            sampler.close()
            assert not psutil.wait_procs(processes, 10)[1]


def generate_while(sampler, strike):
    """Rollouts, with `strike()` as soon as the first prompt is answered; every prompt must be finished just once."""
    finished = []

    def note(p, responses, stopped):
        finished.append(p)
        assert len(responses) == len(stopped) == N
        if len(finished) == 1:
            strike()

    rollouts = sampler.generate(PROMPTS, N, Sampling(18), SEEDS, note)
    assert sorted(finished) == list(range(len(PROMPTS)))
    return rollouts


def same_samples(rollouts, want):
    """Equal seeds, equal weights: equal samples, but for the few that rounding tips."""
    assert rollouts.version == want.version
    equal = (rollouts.tokens == want.tokens).all(-1)
    assert equal.mean() > 0.95
    np.testing.assert_allclose(rollouts.logprobs[equal], want.logprobs[equal], atol=1e-3)


def test_a_server_killed_in_the_middle_is_restarted_and_nothing_is_lost(two):
    sampler, _, want = two
    server = sampler._servers[0]
    processes = group(server)
    assert len(processes) >= 3
    engine = max(p.pid for p in processes)  # the last that was started
    same_samples(generate_while(sampler, lambda: os.kill(engine, signal.SIGKILL)), want)
    assert server._restarts == 1 and vllm_client.version(server.url) == sampler._published.version.label
    assert not any(p.is_running() for p in processes)


def test_a_server_that_hangs_past_its_limit_is_replaced(two, monkeypatch):
    sampler, _, want = two
    server = sampler._servers[1]
    processes = group(server)
    monkeypatch.setattr(vllm_client, "BASE_SECONDS", 10.0)
    same_samples(generate_while(sampler, lambda: os.killpg(server.process.pid, signal.SIGSTOP)), want)
    assert server._restarts == 1
    assert not any(p.is_running() for p in processes)


def test_with_one_server_gone_for_good_the_other_does_it_all_and_then_the_run_stops(two):
    """Both have used up their restart."""
    sampler, params, want = two
    first, second = sampler._servers
    left = leftovers(first._record)
    same_samples(generate_while(sampler, lambda: os.killpg(first.process.pid, signal.SIGKILL)), want)
    assert not any(path.exists() for path in left)
    with pytest.raises(RolloutError, match=r"vLLM server \d failed again .* after 1 restarts .*look at .*server_\d"):
        generate_while(sampler, lambda: os.killpg(second.process.pid, signal.SIGKILL))
    with pytest.raises(RolloutError, match="failed again"):
        sampler.load(changed(params, 1), 2)


TRAINER = """
import pathlib, sys, time
from srt_jax.rollout.vllm import server as vllm_server
from srt_jax.rollout.vllm.command import Settings
environment = vllm_server.environment  # with a worker that shares memory with its engine, as on several GPUs
vllm_server.environment = lambda *args: environment(*args) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
settings, log = Settings(sys.argv[1], "float32", 28), pathlib.Path(sys.argv[2])
server = vllm_server.Server("s", settings, log, start_seconds=99, max_restarts=0)
server.start(sys.argv[3])
print(server.process.pid, flush=True)
time.sleep(999)
"""


def test_a_killed_trainer_leaves_no_server_behind(miniature, tmp_path):
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, PYTHON, tmp_path / "log", miniature],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    leader = int(trainer.stdout.readline())

    def members():
        return [p for p in psutil.process_iter() if group_of(p) == leader]

    until(lambda: any("psm_" in record.read_text() for record in tmp_path.glob(".srt-vllm-*")), START_SECONDS)
    left = leftovers(next(tmp_path.glob(".srt-vllm-*")))
    assert any(path.name.startswith("psm_") for path in left)
    trainer.kill()
    trainer.wait()
    until(lambda: not members(), 60)  # killed processes free much memory, and the guard looks at all others
    assert not any(path.exists() for path in left)


def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_model_that_vllm_cannot_serve_is_told_with_its_log(miniature, tmp_path):
    config = own_servers(miniature, tmp_path, max_restarts=0)
    sampler, _, params, _ = open_vllm_sampler(config)
    sampler._model.hf_config["architectures"] = ["NoSuchModel"]
    with pytest.raises(RolloutError, match=r"vLLM server 0 ended while it started \(.+\): look at .*server_0.log"):
        sampler.load(params, 0)
    sampler.close()


def test_an_environment_without_vllm_is_refused(miniature, tmp_path):
    for python, words in ((sys.executable, "has no vLLM, but a server needs just one"), ("no/python", "does not run")):
        with pytest.raises(ConfigError, match=words):
            open_vllm_sampler(own_servers(miniature, tmp_path, python=python))


def test_the_launch_script_refuses_a_port_in_use_and_a_folder_without_a_model(miniature, tmp_path):
    script = pathlib.Path(REPOSITORY / "launch" / "vllm_server.sh")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, words in (
            ([miniature, f"--port={port}"], f"port {port} is in use"),
            ([tmp_path], "is no Hugging Face model directory"),
        ):
            done = subprocess.run(
                [script, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 2 and words in done.stderr
