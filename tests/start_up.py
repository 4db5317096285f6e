"""Measures what a start, a resumption and checkpoints cost on the miniature.

    python -m tests.start_up [--starts 5] [--model cache/miniature]

All programs are in the compile cache. Wall times are valid on a quiet machine only, so the load is printed, too. A
start ends when the first step begins. The targets are a start within 5 seconds, a resumption within a start plus one
step, and saves that take less than 5% of a step when every step is saved.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from tests.helpers import REPOSITORY

STEPS = 12
FIRST = 3  # the first steps of a process are slower, so they do not count


def seconds_to_first_step(arguments: list[str], name: str, done: int, steps: int) -> tuple[float, float]:
    """(wall, CPU) seconds from the start of a run until it has prepared everything. Then waits for its end.

    done: steps of the checkpoint from which it resumes, 0 for a new run. The CPU seconds are those of its own process.
    """
    began, errors = time.monotonic(), []
    process = subprocess.Popen(
        [sys.executable, "-m", "srt_jax.main", *arguments, f"--config.name={name}", f"--config.steps={steps}"],
        cwd=REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        errors.append(line)
        if line.startswith(f"step {done}/"):
            wall = time.monotonic() - began
            fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    if process.wait():
        raise RuntimeError(f"{name} ended with status {process.returncode}: {''.join(errors[-5:])}")
    return wall, cpu


def main() -> None:
    """Prints a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--model", type=pathlib.Path, default=REPOSITORY / "cache/miniature")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = args.model.absolute()
        run = [
            "--config=configs/quickstart.py",
            f"--config.model.path={model}",
            f"--config.data.path={model}/train.jsonl",
            "--config.eval.sets={}",
            "--config.checkpoint.every=1",
            f"--config.out={scratch}",
        ]
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
        seconds_to_first_step(run, "warm", 0, 1)
        starts = [seconds_to_first_step(run, f"start{i}", 0, 1) for i in range(args.starts)]
        seconds_to_first_step(run, "run", 0, STEPS)
        path = pathlib.Path(scratch) / "run" / "metrics.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()][FIRST:]
        resumed = [seconds_to_first_step(run, "run", done, done + 1) for done in range(STEPS, STEPS + args.starts)]
    for what, found in (("start", starts), ("resumption", resumed)):
        wall, cpu = zip(*found)
        print(
            f"{what}: {min(wall):.2f} to {max(wall):.2f} s, median {statistics.median(wall):.2f} s; median of CPU "
            f"{statistics.median(cpu):.2f} s"
        )
    step = statistics.median(record["time/step"] for record in records)
    save = statistics.median(record["time/save"] for record in records)
    print(f"a step: {step:.3f} s, of which a save takes {save:.4f} s ({save / step:.1%})")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
