"""A study in two processes that share a folder, as on two hosts: its table is that of one process."""

import csv
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY
from tests.several_processes import finish, start, variables_of

FILE = """
import pathlib

from srt_jax.study import Arm, Need, Study
from tests.helpers import small_config


def make(path):
    with path.open("a") as file:
        file.write("made\\n")


def get_study(quick):
    config = small_config(pathlib.Path({model!r}), pathlib.Path("unused"), "unused", 1)
    config.eval.every = 1
    needs = lambda setting, seed: [Need("shared.txt", make)]
    arms = {{"votes": Arm(), "truth": Arm({{"labels.source": "ground_truth"}})}}
    return Study("shards", config, arms, (0,), "eval/heldout/avg@4", needs=needs)
"""
OWN = ("commit", "finished", "seconds", "cpu_seconds")  # columns that no two runs have in common


def begin(folder: pathlib.Path, shard: str) -> subprocess.Popen:
    """Starts a shard in the folder that all shards share."""
    command = [sys.executable, "-m", "srt_jax", "study", "study.py", f"--shard={shard}", "--results=results"]
    paths = {"PYTHONPATH": str(REPOSITORY), "JAX_COMPILATION_CACHE_DIR": str(REPOSITORY / "cache" / "xla")}
    environment = os.environ | variables_of(1, "", 0) | paths
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


def rows_of(folder: pathlib.Path) -> dict[tuple, dict]:
    """{(arm, seed, step): the values that a run must reproduce} of the table."""
    with (folder / "results" / "shards.csv").open(newline="") as file:
        rows = [{name: value for name, value in row.items() if name not in OWN} for row in csv.DictReader(file)]
    assert len({(row["arm"], row["seed"], row["step"]) for row in rows}) == len(rows) == 4
    return {(row["arm"], row["seed"], row["step"]): row for row in rows}


@pytest.mark.slow
def test_two_shards_write_the_table_and_the_report_of_one_process(untrained, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.py").write_text(FILE.format(model=str(untrained)))
    finish([begin(tmp_path / "one", "0/1")])
    printed = finish([begin(tmp_path / "two", f"{i}/2") for i in range(2)])
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one")
    assert (tmp_path / "two" / "shared.txt").read_text() == "made\n"
    assert all(re.search(r"run 1 of 1: (votes|truth)-seed0", said) for said, _ in printed)
    report = (tmp_path / "two" / "results" / "shards.md").read_text()
    assert re.search(r"\| votes \|", report) and re.search(r"\| truth \|", report)


@pytest.mark.parametrize(
    "job, remedy",
    [
        (["study", "study.py"], ": unset it, and give each process its own runs by --shard=0/2."),
        (["probe", "--model={model}", "--base={model}", "--data={model}/heldout.jsonl"], ": unset it."),
        (["pretrain", "--out=base"], ": unset it."),
    ],
)
def test_a_job_of_one_process_is_refused_in_several(job, remedy, untrained, tmp_path):
    (tmp_path / "study.py").write_text(FILE.format(model=str(untrained)))
    arguments = [text.format(model=untrained).replace("study.py", str(tmp_path / "study.py")) for text in job]
    ((said, errors),) = finish(start(2, [sys.executable, "-m", "srt_jax", *arguments], indices=(0,)), status=2)
    sentence = f"srt {job[0]} runs in one process, but JAX_COORDINATOR_ADDRESS makes this process 0 of 2{remedy}"
    assert not said and errors.splitlines()[-1].endswith(f"error: {sentence}")
