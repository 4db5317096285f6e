"""Hostile answers: each is graded or unparseable, in time. None is executed, and no worker exceeds its memory limit."""

import os
import time

import pytest
from hostile import HOSTILE, TEMPTING, random_strings

from srt_jax.grading.answers import extract
from srt_jax.grading.canonical import canonical
from srt_jax.grading.grader import Grader

MEMORY_MB = 1024
LIMIT = 40.0  # seconds of a call on a busy machine; a free one takes one to five


@pytest.fixture
def guarded(tmp_path, monkeypatch):
    """A grader in an empty folder. An answer that is executed would create the file HOSTILE in it."""
    monkeypatch.chdir(tmp_path)
    with Grader(workers=2, memory_mb=MEMORY_MB) as grader:
        grader.self_test()
        yield grader
        for worker in grader._pool._idle if os.path.isdir("/proc") else []:
            assert peak_memory_mb(worker.process.pid) < MEMORY_MB
    assert os.listdir(tmp_path) == []


def peak_memory_mb(pid: int) -> float:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def test_there_are_enough_of_them():
    assert len(set(HOSTILE)) >= 400


def test_each_has_a_key_quickly():
    for text in HOSTILE:
        start = time.thread_time()  # other processes may be busy
        key = canonical(text)
        extract(f"so \\boxed{{{text}}}")
        assert time.thread_time() - start < 1.0, text[:80]
        assert canonical(key) == key


def test_votes(guarded):
    start = time.monotonic()
    (ids,) = guarded.groups([HOSTILE])
    assert time.monotonic() - start < LIMIT  # all are votes on ONE problem: some time-outs, one budget
    assert len(ids) == len(HOSTILE)
    assert max(ids) < len(set(ids))


def test_grades(guarded):
    start = time.monotonic()
    verdicts = guarded.grade(HOSTILE, ["271828"] * len(HOSTILE)) + guarded.grade(HOSTILE, [*HOSTILE[1:], "271828"])
    assert time.monotonic() - start < LIMIT
    assert not any(verdicts[: len(HOSTILE)])


def test_tempting_pairs_end(guarded):
    start = time.monotonic()
    guarded.groups([list(pair) for pair in TEMPTING])
    guarded.grade(*zip(*TEMPTING))
    assert time.monotonic() - start < LIMIT


def test_a_batch_with_hostile_responses(guarded):
    """512 responses, 32 of them hostile."""
    hostile = [text for text in HOSTILE if len(text) < 5_000][:: len(HOSTILE) // 32][:26] + [
        a for p in TEMPTING[1:4] for a in p
    ]
    problems = [[f"\\frac{{{i}}}{{{j % 4 + 1}}}" for j in range(32)] for i in range(16)]
    for k, text in enumerate(hostile):
        problems[k // 2][k % 2] = text
    responses = [[f"We get \\boxed{{{answer}}}." for answer in problem] for problem in problems]
    start = time.monotonic()
    answers = [[a.text if (a := extract(r)) else None for r in problem] for problem in responses]
    ids = guarded.groups(answers)
    guarded.grade([a for p in answers for a in p], [str(i) for i in range(16) for _ in range(32)])
    assert time.monotonic() - start < LIMIT
    assert sum(map(len, ids)) == 512
    assert ids[-1][-1] == ids[-1][-5] >= 0


def test_nearly_mathematics():
    for text in random_strings(3_000, seed=1):
        key = canonical(text)
        assert canonical(key) == key
