"""Kills a training run again and again, and compares its files with an undisturbed run's, bit for bit.

    python -m tests.chaos [--kills 80] [--seed 0] [--model cache/miniature]

Each run trains a few small steps with a checkpoint after each, and is killed by SIGKILL until it reaches its end. Every
fourth kill waits for a moment at which a file is being written or renamed. The others come at a random time.
Parameters, optimizer state, rollouts, metrics.jsonl and TensorBoard's scalars must equal those of a run that was never
killed, and no temporary file may be left. Prints one line for each run. The exit status is 1 if a run differs.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from tests import golden
from tests.helpers import REPOSITORY

STEPS = 8
ARGUMENTS = (
    "--config=configs/quickstart.py",
    f"--config.steps={STEPS}",
    "--config.batch.prompts_per_step=4",
    "--config.batch.samples_per_prompt=4",
    "--config.batch.microbatch_sequences=16",
    "--config.checkpoint.every=1",
    "--config.eval.every=4",
    "--config.eval.samples=2",
    "--config.eval.sets.heldout.limit=4",
    "--config.rollout.prompts_per_call=4",
)
# An aimed kill comes as soon as a new path of one of these patterns exists in the run folder.
AIMS = (
    "checkpoints/.partial",
    "checkpoints/.partial/record.json",
    "checkpoints/{step}",
    "rollouts/*partial*",
    ".*partial*",
    "final",
)
BY_THE_CLOCK = ("time/", "workers/seconds", "publish/", "rollout/tokens_per_second", "update/mfu")


def start(model: pathlib.Path, out: pathlib.Path, name: str, steps: int = STEPS) -> subprocess.Popen:
    """Starts or resumes the run. Appends its output to <out>/<name>.log."""
    command = [sys.executable, "-m", "srt_jax.main", *ARGUMENTS, f"--config.out={out}", f"--config.name={name}"]
    command += [f"--config.model.path={model}", f"--config.data.path={model}/train.jsonl", f"--config.steps={steps}"]
    command += [f"--config.eval.sets.heldout.path={model}/heldout.jsonl"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    with (out / f"{name}.log").open("a") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)


def finish(model: pathlib.Path, out: pathlib.Path, name: str) -> float:
    """Starts or resumes the run and waits for its end. Returns the seconds. Exits if the run fails."""
    began = time.monotonic()
    if start(model, out, name).wait(timeout=300):
        sys.exit(f"error: the run {name} failed:\n{(out / f'{name}.log').read_text()[-3000:]}")
    return time.monotonic() - began


def kill_at_random(process: subprocess.Popen, draw: random.Random, seconds: float) -> str:
    """Kills the process at a random time within `seconds`. Returns the time, or "ended" if the process ended first."""
    after = draw.uniform(0, seconds)
    try:
        process.wait(timeout=after)
        return "ended"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return f"{after:.1f} s"


def kill_at(process: subprocess.Popen, folder: pathlib.Path, aim: str) -> str:
    """Kills the process when a new path of the pattern `aim` appears. Returns `aim`, or "ended" without a kill."""
    before = set(folder.glob(aim))
    while process.poll() is None:
        if set(folder.glob(aim)) - before:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return aim
        before &= set(folder.glob(aim))
    return "ended"


def contents(folder: pathlib.Path) -> dict:
    """The results of a finished run that do not depend on the clock. They include TensorBoard's scalars."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = golden.contents(folder, BY_THE_CLOCK)
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    for tag in events.Tags()["scalars"]:
        if not tag.startswith(BY_THE_CLOCK):
            points = [(point.step, point.value) for point in events.Scalars(tag)]
            found[f"TensorBoard {tag}"] = np.array(points, np.float64)
    for path in folder.rglob("*"):
        if "events.out" not in path.name and "state/" not in str(path):  # orbax draws the names of its files
            found[f"file {path.relative_to(folder)}"] = np.zeros(0)
    return found


def disturb(model: pathlib.Path, out: pathlib.Path, name: str, draw: random.Random, seconds: float) -> list[str]:
    """Kills the run until it reaches its end. Returns the times of the kills. seconds: duration of a whole run."""
    moments: list[str] = []
    while True:
        process = start(model, out, name)
        if len(moments) % 4 == 3:
            moment = kill_at(process, out / name, draw.choice(AIMS).format(step=draw.randint(1, STEPS)))
        else:
            moment = kill_at_random(process, draw, seconds)
        if moment == "ended":
            finish(model, out, name)
            return moments
        moments.append(moment)


def main() -> int:
    """Makes the undisturbed run and the others. Returns 0 if all are equal, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=pathlib.Path, default=REPOSITORY / "cache/miniature")
    args = parser.parse_args()
    draw, runs, differing, killed, model = random.Random(args.seed), 0, 0, 0, args.model.absolute()
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch)
        finish(model, out, "warm")  # compiles
        seconds = finish(model, out, "undisturbed")
        wanted = contents(out / "undisturbed")
        print(f"undisturbed: {seconds:.1f} s, {len(wanted)} arrays, texts and figures", flush=True)
        while killed < args.kills:
            runs += 1
            moments = disturb(model, out, f"run{runs}", draw, seconds)
            lines = golden.compare(wanted, contents(out / f"run{runs}"), 0.0)
            differing, killed = differing + bool(lines), killed + len(moments)
            result = "differs" if lines else "equal"
            print(f"run {runs}, killed at {', '.join(moments)}: {result}", *lines[:20], sep="\n    ", flush=True)
    print(f"{killed} kills in {runs} runs, {differing} runs differ")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
