"""Measures how long a stop request takes: sends SIGTERM to training runs at many moments.

    python -m tests.stops [--seed 0] [--vllm 8] [--model cache/miniature]

Each run gets the signal while it starts, samples, evaluates, updates, saves or exports. The last runs use a real vLLM
server, and get the signal while they publish weights or while the server hangs, stopped by SIGSTOP. Every run must be
gone within 15 seconds plus one update, and its newest checkpoint must have the last recorded step. Prints one line for
each run. The exit status is 1 if one is slower or loses a step.
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
from tests.chaos import VLLM, Place, alone, make_place, vllm_arguments, vllm_server
from tests.crash_point import SENT
from tests.helpers import REPOSITORY

LIMIT = 15.0  # seconds, beside one update
START = "start"
HUNG = "hung server"
# moment -> (number of runs, last event that may get the signal). The runs make 6 steps and 4 evaluations.
MOMENTS = {
    START: (4, 0),
    "sampling": (5, 5),
    "evaluation": (5, 3),
    "update": (4, 5),
    "save": (2, 30),
    "grading": (1, 40),
    "export": (1, 10),
}
STEPS = ("--config.steps=6", "--config.eval.every=2", "--config.checkpoint.every=2")
LONG = ("--config.eval.sets.heldout.limit=128", "--config.eval.samples=64", "--config.rollout.prompts_per_call=16")
SIZE = ("--config.batch.prompts_per_step=32", "--config.batch.samples_per_prompt=32")


@dataclasses.dataclass
class Stop:
    """The end of a run after a signal."""

    status: int
    seconds: float  # from the signal to the end of the process
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


def stop(place: Place, name: str, moment: str, last: int, draw: random.Random, server: Server | None) -> Stop:
    """Starts a run, sends the signal at the moment, and waits for the end."""
    sent = None
    if moment == START:
        process = place.start(name)
        time.sleep(draw.uniform(2, 20))
        sent = time.time()
        process.send_signal(signal.SIGTERM)
    elif moment == HUNG:
        process = place.start(name)
        wait_for_step(place, name, process)
        time.sleep(draw.uniform(0, 3))
        (group,) = [server.process.pid] if server else servers_of(process)
        os.killpg(group, signal.SIGSTOP)
        time.sleep(draw.uniform(0, 5))
        sent = time.time()
        process.send_signal(signal.SIGTERM)
    else:
        process = place.start(name, "SIGTERM", moment, draw.randint(1, last))
    status = process.wait(timeout=place.limit)
    ended = time.time()
    if moment == HUNG and server:
        os.killpg(server.process.pid, signal.SIGCONT)
    if sent is None:
        sent = float(place.log(name).read_text().rpartition(SENT)[2].split()[0])
    return Stop(status, ended - sent, *lost_steps(place.out / name))


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


def measure(place: Place, moments: dict[str, tuple[int, int]], seed: int, server: Server | None = None) -> list[Stop]:
    """Makes the runs of a place, and prints a line for each."""
    stops = []
    for moment, (count, last) in moments.items():
        for i in range(count):
            name = f"{moment.replace(' ', '-')}{i}"
            found = stop(place, name, moment, last, random.Random(f"{seed} {place.out.name} {name}"), server)
            stops.append(found)
            words = "good" if found.good else "BAD"
            print(
                f"{place.out.name}, {moment}: status {found.status} after {found.seconds:.1f} s (an update takes "
                f"{found.update:.1f} s), {found.lost} steps lost: {words}",
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
            place.finish("warm")
            stops += measure(place, MOMENTS, args.seed)
        if args.vllm:
            with vllm_server(model, folder) as server:
                attached = vllm_arguments(f"--config.rollout.servers=('{server.url}',)")
                place = make_place(folder, "attached", model, *STEPS, *attached)
                place.finish("warm")
                moments = {HUNG: (args.vllm // 2, 0), "publish": (2, 20), "reload": (1, 20)}
                stops += measure(place, moments, args.seed, server)
            own = vllm_arguments(f"--config.rollout.vllm.python={VLLM}", "--config.rollout.vllm.memory_fraction=1")
            place = make_place(folder, "own-server", model, *STEPS, *own, "--config.rollout.vllm.start_seconds=600")
            stops += measure(place, {HUNG: (1, 0)}, args.seed)
        slow = max(found.seconds - found.update for found in stops)
        bad = sum(not found.good for found in stops)
        print(f"{len(stops)} stops, {bad} bad; slowest {slow:.1f} s beside one update")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
