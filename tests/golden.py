"""Tests whether a commit and the working tree compute the same bits on this machine.

    python tests/golden.py COMMIT [--runs quickstart dapo resume processes] [--ulp 0]

Makes each run twice, once in a worktree of COMMIT and once in the working tree, and compares their folders: the trained
weights, the optimizer's state in the last checkpoint, every saved rollout, and every metric that does not depend on the
clock. --ulp is the allowed distance of two floats in units in the last place, for changes after which XLA fuses
operations differently. Prints one line for each run. The exit status is 1 if a run differs. Stores no hashes, because
they would differ between processors. Needs the miniature's base model (launch/quickstart.sh makes it).
"""

import argparse
import contextlib
import gzip
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
from safetensors.numpy import load_file

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
# Metrics that depend on the clock, the load of the machine or the number of programs.
BY_THE_CLOCK = ("time/", "grader/", "workers/", "publish/", "rollout/tokens_per_second", "update/mfu")
SMALL = ("--config.eval.sets.heldout.limit=16", "--config.eval.samples=4")
QUICKSTART = ("--config=configs/quickstart.py", *SMALL)
DAPO = ("--config=configs/rl.py:dapo,tiny", *SMALL)

# name -> the commands of a run, one after another in the same folder: (arguments, number of processes).
RUNS = {
    "quickstart": [((*QUICKSTART, "--config.steps=5"), 1)],
    "dapo": [((*DAPO, "--config.steps=3"), 1)],
    "resume": [((*QUICKSTART, "--config.steps=2"), 1), ((*QUICKSTART, "--config.steps=4"), 1)],
    "processes": [((*QUICKSTART, "--config.steps=2", "--config.mesh.cpu_devices=2"), 2)],
}


@contextlib.contextmanager
def worktree(commit: str) -> Iterator[pathlib.Path]:
    """A worktree of the commit in a temporary folder. It shares the folder cache with this checkout."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = pathlib.Path(scratch) / "tree"
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", str(directory), commit], cwd=REPOSITORY, check=True
        )
        try:
            (directory / "cache").symlink_to((REPOSITORY / "cache").resolve())
            yield directory
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(directory)], cwd=REPOSITORY, check=True)


def run(tree: pathlib.Path, out: pathlib.Path, name: str) -> pathlib.Path:
    """Makes a run with the code of a tree. Returns its folder. Exits if a command fails."""
    for arguments, processes in RUNS[name]:
        command = [sys.executable, "-m", "srt_jax.main", *arguments, f"--config.out={out}", f"--config.name={name}"]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
        if processes > 1:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                environment |= {
                    "JAX_COORDINATOR_ADDRESS": f"localhost:{free.getsockname()[1]}",
                    "JAX_NUM_PROCESSES": str(processes),
                }
        started = [
            subprocess.Popen(
                command,
                cwd=tree,
                env=environment | {"JAX_PROCESS_ID": str(i)},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for i in range(processes)
        ]
        printed = [process.communicate()[0] for process in started]
        for process, text in zip(started, printed):
            if process.returncode:
                sys.exit(f"error: {' '.join(command)} failed in {tree}:\n{text[-3000:]}")
    return out / name


def contents(directory: pathlib.Path, by_the_clock: tuple[str, ...] = BY_THE_CLOCK) -> dict[str, np.ndarray | str]:
    """All data of a run that must be equal, by name, without metrics whose tag begins with one of `by_the_clock`."""
    found: dict = {f"weights {name}": x for name, x in load_file(directory / "final/model.safetensors").items()}
    found |= {f"state {name}": x for name, x in saved_state(directory).items()}
    for path in sorted((directory / "rollouts").iterdir()):
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found |= {f"{path.name} {name}": arrays[name] for name in arrays.files}
        else:
            found[path.name] = gzip.decompress(path.read_bytes()).decode()
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        step = record.pop("step")
        found |= {
            f"metrics of step {step}: {name}": json.dumps({name: value}) if name == "warning" else np.float32(value)
            for name, value in record.items()
            if not name.startswith(by_the_clock)
        }
    return found


def saved_state(directory: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of the newest checkpoint: parameters, the optimizer's moments and counters."""
    import jax
    import orbax.checkpoint as ocp
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # orbax warns about metadata that a folder with one item does not have
    steps = (directory / "checkpoints").absolute()
    newest = max((path for path in steps.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    with ocp.PyTreeCheckpointer() as checkpointer:
        structure = checkpointer.metadata(newest / "state").item_metadata
        restore = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), structure)
        state = checkpointer.restore(newest / "state", restore_args=restore)
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(state)}


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two arrays in units in the last place; infinite if shapes or dtypes differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return np.inf
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else np.inf
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return np.inf
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    return float(np.max(np.abs(a - b) / np.spacing(np.maximum(np.abs(a), np.abs(b))), initial=0.0))


def compare(before: dict, after: dict, ulp: float) -> list[str]:
    """One line for each difference."""
    lines = [
        f"{name}: only in the {where}"
        for where, ours, theirs in (("commit", before, after), ("working tree", after, before))
        for name in sorted(ours.keys() - theirs.keys())
    ]
    for name in sorted(before.keys() & after.keys()):
        a, b = before[name], after[name]
        if isinstance(a, str):
            if a != b:
                lines.append(f"{name}: {first_difference(a, str(b))}")
        elif (apart := distance(np.asarray(a), np.asarray(b))) > ulp:
            lines.append(f"{name}: {apart:g} ulp apart")
    return lines


def first_difference(a: str, b: str) -> str:
    """The fields in which the first differing rows of two JSONL texts differ."""
    for number, (x, y) in enumerate(zip(a.splitlines(), b.splitlines()), 1):
        if x != y:
            left, right = json.loads(x), json.loads(y)
            names = [name for name in left.keys() | right.keys() if left.get(name) != right.get(name)]
            return f"row {number} differs in {', '.join(sorted(names)) or 'the order of its fields'}"
    return "one has more rows than the other"


def main() -> int:
    """Makes and compares the runs. Returns 0 if all are equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--ulp", type=float, default=0.0)
    args = parser.parse_args()
    differing = 0
    with worktree(args.commit) as tree, tempfile.TemporaryDirectory() as scratch:
        for name in args.runs:
            before, after = (
                contents(run(where, pathlib.Path(scratch) / which, name))
                for where, which in ((tree, "before"), (REPOSITORY, "after"))
            )
            lines = compare(before, after, args.ulp)
            differing += bool(lines)
            same = f"equal, {len(after)} arrays, texts and figures" if not lines else f"{len(lines)} differ"
            print(f"{name}: {same}", *lines[:20], sep="\n    ", flush=True)
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
