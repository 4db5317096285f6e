"""math-verify as an engine. It runs only in isolated workers: no answer can block them, use all memory or escape."""

import os
import socket
import subprocess
import sys
import time

import pytest
from hostile import HOSTILE

from srt_jax.config import base
from srt_jax.config.validation import validate
from srt_jax.errors import ConfigError
from srt_jax.grading.grader import Grader
from srt_jax.reward.rewards import agrees
from tests.helpers import REPOSITORY, fast_cases

pytest.importorskip("math_verify", reason="math-verify is not installed")
PATIENCE = 20.0  # seconds for a verdict that a test needs; it takes a tenth of one, and longer on a busy machine


@pytest.fixture(scope="module")
def engine():
    with Grader(workers=2, timeout=1.0, truth="math_verify") as one:
        yield one


def test_its_verdicts(engine, monkeypatch):
    monkeypatch.setattr(engine, "timeout", PATIENCE)
    engine.self_test()
    predictions = ["\\frac{1}{2}", "(1,2)", "x+1", "7", None, "", " "]
    assert engine.grade(predictions, ["0.5", "(1,2)", "1+x", "8", "1", "1", "1"]) == [True, True, True] + [False] * 4
    assert engine.network in ("namespace", "blocked")
    assert engine.metrics()["errors"] == 0


def test_our_own_comparison_stays_within_reach(engine):
    assert engine.grade(["m+n=5+7=12"], ["12"], "verify") == [True]


def test_long_answers_never_reach_it(engine):
    engine.metrics()
    assert engine.grade(["1+" * 1000 + "1", "1"], ["1001", "1" * 2001]) == [False, False]
    metrics = engine.metrics()
    assert (metrics["timeouts"], metrics["crashes"], metrics["errors"]) == (0, 0, 0)


@pytest.mark.parametrize("every", fast_cases([12, 60], 60))
def test_hostile_answers(every, engine, tmp_path, monkeypatch):
    """Nothing is executed, every call ends, and the workers still work afterwards.

    With SRT_JAX_FUZZ the test tries all 418 strings (107 s on two busy cores), else every twelfth or sixtieth.
    """
    strings = HOSTILE if os.environ.get("SRT_JAX_FUZZ") else HOSTILE[::every]
    attack = f"__import__('os').system('touch {tmp_path}/HOSTILE')"
    attacks = [attack, f"\\text{{{attack}}}", f"exec(\"open('{tmp_path}/HOSTILE','w')\")", "10**10**10", "9!!!!!!!!"]
    started = time.monotonic()
    engine.grade([*strings, *attacks], ["1"] * (len(strings) + len(attacks)))
    engine.grade(["1"] * len(attacks), attacks)
    assert time.monotonic() - started < 150
    assert list(tmp_path.iterdir()) == []
    assert not (REPOSITORY / "HOSTILE").exists()
    monkeypatch.setattr(engine, "timeout", PATIENCE)
    assert engine.grade(["0.25"], ["\\frac14"]) == [True]


def test_a_worker_has_no_network_and_writes_no_file(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = f"""
from srt_jax.grading.worker import guard, isolate
import socket
network = isolate()
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
connect = lambda: socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), timeout=5)
if network == "namespace":
    assert refused(connect)  # the namespace has no network, even before the guard is set
guard()
assert refused(connect)
assert refused(lambda: open({str(tmp_path / "file")!r}, "w"))
print(network)
"""
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() in ("namespace", "blocked")
    assert list(tmp_path.iterdir()) == []


def test_as_the_match_of_a_reward(grader):
    answers = ["0.5", "\\frac{1}{2}", "2", None]
    assert agrees(answers, "1/2", grader, "math_verify").tolist() == [True, True, False, False]


@pytest.mark.parametrize("field", ["reward", "eval"])
def test_a_config_without_the_package_is_refused(monkeypatch, field):
    config = base()
    config.name, config.model.path, config.data.path = "x", "y", "z"
    config[field].match = "math_verify"
    validate(config)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=rf"^{field}\.match is 'math_verify', but .*`pip install math-verify==0\.9\.0`"
    ):
        validate(config)


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="verify, math_verify"):
        Grader(truth="sympy")
