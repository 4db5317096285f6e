"""Measures how long a stop request takes: sends SIGTERM to training runs at many moments.

    python -m tests.stops [--seed 0] [--vllm 8] [--model cache/miniature]

Each run gets the signal while it starts, samples, evaluates, updates, saves or exports. The last runs use a real vLLM
server, and get the signal while they publish weights or while the server hangs, stopped by SIGSTOP. Every run must be
gone within 15 seconds plus one update, and its newest checkpoint must have the last recorded step. Prints one line for
each run. The exit status is 1 if one is slower or loses a step. On a busy machine, compare the CPU seconds.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from srt_jax.rollout.vllm.server import Server
from tests.chaos import VLLM, Place, alone, compile_programs, make_place, vllm_arguments, vllm_server
from tests.crash_point import SENT
from tests.helpers import REPOSITORY

LIMIT = 15.0  # seconds, beside one update
START = "start"
HUNG = "hung server"
# moment -> (number of runs, last event that may get the signal, most seconds between event and signal). The runs make
# 6 steps and 4 evaluations.
MOMENTS = {
    START: (4, 0, 0),
    "sampling": (5, 5, 2),
    "evaluation": (5, 3, 4),
    "update": (4, 5, 2),
    "save": (2, 30, 0),
    "grading": (1, 40, 0),
    "export": (1, 10, 0),
}
STEPS = ("--config.steps=6", "--config.eval.every=2", "--config.checkpoint.every=2")
LONG = ("--config.eval.sets.heldout.limit=64", "--config.eval.samples=32", "--config.rollout.prompts_per_call=8")
SIZE = ("--config.batch.prompts_per_step=16", "--config.batch.samples_per_prompt=32")


@dataclasses.dataclass
class Stop:
    """The end of a run after a signal."""

    status: int
    seconds: float  # from the signal to the end of the process
    cpu: float  # CPU seconds of the process in that time
    update: float  # seconds of the longest update so far
    lost: int  # recorded steps without a checkpoint

    @property
    def good(self) -> bool:
        """Tells whether the run ended in time, and lost nothing."""
        return self.seconds <= LIMIT + self.update and not self.lost and self.status in (0, 1, 130)


def wait_for_step(place: Place, name: str, process: subprocess.Popen) -> None:
    """Waits until the run has recorded its first step."""
    path = place.out / name / "metrics.jsonl"
    while process.poll() is None and not (path.exists() and '"step": 1' in path.read_text()):
        time.sleep(0.1)


def cpu_seconds(process: subprocess.Popen) -> float:
    """CPU seconds of a process, which may have ended. Nothing may have waited for it."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stop(place: Place, name: str, moment: str, draw: random.Random, server: Server | None, event: str) -> Stop:
    """Starts a run, sends the signal at the moment (after `event` of tests.crash_point), and waits for the end."""
    if moment not in (START, HUNG):
        process = place.start(name, "SIGTERM", moment, event)
    else:
        process = place.start(name)
        if moment == HUNG:
            wait_for_step(place, name, process)
            time.sleep(draw.uniform(0, 3))
            (group,) = [server.process.pid] if server else servers_of(process)
            os.killpg(group, signal.SIGSTOP)
            time.sleep(draw.uniform(0, 5))
        else:
            time.sleep(draw.uniform(2, 20))
        sent, used = time.time(), cpu_seconds(process)
        process.send_signal(signal.SIGTERM)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    ended, cpu = time.time(), cpu_seconds(process)
    status = process.wait()
    if moment == HUNG and server:
        os.killpg(server.process.pid, signal.SIGCONT)
    if moment not in (START, HUNG):
        log = place.log(name).read_text()
        if SENT not in log:
            raise RuntimeError(f"{name} ended with status {status} before {moment} {event}:\n{log[-3000:]}")
        sent, used = map(float, log.rpartition(SENT)[2].split()[:2])
    return Stop(status, ended - sent, cpu - used, *lost_steps(place.out / name))


def servers_of(process: subprocess.Popen) -> list[int]:
    """The process groups of the servers of a trainer."""
    tasks = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
    children = [pid for task in tasks for pid in (task / "children").read_text().split()]
    return [int(pid) for pid in children if b"guard.py" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()]


def lost_steps(folder: pathlib.Path) -> tuple[float, int]:
    """(seconds of the longest update, recorded steps after the newest checkpoint)."""
    path = folder / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    saved = [int(p.name) for p in (folder / "checkpoints").glob("[0-9]*")] if (folder / "checkpoints").exists() else []
    update = max((record.get("time/update", 0.0) for record in records), default=0.0)
    return update, max((record["step"] for record in records), default=0) - max(saved, default=0)


def measure(
    place: Place, moments: dict[str, tuple[int, int, float]], seed: int, server: Server | None = None
) -> list[Stop]:
    """Makes the runs of a place, and prints a line for each."""
    stops = []
    for moment, (count, last, most) in moments.items():
        for i in range(count):
            name = f"{moment.replace(' ', '-')}{i}"
            draw = random.Random(f"{seed} {place.out.name} {name}")
            event = f"{draw.randint(1, max(1, last))}+{draw.uniform(0, most):.2f}"
            found = stop(place, name, moment, draw, server, event)
            stops.append(found)
            words = "good" if found.good else "BAD"
            print(
                f"{place.out.name}, {moment} {'' if moment in (START, HUNG) else event}: status {found.status} after "
                f"{found.seconds:.1f} s, {found.cpu:.1f} s of CPU (an update takes {found.update:.1f} s), "
                f"{found.lost} steps lost: {words}",
                flush=True,
            )
            if not found.good:
                print(place.log(name).read_text()[-1500:], flush=True)
    return stops


def main() -> int:
    """Makes all runs. Returns 0 if all end in time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vllm", type=int, default=8, help="runs with a vLLM server; 0: none")
    parser.add_argument("--in_process", type=int, default=1, help="0: no runs with the in-process sampler")
    parser.add_argument("--model", type=pathlib.Path, default=REPOSITORY / "cache/miniature")
    args = parser.parse_args()
    model, stops = args.model.absolute(), []
    with alone("tests.stops"), tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        if args.in_process:
            place = make_place(folder, "in-process", model, *STEPS, *SIZE, *LONG)
            compile_programs(place)
            stops += measure(place, MOMENTS, args.seed)
        if args.vllm:
            with vllm_server(model, folder) as server:
                attached = vllm_arguments(f"--config.rollout.servers=('{server.url}',)")
                place = make_place(folder, "attached", model, *STEPS, *attached)
                compile_programs(place)
                moments = {HUNG: (args.vllm // 2, 0, 0), "publish": (2, 20, 0), "reload": (1, 20, 0)}
                stops += measure(place, moments, args.seed, server)
            own = vllm_arguments(f"--config.rollout.vllm.python={VLLM}", "--config.rollout.vllm.memory_fraction=1")
            place = make_place(folder, "own-server", model, *STEPS, *own, "--config.rollout.vllm.start_seconds=600")
            stops += measure(place, {HUNG: (1, 0, 0)}, args.seed)
        slow = max(found.seconds - found.update for found in stops)
        bad = sum(not found.good for found in stops)
        cpu = max(found.cpu for found in stops)
        print(f"{len(stops)} stops, {bad} bad; slowest {slow:.1f} s beside one update; at most {cpu:.1f} s of CPU")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
