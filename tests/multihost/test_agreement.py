"""The agreement between processes (runtime/processes.py): two processes get the same results and exceptions."""

import sys

import pytest

from tests.several_processes import finish, lines, reserved_port, start

SCRIPT = """
import numpy as np
from srt_jax import runtime
runtime.start(2)
import jax
from srt_jax.errors import ConfigError, is_left_to_first
from srt_jax.runtime import processes

me = jax.process_index()


def outcome(call):
    try:
        print("result", call(), flush=True)
    except Exception as e:
        assert is_left_to_first(e) == (me != 0)
        print(type(e).__name__, e, flush=True)


class Unreadable(Exception):  # pickle cannot make it again
    def __init__(self, a, b):
        super().__init__(f"{a} {b}")


def fail(error):
    raise error


def only_first(value):
    assert me == 0 and processes.decides_alone()
    return value


# Results of all sizes: below one message, in several small ones, and in large ones.
for size in (0, 1, 1 << 16, 300_000, 5 << 20):
    data = np.random.default_rng(size).bytes(size)
    assert processes.from_first(lambda: only_first(data)) == data
outcome(lambda: processes.from_first(lambda: only_first({"a": [1, None]})))
# An exception is raised by all, with its class; a file's error keeps its number and name.
outcome(lambda: processes.from_first(lambda: fail(ConfigError("name is 3: choose a text."))))
outcome(lambda: processes.from_first(lambda: open("/no/such/file")))
outcome(lambda: processes.from_first(lambda: lambda: 0))  # a result that cannot be sent
try:
    processes.from_first(lambda: fail(Unreadable("a", "b")))
except Unreadable:
    assert me == 0
except RuntimeError as e:
    assert me == 1 and str(e) == "process 0 failed: Unreadable: a b"
# Calls within the first process's work communicate with nobody.
outcome(lambda: processes.from_first(lambda: processes.from_first(lambda: processes.any_of(me == 0))))
outcome(lambda: (processes.any_of(me == 1), processes.any_of(False), processes.decides_alone()))


# The others hear of the progress of work.
def work(report, pieces=4):
    for piece in range(1, pieces + 1):
        report(piece / pieces, piece << 31)  # more tokens than an int32 counts
    return "done"


heard = []
outcome(lambda: processes.led_by_first(work, lambda share, tokens: heard.append((share, tokens >> 31))))
print(heard)


# Any of them may end it: the second in the middle, or at its last message; the first itself; both at once.
def stops(process, at):
    def advanced(share, tokens):
        if me in process and share >= at:
            raise ConfigError(f"stopped by {me}")
    return advanced


for who, at in (((1,), 0.5), ((1,), 1.0), ((0,), 0.5), ((0, 1), 0.5)):
    outcome(lambda: processes.led_by_first(work, stops(who, at)))


def swallows(report):
    try:
        work(report)
    except ConfigError:
        return "went on"


outcome(lambda: processes.led_by_first(swallows, stops((1,), 0.5)))
outcome(lambda: processes.from_first(lambda: "still in step"))
"""

EXPECTED = """
result {'a': [1, None]}
ConfigError name is 3: choose a text.
FileNotFoundError [Errno 2] No such file or directory: '/no/such/file'
result True
result (True, False, False)
result done
[(0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)]
ConfigError stopped by 1
ConfigError stopped by 1
ConfigError stopped by 0
ConfigError stopped by 0
ConfigError stopped by 1
result still in step
"""


def test_both_processes_get_the_same_results_and_exceptions():
    first, second = (lines(said) for said, _ in finish(start(2, [sys.executable, "-c", SCRIPT]), seconds=120))
    assert first == second
    (unsent,) = (line for line in first if "pickle" in line)  # Python's own words
    first.remove(unsent)
    assert first == EXPECTED.strip().splitlines()


@pytest.mark.parametrize("nodes, devices", [("2", ("all", "all")), ("1", ("0", "1"))])
def test_one_task_of_srun_per_node_has_all_gpus_of_the_node(nodes, devices):
    """JAX gives each task one GPU, which is right only if a node has several tasks."""
    script = """
from srt_jax import runtime
print(runtime.start(1))
from jax._src import xla_bridge
print("GPUs", xla_bridge.CUDA_VISIBLE_DEVICES.value)
"""
    variables = {
        **{"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "JAX_COORDINATOR_PORT": str(reserved_port())},
        **{"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": nodes, "GLOG_minloglevel": "2"},
        **{"JAX_COORDINATOR_ADDRESS": "", "JAX_NUM_PROCESSES": "", "JAX_PROCESS_ID": ""},
    }
    started = [
        *start(1, [sys.executable, "-c", script], SLURM_PROCID="0", SLURM_LOCALID="0", **variables),
        *start(1, [sys.executable, "-c", script], SLURM_PROCID="1", SLURM_LOCALID="1", **variables),
    ]
    for index, (said, _) in enumerate(finish(started, seconds=120)):
        assert lines(said) == [f"Place(index={index}, count=2, address='')", f"GPUs {devices[index]}"]
