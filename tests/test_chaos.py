"""Short forms of tests/chaos.py: a run that is killed a few times equals one that was never killed."""

import re
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY, may_mount

needs_mount = pytest.mark.skipif(not may_mount(), reason="this user may not mount a file system in a namespace")


def chaos(model, *arguments):
    """Kills a run at some moments, and returns what the program prints."""
    command = [sys.executable, "-m", "tests.chaos", "--vllm=0", "--runs=1", f"--model={model}", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=840, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_mount
def test_a_run_killed_in_a_save_and_an_export_equals_an_undisturbed_one(untrained):
    said = chaos(untrained, "--uniform=0", "--aimed=2", "--steps=3")
    assert re.search(r"undisturbed: .*; (\d{3,}) arrays, texts and figures", said), said
    assert re.search(r"killed at save \d+, export \d+: equal", said), said
    assert "0 uniform and 2 aimed kills in 1 runs, 0 differ; 0 things left behind" in said


@pytest.mark.long
@pytest.mark.timeout(900)
@needs_mount
def test_a_killed_run_equals_an_undisturbed_one_and_leaves_nothing_behind(miniature):
    said = chaos(miniature, "--uniform=1", "--aimed=3")
    assert re.search(r"1 uniform and 3 aimed kills in \d runs, 0 differ; 0 things left behind", said), said


def test_every_fault_in_the_manual_has_tests():
    table = (REPOSITORY / "docs/operations.md").read_text().split("| fault | what you see |")[1].split("\n\n")[0]
    rows = table.splitlines()[2:]
    assert len(rows) > 20
    for row in rows:
        names = row.rsplit("| ", 1)[1]
        found = re.findall(r"`([\w/]+\.py)(?: -k (\w+))?`", names)
        assert found, row
        for file, word in found:
            assert re.search(rf"\ndef test_\w*{word}", (REPOSITORY / "tests" / file).read_text()), (file, word)
