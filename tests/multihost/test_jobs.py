"""`srt label` and `srt evaluate` in two processes, of which one dies: the other one ends and says why."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from srt_jax.jobs.label import BATCH, label
from srt_jax.run.watchdog import STATUS
from tests.helpers import small_config
from tests.multihost.test_parents import end_of, ending, wait_for
from tests.several_processes import finish, is_of_gloo, start

CONFIG = """
import pathlib

from tests.helpers import small_config


def get_config():
    config = small_config(pathlib.Path({model!r}), pathlib.Path({out!r}), "run", 1)
    config.mesh.fsdp, config.data.limit, config.eval.samples = 4, {limit}, 64
    return config
"""
LIMIT = 4 * BATCH  # problems; four batches are time enough for a kill
SAMPLES = 16


def begin(job: str, model: pathlib.Path, folder: pathlib.Path, *arguments: str) -> list[subprocess.Popen]:
    """Starts `srt JOB` in two processes."""
    config = folder / "config.py"
    config.write_text(CONFIG.format(model=str(model), out=str(folder), limit=LIMIT))
    fixed = f"--config={config}", "--config.mesh.cpu_devices=2"
    return start(2, [sys.executable, "-m", "srt_jax", job, *fixed, *arguments])


def trainer_of(records: pathlib.Path, index: int) -> int:
    """The process id of a trainer, by its parent's record."""
    return json.loads((records / f"{index}.json").read_text())["pid"]


def wait_until_joined(started: list[subprocess.Popen]) -> None:
    """Waits for a message of the first trainer, which prints none before all have joined."""
    while (line := started[0].stdout.readline()) and is_of_gloo(line):
        pass
    assert line, end_of(started[0])


def ends_after(started: list[subprocess.Popen], act) -> list[tuple[int, str]]:
    """(status, stderr) of each process after act(). All must end within a minute."""
    with ending(started):
        act()
        begun = time.monotonic()
        ends = [end_of(process) for process in started]
        seconds = time.monotonic() - begun
    print(f"all have ended after {seconds:.1f} s")
    assert seconds < 60, ends
    return ends


def test_labels_survive_a_kill_and_a_signal(miniature, tmp_path):
    out = tmp_path / "labels.jsonl"
    partial, records = tmp_path / "labels.jsonl.partial", tmp_path / "labels.jsonl.processes"
    arguments = "label", miniature, tmp_path, f"--out={out}", f"--samples={SAMPLES}"

    def wait_for_batches(count: int, started: list[subprocess.Popen]) -> None:
        wait_for(lambda: partial.exists() and partial.read_bytes().count(b"\n") > count * BATCH, started)

    started = begin(*arguments)
    wait_for_batches(1, started)
    trainers = [trainer_of(records, index) for index in range(2)]
    for trainer in trainers:  # otherwise they might end before the second start is refused
        os.kill(trainer, signal.SIGSTOP)
    for status, said in finish(begin(*arguments), status=2):
        assert not status and re.search(rf"{out} is used by process \d+ on .* or give another --out\.", said)

    def kill_one() -> None:
        os.kill(trainers[1], signal.SIGKILL)
        os.kill(trainers[0], signal.SIGCONT)

    ends = ends_after(started, kill_one)
    for index, (status, said) in enumerate(ends):
        assert status == STATUS, said
        again = "was killed by SIGKILL; start all processes again to continue after the last complete batch, this one"
        assert re.search(
            rf"the labelling ends: process 1 on \S+ {again} by .*JAX_PROCESS_ID={index} \S+ -m srt_jax label", said
        )
    assert not records.exists()

    rows = partial.read_bytes().count(b"\n") - 1
    started = begin(*arguments)
    wait_for_batches(rows // BATCH + 1, started)
    (status, said), (other_status, other_said) = ends_after(started, lambda: started[0].send_signal(signal.SIGINT))
    assert status == 130 and "interrupted. The same command resumes" in said and " ends: " not in said
    assert other_status == STATUS and re.search(
        r"the labelling ends: process 0 on \S+ was interrupted by a ", other_said
    )

    config = small_config(miniature, tmp_path, "run", 1)
    config.mesh.fsdp, config.data.limit = 4, LIMIT
    assert label(config, out, SAMPLES)["problems"] == LIMIT
    label(config, tmp_path / "whole.jsonl", SAMPLES)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()

    (_, said), (_, other_said) = finish(begin(*arguments, "--samples=3"), status=2)
    assert f"error: {out} has labels that differ in samples" in said and "error: " not in other_said
    assert not records.exists()


def test_a_signal_to_one_process_ends_an_evaluation(miniature, tmp_path):
    """Without --out the records are beside the results of the run."""
    started = begin("evaluate", miniature, tmp_path, f"--model={miniature}")
    wait_until_joined(started)
    (status, said), (other_status, other_said) = ends_after(started, lambda: started[1].send_signal(signal.SIGTERM))
    assert other_status == 130 and "interrupted: nothing is written" in other_said
    sentence = r"the evaluation ends: process 1 on \S+ was interrupted .* again to evaluate again, this "
    assert status == STATUS and re.search(sentence, said)


@pytest.mark.long
def test_a_suspended_host_ends_an_evaluation(miniature, tmp_path):
    out = tmp_path / "responses.jsonl"
    started = begin("evaluate", miniature, tmp_path, f"--model={miniature}", f"--out={out}")
    wait_until_joined(started)

    def suspend() -> None:
        for pid in (started[1].pid, trainer_of(tmp_path / "responses.jsonl.processes", 1)):
            os.kill(pid, signal.SIGSTOP)

    with ending(started[1:]):
        ((status, said),) = ends_after(started[:1], suspend)
    assert status == STATUS and "gave no sign of life for 30 s; start all processes again to evaluate again" in said
    assert not out.exists()
