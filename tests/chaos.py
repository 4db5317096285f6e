"""Kills training runs again and again, and compares their files with an undisturbed run's, bit for bit.

    python -m tests.chaos [--uniform 60] [--aimed 24] [--vllm 12] [--steps 12] [--seed 0] [--model cache/miniature]

Each run trains a few small steps with a checkpoint after each, and is killed by SIGKILL until it reaches its end.
Uniform kills come at a random time. Aimed kills come at a random event of one kind (tests/crash_point.py): a file
operation of a checkpoint, of an export or of the records, a rename, or a call of the grader. The last part trains with
a real vLLM server, which is attached (rollout.servers) or belongs to the run, and kills the trainer while it publishes
weights. Parameters, optimizer state, rollouts, metrics.jsonl and TensorBoard's scalars and texts must equal those of a
run that was never killed. After each run no temporary file, process, socket or segment in /dev/shm may be left. Prints
one line for each run. The exit status is 1 if a run differs or leaves something behind.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator

import numpy as np

from srt_jax.rollout.vllm.command import Settings
from srt_jax.rollout.vllm.server import Server
from srt_jax.run.metrics import TEXTS
from tests import golden
from tests.helpers import REPOSITORY

LEAST_RUNS = 10
KILLS_PER_RUN = 8
AT_A_TIME = 2  # runs; a start uses one core most of the time
GONE_SECONDS = 10.0  # in which the children of a killed trainer must end
ARGUMENTS = (
    "--config=configs/quickstart.py",
    "--config.batch.prompts_per_step=4",
    "--config.batch.samples_per_prompt=4",
    "--config.batch.microbatch_sequences=16",
    "--config.checkpoint.every=1",
    "--config.eval.every=4",
    "--config.eval.samples=2",
    "--config.eval.sets.heldout.limit=4",
    "--config.rollout.prompts_per_call=4",
)
BY_THE_CLOCK = ("time/", "workers/seconds", "publish/", "rollout/tokens_per_second", "update/mfu")
UNIFORM = "uniform"
AIMS = ("save", "export", "rename", "grading", "retain", "rollouts", "records")
VLLM_AIMS = ("publish", "reload")
VLLM = REPOSITORY / ".venv-vllm/bin/python"
MARK = "SRT_CHAOS"  # an environment variable that all processes of this program have
SHARED_MEMORY = pathlib.Path("/dev/shm")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where runs of one kind are made, and what they are."""

    out: pathlib.Path
    arguments: tuple[str, ...]
    limit: float = 1200.0  # seconds of a run, on a busy machine

    def start(self, name: str, *crash_point: object) -> subprocess.Popen:
        """Starts or resumes the run. Appends its output to <out>/<name>.log.

        crash_point: the first arguments of tests.crash_point, under which the run starts.
        """
        program = ["tests.crash_point", *map(str, crash_point)] if crash_point else ["srt_jax.main"]
        command = [sys.executable, "-m", *program, *self.arguments, f"--config.out={self.out}", f"--config.name={name}"]
        environment = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TMPDIR": str(self.out / "tmp")}
        with self.log(name).open("a") as log:
            return subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | environment, stdout=log, stderr=log)

    def log(self, name: str) -> pathlib.Path:
        """The file with the output of a run."""
        return self.out / f"{name}.log"

    def finish(self, name: str, *crash_point: object) -> float:
        """Starts or resumes the run and waits for its end. Returns the seconds. Raises RuntimeError if it fails."""
        began = time.monotonic()
        if status := self.start(name, *crash_point).wait(timeout=self.limit):
            raise RuntimeError(f"{name} ended with status {status}:\n{self.log(name).read_text()[-3000:]}")
        return time.monotonic() - began


@dataclasses.dataclass
class Undisturbed:
    """A run that was never killed: its result, its duration, and the number of events of each kind."""

    contents: dict
    seconds: float
    events: dict[str, int]


