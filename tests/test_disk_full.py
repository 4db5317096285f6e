"""A disk that is full: the last line says which file, and nothing that was complete is lost.

A file system of a few pages in memory stands in for the disk, mounted in a namespace of the process's own.
"""

import os
import re
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY

PROBE = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /tmp"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        subprocess.run(["sh", "-c", "command -v unshare"], capture_output=True, check=False).returncode != 0
        or subprocess.run(PROBE, capture_output=True, check=False).returncode != 0,
        reason="this user may not mount a file system in a namespace",
    ),
]
ARGUMENTS = (
    "--config=configs/quickstart.py",
    "--config.batch.prompts_per_step=4",
    "--config.batch.samples_per_prompt=4",
    "--config.batch.microbatch_sequences=16",
    "--config.rollout.prompts_per_call=4",
    "--config.eval.sets={}",
    "--config.checkpoint.every=1",
    "--config.checkpoint.keep=1",
    "--config.name=run",
)


def train(untrained, out, steps, mounts=""):
    """Runs `steps` steps after the shell commands `mounts`; returns (exit status, stdout, stderr)."""
    command = [sys.executable, "-m", "srt_jax.main", *ARGUMENTS, f"--config.out={out}", f"--config.steps={steps}"]
    command += [f"--config.model.path={untrained}", f"--config.data.path={untrained}/train.jsonl"]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{mounts}\nexec "$@"', "sh", *command],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def begun(untrained, tmp_path_factory):
    """A run of one step, without its exports."""
    out = tmp_path_factory.mktemp("begun")
    status, _, stderr = train(untrained, out, 1)
    assert status == 0, stderr
    return out


# the full disk -> (folder that becomes a small file system with a copy of its content, the words of the message)
FULL = {
    "checkpoint": ("checkpoints", r"the checkpoint of step \d+ could not be written to .*/run/checkpoints \("),
    "rollouts": ("rollouts", r".*/run/rollouts/step_\d+\.\w+(\.gz)? could not be written \(No space left on device\)"),
    "records": (".", r".*/run/(metrics\.jsonl|events\.out\.tfevents\.\*|rollouts/.*|checkpoints.*)"),
}


@pytest.mark.parametrize("full", FULL)
def test_a_full_disk_is_one_sentence_that_names_the_file(full, begun, untrained, tmp_path):
    folder, message = FULL[full]
    subprocess.run(["cp", "-r", f"{begun}/run", str(tmp_path)], check=True)
    where = tmp_path / "run" / folder
    used = sum(p.stat().st_size for p in where.rglob("*") if p.is_file())
    size = (used >> 12) * 4 + 400  # KiB: its content, and less than two steps more
    mount = f"mount -t tmpfs -o size={size}k tmpfs {where}"
    mounts = f"cp -r {where} {tmp_path}/copy && {mount} && cp -r {tmp_path}/copy/. {where}"
    status, _, stderr = train(untrained, tmp_path, 400, mounts)
    last = stderr.strip().splitlines()[-1]
    assert status == 2 and "site-packages/orbax" not in stderr, stderr[-3000:]  # its tracebacks are in libraries.log
    assert re.match("error: " + message, last), last
    assert "free some space" in last
