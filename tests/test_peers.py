"""examples/peers: two runs that label for each other, continued after a stop."""

import gzip
import json
import os
import re
import subprocess
import sys

import pytest

from srt_jax.data import label_file
from srt_jax.run import recording
from srt_jax.run.metrics_log import read_metrics
from tests.helpers import REPOSITORY, SMALL_RUN


def peers(miniature, out, rounds):
    """Runs the example on 16 problems, with one step in a round."""
    command = [
        sys.executable,
        "examples/peers/peers.py",
        f"--rounds={rounds}",
        "--steps=1",
        "--samples=4",
        f"--out={out}",
        *SMALL_RUN,
        f"--config.data.path={miniature}/train.jsonl",
        "--config.data.limit=16",
        "--config.mesh.cpu_devices=1",
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True, timeout=500
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_run_learns_the_votes_of_the_other_one(miniature, tmp_path):
    peers(miniature, tmp_path, 1)
    first = {name: label_file.labels(tmp_path / f"labels-0-{name}.jsonl") for name in "ab"}
    peers(miniature, tmp_path, 2)
    assert {name: label_file.labels(tmp_path / f"labels-0-{name}.jsonl") for name in "ab"} == first
    for name, peer in ("ab", "ba"):
        run = tmp_path / name
        assert [record["step"] for record in read_metrics(run)] == [0, 1, 2]
        changed = [json.loads(line) for line in (run / "changes.jsonl").read_text().splitlines()]
        assert {row["step"] for row in changed} == {1} and "labels.path" in {row["field"] for row in changed}
        for step in (1, 2):
            votes = label_file.labels(tmp_path / f"labels-{step - 1}-{peer}.jsonl")
            rows = gzip.decompress(recording.rollouts_path(run, step, recording.ROWS).read_bytes()).decode()
            assert all(row["label"] == votes.get(row["id"]) for row in map(json.loads, rows.splitlines()))
    provenance, _ = label_file.read(tmp_path / "labels-1-a.jsonl")
    assert provenance["model"] == str(tmp_path / "a/final")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--rounds=0", r"--rounds, --steps and --samples must be at least 1: raise them\."),
        ("--out=file", r"--out=file cannot be made \(File exists\): name another folder\."),
        ("--out=file/x", r"--out=file/x cannot be made \(Not a directory\): name another folder\."),
        ("--rounds=x", "argument --rounds: invalid int value: 'x'"),
    ],
)
def test_wrong_arguments_are_one_sentence(argument, message, tmp_path):
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, REPOSITORY / "examples/peers/peers.py", argument],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.search(f"error: {message}\n$", done.stderr)