def kill_at_random(process: subprocess.Popen, draw: random.Random, seconds: float) -> str | None:
    """Kills the process at a random time within `seconds`. Returns the time, or None if the process ended first."""
    after = draw.uniform(0, seconds)
    try:
        process.wait(timeout=after)
        return None
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return f"{after:.1f} s"


def kill(place: Place, name: str, kind: str, draw: random.Random, undisturbed: Undisturbed) -> str | None:
    """Starts or resumes the run, and kills it. Returns the moment in words, or None if the run ended before it."""
    if kind == UNIFORM:
        return kill_at_random(place.start(name), draw, undisturbed.seconds)
    share = 1.0 if kind == "export" else 0.25  # of the run's events; exports are made at the end only
    k = draw.randint(1, math.ceil(share * undisturbed.events[kind]))
    status = place.start(name, "SIGKILL", kind, k).wait(timeout=place.limit)
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{name} ended with status {status}:\n{place.log(name).read_text()[-3000:]}")
    return f"{kind} {k}" if status else None


def contents(folder: pathlib.Path) -> dict:
    """The results of a finished run that do not depend on the clock, TensorBoard's included, and its files' names."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = golden.contents(folder, BY_THE_CLOCK)
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    for tag in events.Tags()["scalars"]:
        if not tag.startswith(BY_THE_CLOCK):
            points = [(point.step, point.value) for point in events.Scalars(tag)]
            found[f"TensorBoard {tag}"] = np.array(points, np.float64)
    for tag in sorted(set(events.Tags()["tensors"]) & set(TEXTS)):
        texts = [(point.step, str(point.tensor_proto.string_val)) for point in events.Tensors(tag)]
        found[f"TensorBoard text {tag}"] = json.dumps(shown(texts))
    for path in folder.rglob("*"):
        logs = path.relative_to(folder).parts[0] == "vllm" and not path.name.startswith(".")
        if "events.out" not in path.name and "state/" not in str(path) and not logs:  # orbax draws names of files
            found[f"file {path.relative_to(folder)}"] = np.zeros(0)
    return found


def shown(texts: list[tuple[int, str]]) -> dict[int, str]:
    """The texts of a tag that TensorBoard shows: a step that is written again replaces itself and all later ones."""
    found: dict[int, str] = {}
    for step, text in texts:
        found = {old: value for old, value in found.items() if old < step} | {step: text}
    return found


# ---- leftovers


def marked_processes() -> set[int]:
    """The processes that this program and its children started, without this one."""
    mark, found = f"{MARK}={os.environ[MARK]}".encode(), set()
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
    return found


def left_behind(place: Place, before: set[str], processes: set[int]) -> list[str]:
    """A line for each process, segment or temporary file that is there and was not there before the runs."""
    deadline = time.monotonic() + GONE_SECONDS
    while (found := marked_processes() - processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    names = {pid: pathlib.Path(f"/proc/{pid}/cmdline") for pid in found}
    lines = [f"process {pid}: {p.read_text()[:80] if p.exists() else ''}" for pid, p in names.items()]
    lines += [f"segment {path.name}" for path in SHARED_MEMORY.iterdir() if path.name not in before]
    caches = "torchinductor"  # the folder of PyTorch's compiled kernels
    files = [path for path in (place.out / "tmp").rglob("*") if not path.is_dir() and caches not in str(path)]
    return lines + [f"temporary file {path}" for path in files]


@contextlib.contextmanager
def alone(module: str = "tests.chaos") -> Iterator[None]:
    """Runs this program (`module`) again in a namespace with a /dev/shm of its own, and exits with its status.

    In the common one, segments of other programs would look like ours.
    """
    mount = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
    unshared = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    if MARK in os.environ:
        yield
    elif (
        shutil.which("unshare") and not subprocess.run([*unshared, "true"], capture_output=True, check=False).returncode
    ):
        command = [*unshared, sys.executable, "-m", module, *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=os.environ | {MARK: uuid.uuid4().hex}, check=False).returncode)
    else:
        sys.exit("error: this user may not mount a file system in a namespace.")


# ---- the parts


class Plan:
    """The kills that are still to be made. Runs take them from here, and return those that came too late."""

    def __init__(self, kinds: list[str], least_runs: int):
        self._kinds, self._runs, self._least, self._lock = collections.deque(kinds), 0, least_runs, threading.Lock()

    def next_run(self) -> int | None:
        """The number of a new run; None if no kill is left and there are enough runs."""
        with self._lock:
            if not self._kinds and self._runs >= self._least:
                return None
            self._runs += 1
            return self._runs

    def take(self) -> str | None:
        """The kind of the next kill, None if there is none."""
        with self._lock:
            return self._kinds.popleft() if self._kinds else None

    def put_back(self, kind: str) -> None:
        """Returns a kill that was not made."""
        with self._lock:
            self._kinds.append(kind)


def disturb(place: Place, name: str, plan: Plan, draw: random.Random, undisturbed: Undisturbed) -> list[str]:
    """Kills the run up to KILLS_PER_RUN times, and then finishes it. Returns the moments of the kills."""
    moments: list[str] = []
    while len(moments) < KILLS_PER_RUN and (kind := plan.take()):
        moment = kill(place, name, kind, draw, undisturbed)
        if moment is None:
            plan.put_back(kind)
            break
        moments.append(moment)
    place.finish(name)
    return moments


def compile_programs(place: Place) -> None:
    """Makes a run of one step, after which all programs are in the compile cache."""
    dataclasses.replace(place, arguments=(*place.arguments, "--config.steps=1")).finish("warm")


def undisturbed_run(place: Place, timed: bool) -> Undisturbed:
    """Makes the run to compare with, counts its events, and prints its size.

    timed: its duration is needed, so the programs are compiled before it.
    """
    if timed:
        compile_programs(place)
    counts = place.out / "undisturbed.events"
    seconds = place.finish("undisturbed", counts)
    events = json.loads(counts.read_text())
    wanted = contents(place.out / "undisturbed")
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(events.items()))
    print(f"undisturbed: {seconds:.1f} s; {len(wanted)} arrays, texts and figures; events: {found}", flush=True)
    return Undisturbed(wanted, seconds, events)


@dataclasses.dataclass
class Tally:
    """The result of a part."""

    runs: int = 0
    bad: int = 0
    uniform: int = 0
    aimed: int = 0


def part(place: Place, kinds: list[str], least_runs: int, seed: int, at_a_time: int, wanted: Undisturbed) -> Tally:
    """Makes disturbed runs until all kills of `kinds` are made, compares them, and prints a line for each."""
    plan, tally, lock = Plan(kinds, least_runs), Tally(), threading.Lock()
    segments = {path.name for path in SHARED_MEMORY.iterdir()}

    def work() -> None:
        while number := plan.next_run():
            name = f"run{number}"
            try:
                moments = disturb(place, name, plan, random.Random(f"{seed} {place.out.name} {number}"), wanted)
            except RuntimeError as e:  # the other runs go on
                print(f"{name}: {e}", flush=True)
                tally.bad += 1
                continue
            with lock:
                lines = golden.compare(wanted.contents, contents(place.out / name), 0.0)
                tally.runs, tally.bad = tally.runs + 1, tally.bad + bool(lines)
                tally.uniform += sum(moment.endswith(" s") for moment in moments)
                tally.aimed += sum(not moment.endswith(" s") for moment in moments)
                result = "differs" if lines else "equal"
                print(f"{name}, killed at {', '.join(moments)}: {result}", *lines[:20], sep="\n    ", flush=True)

    processes = marked_processes()
    with concurrent.futures.ThreadPoolExecutor(at_a_time) as pool:
        for done in [pool.submit(work) for _ in range(at_a_time)]:
            done.result()
    left = left_behind(place, segments, processes)
    print(
        f"{place.out.name}: {tally.uniform} uniform and {tally.aimed} aimed kills in {tally.runs} runs, {tally.bad} "
        f"differ; {len(left)} things left behind",
        *left[:20],
        sep="\n    ",
        flush=True,
    )
    tally.bad += bool(left)
    return tally


def make_place(scratch: pathlib.Path, name: str, model: pathlib.Path, *more: str) -> Place:
    """A folder for the runs of a part."""
    out = scratch / name
    (out / "tmp").mkdir(parents=True)
    data = (f"--config.data.path={model}/train.jsonl", f"--config.eval.sets.heldout.path={model}/heldout.jsonl")
    return Place(out, (*ARGUMENTS, f"--config.model.path={model}", *data, *more))


@contextlib.contextmanager
def vllm_server(model: pathlib.Path, folder: pathlib.Path) -> Iterator[Server]:
    """A vLLM server that is attached to runs.

    It decodes one sequence at a time: with other sequences in the batch, vLLM's kernels may round differently.
    """
    settings = Settings(str(VLLM), "float32", 28, max_sequences=1, memory_fraction=1)
    server = Server("server", settings, folder / "server.log", start_seconds=600, max_restarts=0)
    try:
        server.start(model)
        server.wait()
        yield server
    finally:
        server.stop()


def vllm_arguments(*more: str) -> tuple[str, ...]:
    """The arguments of a run that vLLM servers sample."""
    return ("--config.rollout.sampler=vllm", "--config.rollout.max_logprob_gap=1e-4", *more)


def kinds_of(uniform: int, aimed: int, aims: tuple[str, ...], seed: int) -> list[str]:
    """The kinds of the kills of a part, in a random order."""
    kinds = [UNIFORM] * uniform + [aims[i % len(aims)] for i in range(aimed)]
    random.Random(seed).shuffle(kinds)
    return kinds


def main() -> int:
    """Makes all parts. Returns 0 if all runs are equal and leave nothing behind, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uniform", type=int, default=60)
    parser.add_argument("--aimed", type=int, default=24)
    parser.add_argument("--runs", type=int, default=LEAST_RUNS, help="least number of runs")
    parser.add_argument("--vllm", type=int, default=12, help="kills of trainers with a vLLM server")
    parser.add_argument("--steps", type=int, default=12, help="steps of a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=pathlib.Path, default=REPOSITORY / "cache/miniature")
    args = parser.parse_args()
    steps = f"--config.steps={args.steps}"
    began, bad, model = time.monotonic(), 0, args.model.absolute()
    with alone(), tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        if args.uniform or args.aimed:
            place = make_place(folder, "in-process", model, steps)
            kinds = kinds_of(args.uniform, args.aimed, AIMS, args.seed)
            wanted = undisturbed_run(place, timed=args.uniform > 0)
            bad += part(place, kinds, args.runs, args.seed, min(AT_A_TIME, args.runs), wanted).bad
        if args.vllm:
            with vllm_server(model, folder) as server:
                attached = vllm_arguments(f"--config.rollout.servers=('{server.url}',)")
                place = make_place(folder, "attached", model, steps, *attached)
                wanted = undisturbed_run(place, timed=True)
                kinds = kinds_of(args.vllm // 3, args.vllm - args.vllm // 3, VLLM_AIMS, args.seed)
                bad += part(place, kinds, 1, args.seed, 1, wanted).bad
            own = ("max_sequences=1", "memory_fraction=1", "start_seconds=600")
            own = [f"--config.rollout.vllm.{field}" for field in own]
            own = vllm_arguments(f"--config.rollout.vllm.python={VLLM}", *own)
            place = make_place(folder, "own-server", model, steps, *own)
            bad += part(place, list(VLLM_AIMS), 1, args.seed, 1, wanted).bad
        print(f"{time.monotonic() - began:.0f} s")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
