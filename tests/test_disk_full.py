"""A disk that is full: the last line says which file, nothing that was complete is lost, and the same command goes on.

A file system of a few pages in memory stands in for the disk, mounted in a namespace of the process's own.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY, SMALL_RUN, may_mount
from tests.rollout.fake_vllm import running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not may_mount(), reason="this user may not mount a file system in a namespace"),
]
ARGUMENTS = (
    *SMALL_RUN,
    "--config.checkpoint.keep=1",
    "--config.name=run",
)
# Runs the trainer, prints its exit status, makes the disk larger, and runs the trainer until it has two steps more.
TWICE = """
import json, os, pathlib, runpy, subprocess, sys
from absl import flags
from srt_jax import runtime
disk, run, *sys.argv[1:] = sys.argv[1:]
def train():
    try:
        runpy.run_module("srt_jax.main", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code
print("status", train(), file=sys.stderr, flush=True)
records = pathlib.Path(run) / "metrics.jsonl"
steps = [json.loads(line)["step"] for line in records.read_text().splitlines() if line.endswith("}")]
for name in list(flags.FLAGS):
    if name.startswith("config") or name in ("profile", "take_over", "dry_run"):
        delattr(flags.FLAGS, name)
runtime.start = lambda *_, **__: None  # JAX runs
subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
sys.argv.append(f"--config.steps={max(steps, default=0) + 2}")
print("then", train(), file=sys.stderr, flush=True)
print(json.dumps([json.loads(line)["step"] for line in records.read_text().splitlines()]))
"""


@dataclasses.dataclass
class Full:
    """Where the small file system is, and what is seen."""

    folder: str  # in the run folder; "" is the run folder itself
    message: str  # that ends the run
    status: int = 2
    free: int = 400  # KiB, less than two steps or an export need
    arguments: tuple[str, ...] = ("--config.checkpoint.every=1", "--config.steps=400")
    links: tuple[str, ...] = ()  # files and folders of the run that are on another disk
    begun: bool = False  # the run has made its first step before


SELDOM = ("--config.checkpoint.every=1000", "--config.log.rollouts_every=1000", "--config.steps=400")
WRITTEN = r" could not be written \(No space left on device\)"
FULL = {
    "checkpoint": Full(
        "checkpoints", r"the checkpoint of step \d+ could not be written to .*/run/checkpoints \(", begun=True
    ),
    "rollouts": Full("rollouts", r".*/run/rollouts/step_\d+\.\w+(\.gz)?" + WRITTEN, free=24),
    "metrics": Full(
        "small", r".*/run/metrics\.jsonl" + WRITTEN, free=16, arguments=SELDOM, links=("metrics.jsonl:small/metrics",)
    ),
    "events": Full(
        "",
        r".*/run/events\.out\.tfevents\.\*" + WRITTEN,
        free=48,
        arguments=SELDOM,
        links=("metrics.jsonl:../metrics",),
    ),
    "run folder": Full("", r".*/run/(metrics\.jsonl|events\.out\.tfevents\.\*|rollouts/.*|checkpoints.*)", begun=True),
    "export": Full(
        "", r".*/run/\.?final[^(]*" + WRITTEN, 2, 300, ("--config.checkpoint.every=1", "--config.steps=1"), begun=True
    ),
    "publish": Full("weights", r".*/run/weights does not take the weights of step \d \(No space", 1, 1500),
}
LONG = ("metrics", "events", "run folder", "export", "publish")  # only launch/test.sh --long tries these


def train_twice(untrained, out, full: Full, *more):
    """(exit status, stderr) of a run on a small disk and of its resumption on a larger one, and the recorded steps."""
    run, disk = out / "run", out / "run" / full.folder
    disk.mkdir(parents=True, exist_ok=True)
    used = sum(p.stat().st_size for p in disk.rglob("*") if p.is_file())
    commands = [f"mount -t tmpfs -o size={(used >> 12) * 4 + full.free}k tmpfs {disk}"]
    if used:
        commands = [f"cp -r {disk} {out}/copy", *commands, f"cp -r {out}/copy/. {disk}"]
    commands += ["ln -s {1} {0}".format(*f"{run}/{link}".split(":")) for link in full.links]
    model = (f"--config.model.path={untrained}", f"--config.data.path={untrained}/train.jsonl")
    arguments = [*ARGUMENTS, *model, f"--config.out={out}", *full.arguments, *more]
    shell = " && ".join([*commands, 'exec "$@"'])
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", shell, "sh", sys.executable, "-c", TWICE, disk, run, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.stderr.count("\nstatus ") == 1 and "\nthen " in done.stderr, done.stderr[-3000:]
    first, rest = done.stderr.split("\nstatus ")
    second, then = rest.split("\nthen ")
    return (int(rest[0]), first), (int(then[0]), second[2:]), json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def begun(untrained, tmp_path_factory):
    """A run of one step, without its exports."""
    out = tmp_path_factory.mktemp("begun")
    command = [sys.executable, "-m", "srt_jax.main", *ARGUMENTS, f"--config.out={out}", "--config.steps=1"]
    command += [f"--config.model.path={untrained}", f"--config.data.path={untrained}/train.jsonl"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    subprocess.run(["rm", "-r", f"{out}/run/final", f"{out}/run/summary.json"], check=True)
    return out


@pytest.mark.parametrize("full", ["checkpoint", "rollouts", *(pytest.param(x, marks=pytest.mark.long) for x in LONG)])
def test_a_full_disk_is_one_sentence_that_names_the_file(full, begun, untrained, tmp_path):
    case = FULL[full]
    if case.begun:
        subprocess.run(["cp", "-r", f"{begun}/run", str(tmp_path)], check=True)
    with running() as servers:
        servers[0].vocab_size = 25  # the miniature's
        vllm = (
            "--config.rollout.sampler=vllm",
            f"--config.rollout.servers=('{servers[0].url}',)",
            "--config.rollout.max_logprob_gap=100",
        )
        first, second, steps = train_twice(untrained, tmp_path, case, *(vllm if full == "publish" else ()))
    assert first[0] == case.status and "Traceback" not in first[1] + second[1], first[1][-3000:] + second[1][-3000:]
    if case.status:
        last = first[1].strip().splitlines()[-1]
        assert re.match("(error: )?" + case.message, last), last
        assert "free some space" in last, last
    assert second[0] == 0, second[1][-3000:]
    assert steps == list(range(len(steps))) and len(steps) > 2  # none is missing, none is there twice


def test_a_full_compile_cache_stops_nothing(tmp_path):
    code = (
        "from srt_jax import runtime; runtime.start()\n"
        "import jax; print([int(jax.jit(lambda x: x @ x + i)(jax.numpy.ones((9, 9)))[0, 0]) for i in range(3)])"
    )
    shell = f'mount -t tmpfs -o size=8k tmpfs {tmp_path} && exec "$@"'
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = ["unshare", "-rm", "sh", "-c", shell, "sh", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "[9, 10, 11]\n", done.stderr
    assert "Traceback" not in done.stderr and "No space left" in done.stderr
