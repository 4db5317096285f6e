"""Fixtures of all tests, the two tiers, and what each file costs.

Every test sees eight simulated devices, and builds its meshes from the first few of them.
"""

import collections
import fcntl
import os
import subprocess
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
GIVEN = dict(os.environ)
# Most of the suite is compiling. LLVM's optimisation takes two thirds of it, and is not what the tests are about;
# `XLA_FLAGS= launch/test.sh` leaves it on. Every program is kept, and so equal ones compile once. Processes that tests
# start inherit both.
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import pytest  # noqa: E402

from srt_jax import runtime  # noqa: E402
from srt_jax.grading import Grader  # noqa: E402
from srt_jax.miniature.pretrain import Recipe, pretrain  # noqa: E402
from srt_jax.run import metrics  # noqa: E402
from tests.helpers import REPOSITORY  # noqa: E402

SLOW_FOLDERS = ("tests/vllm", "tests/multihost")
# Two processes share the tests, each takes one file at a time. These take longest, so they start first.
LONGEST = (
    "tests/vllm",
    "tests/test_train.py",
    "tests/test_configs.py",
    "tests/test_gpu_session.py",
    "tests/multihost",
    "tests/rl/test_algorithms.py",
    "tests/model/test_sharding.py",
)

runtime.start(cpu_devices=8)
record = metrics.RunLog.write


def checked_record(log, step, values):
    """RunLog.write for metrics that are described."""
    unknown = [tag for tag in values if not metrics.describe_tag(tag)]
    assert not unknown, f"describe {', '.join(map(repr, unknown))} in srt_jax/run/metrics.py"
    record(log, step, values)


metrics.RunLog.write = checked_record


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: left out by launch/test.sh --fast; so is every test of the miniature")
    if not hasattr(config, "workerinput"):  # not in a process that another one has started to share the tests
        config.pluginmanager.register(FileCosts())


def pytest_collection_modifyitems(config, items):
    """Marks the slow tests. Where two processes share the tests, the files that take longest come first."""
    for item in items:
        if item.nodeid.startswith(SLOW_FOLDERS) or "miniature" in item.fixturenames:
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: [not item.nodeid.startswith(name) for name in LONGEST])


class FileCosts:
    """Prints the seconds of the files that took longest: set-up, tests and tear-down, by the wall clock."""

    SHOWN = 10

    def __init__(self):
        self.seconds = collections.Counter()

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid.split("::")[0]] += report.duration

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.section("seconds by file")
        for file, seconds in self.seconds.most_common(self.SHOWN):
            terminalreporter.write_line(f"{seconds:7.1f}  {file}")
        rest = self.seconds.most_common()[self.SHOWN :]
        terminalreporter.write_line(f"{sum(seconds for _, seconds in rest):7.1f}  {len(rest)} other files")
        terminalreporter.write_line(f"{self.seconds.total():7.1f}  in all")


@pytest.fixture(scope="session")
def miniature():
    """The miniature base model, made once (about a minute and a half) and kept in the project's cache folder."""
    directory = REPOSITORY / "cache" / "miniature"
    directory.parent.mkdir(exist_ok=True)
    with open(directory.with_name(".miniature.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other process of the tests makes it, or waits until it is made
        subprocess.run(
            [sys.executable, "-m", "srt_jax", "pretrain", f"--out={directory}"], cwd=REPOSITORY, check=True, env=GIVEN
        )  # it stays, so it is made as a user makes it
    return directory


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """The miniature after two steps of its pre-training: all of its files, for tests that need no right answers."""
    directory = tmp_path_factory.mktemp("models") / "untrained"
    pretrain(directory, Recipe(steps=2, warmup_steps=1))
    return directory


@pytest.fixture(scope="session")
def grader():
    """One grader for all tests, with two workers."""
    with Grader(workers=2, timeout=5.0, budget=60.0) as shared:  # proofs may be slow on a busy machine
        yield shared
