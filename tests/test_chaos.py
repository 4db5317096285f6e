"""The short form of tests/chaos.py: a run that is killed four times equals one that was never killed."""

import re
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY, may_mount


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(not may_mount(), reason="this user may not mount a file system in a namespace")
def test_a_killed_run_equals_an_undisturbed_one_and_leaves_nothing_behind(miniature):
    arguments = ["--uniform=1", "--aimed=3", "--vllm=0", "--runs=1", f"--model={miniature}"]
    command = [sys.executable, "-m", "tests.chaos", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=840, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "in-process: 1 uniform and 3 aimed kills" in done.stdout


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
