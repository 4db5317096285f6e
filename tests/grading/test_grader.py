"""The grader as a whole: equivalence is a relation, verdicts do not depend on who calls, workers are bounded."""

import asyncio
import gc
import itertools
import json
import os
import random
import signal
import threading
import time
from fractions import Fraction

import pytest
from hostile import PIECES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srt_jax.grading.grader import MAX_CANDIDATES, Grader
from srt_jax.grading.pool import SKIPPED, AbandonedError, Pool

# Families of equal answers. For some members a worker must prove it.
FAMILIES = [
    ["\\sqrt{3+2\\sqrt{2}}", "1+\\sqrt{2}", "\\frac{1}{\\sqrt2-1}"],
    ["\\frac{x^2-1}{x-1}", "x+1", "\\frac{x^2+2x+1}{x+1}"],
    ["\\sin(2x)", "2\\sin x\\cos x"],
    ["1", "\\sin^2 x+\\cos^2 x", "1.0"],
    ["\\frac{1}{x}+\\frac{1}{x+1}", "\\frac{2x+1}{x^2+x}", "\\frac{2x+1}{x(x+1)}"],
    ["|x|", "\\sqrt{x^2}"],
    ["x"],
    ["1/2", "0.5", "\\frac12"],
    ["50\\%"],
    ["(1,2)", "1<x<2"],
    ["1,2", "2,1", "\\{1,2\\}"],
    ["\\cos\\frac{\\pi}{5}", "\\frac{1+\\sqrt5}{4}"],
    ["2.41421356237"],
    ["\\text{north}", "North"],
]
PATIENT = {"timeout": 20.0, "budget": 60.0}  # seconds; a proof takes a tenth of one, and longer on a busy machine
CASES = [(answer, family) for family, answers in enumerate(FAMILIES) for answer in answers]


def test_self_test(grader):
    grader.self_test()


def test_a_busy_machine_does_not_fail_the_self_test():
    with Grader(workers=1, timeout=0.001, budget=0.001) as hurried:
        hurried.self_test()
        assert (hurried.timeout, hurried.budget) == (0.001, 0.001)


def test_self_test_fails_loudly(monkeypatch):
    monkeypatch.setattr("srt_jax.grading.grader.SELF_TEST_GRADES", [("1", "2", True)])
    with Grader(workers=1) as broken, pytest.raises(RuntimeError, match="misjudges 1 for 2"):
        broken.self_test()


def test_groups_are_the_families(grader):
    ids = grader.groups([[answer for answer, _ in CASES]])[0]
    expected = {}
    assert ids == [expected.setdefault(family, len(expected)) for _, family in CASES]


def test_permutation_invariance(grader):
    source = random.Random(0)
    for _ in range(10):
        shuffled = source.sample(CASES, len(CASES))
        ids = grader.groups([[answer for answer, _ in shuffled]])[0]
        for (i, a), (j, b) in itertools.combinations(enumerate(shuffled), 2):
            assert (ids[i] == ids[j]) == (a[1] == b[1])
        assert list(dict.fromkeys(ids)) == sorted(set(ids))  # numbered by first appearance


def test_the_relation_is_symmetric_and_transitive(grader):
    answers = [answer for answer, _ in CASES]
    pairs = list(itertools.product(answers, answers))
    same = dict(zip(pairs, grader.same([a for a, _ in pairs], [b for _, b in pairs])))
    assert all(same[a, a] for a in answers)
    assert all(same[a, b] == same[b, a] for a, b in pairs)
    assert all(same[a, c] for a, b in pairs if same[a, b] for c in answers if same[b, c])


def test_unparseable(grader):
    assert grader.groups([[None, "", " ", "$$", "\\", "7" * 20_000, "7"]]) == [[-1, -1, -1, -1, -1, -1, 0]]
    assert grader.groups([[], ["5"]]) == [[], [0]]
    assert grader.same([None, "5"], ["5", None]) == [False, False]


def test_string_match():
    with Grader(match="string") as grader:
        assert grader.groups([["1/2", " 1/2 ", "0.5", "", None]]) == [[0, 0, 1, -1, -1]]
        grader.self_test()
    with pytest.raises(ValueError, match="equivalent, string"):
        Grader(match="fuzzy")


def test_metrics_count_and_reset(grader):
    grader.metrics()
    grader.grade(["1", "1.0", None], ["1", "2", "2"])
    metrics = grader.metrics()
    assert metrics["graded"] == 3
    assert metrics["timeouts"] == metrics["crashes"] == metrics["errors"] == metrics["skipped"] == 0
    assert metrics["seconds"] > 0
    assert not any(grader.metrics().values())


def test_proofs_are_kept_on_disk(tmp_path):
    path = tmp_path / "cache" / "proofs.jsonl"
    problem = [["\\sqrt{3+2\\sqrt{2}}", "1+\\sqrt{2}"]]
    for checks, hits in ((1, 0), (0, 1)):
        with Grader(workers=1, cache_path=path, **PATIENT) as grader:
            assert grader.groups(problem) == [[0, 0]]
            metrics = grader.metrics()
            assert (metrics["symbolic_checks"], metrics["cache_hits"]) == (checks, hits)
        with open(path, "a") as file:
            file.write('[1, "real", "a')  # an incomplete line of a killed process is ignored
    assert json.loads(path.read_text().splitlines()[0])[0] == 1


# --- callers
PREDICTIONS = ["\\frac{x^2-1}{x-1}", "50\\%", "(2,1)", "\\sqrt{8}", None]
GOLDS = ["x+1", "0.5", "(1,2)", "2\\sqrt2", "1"]
VERDICTS = [True, True, False, True, False]


def work(grader):
    return grader.grade(PREDICTIONS, GOLDS), grader.groups([["\\sqrt{3+2\\sqrt{2}}", "1+\\sqrt{2}", "2"]])


EXPECTED = (VERDICTS, [[0, 0, 1]])


def test_from_threads():
    results = []
    with Grader(workers=2, **PATIENT) as grader:
        threads = [threading.Thread(target=lambda: results.append(work(grader))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert results == [EXPECTED] * 4


def test_from_an_event_loop():
    async def run(grader):
        return work(grader), await asyncio.to_thread(work, grader)

    with Grader(workers=2, **PATIENT) as grader:
        assert asyncio.run(run(grader)) == (EXPECTED, EXPECTED)


def test_from_a_forked_child():
    with Grader(workers=2, **PATIENT) as grader:
        assert work(grader) == EXPECTED  # the parent has workers when it forks
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            fresh = {"forgotten": Grader(workers=1, **PATIENT), "inherited": grader}
            fresh["inherited"]._proofs.clear()  # now the child needs its own workers
            os.write(writing, json.dumps([work(g) for g in fresh.values()]).encode())
            os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            results = json.loads(pipe.read())
        assert os.waitpid(child, 0)[1] == 0
        assert [tuple(result) for result in results] == [EXPECTED, EXPECTED]
        grader._proofs.clear()
        assert work(grader) == EXPECTED  # the parent can still use its workers


# --- bounds on workers
ONE = ("num", Fraction(1), None)
EASY = {"op": "equal", "a": ONE, "b": ONE, "positive": False}
ENDLESS = {"op": "equal", "a": ("fn", "factorial", (("num", Fraction(3 * 10**7), None),)), "b": ONE, "positive": False}


def test_a_timeout_is_counted_and_the_rest_goes_on():
    pool = Pool(size=2, memory_mb=1024)
    start = time.monotonic()
    values = pool.run([EASY, ENDLESS, EASY, ENDLESS, EASY], timeout=1.5, budget=60)
    assert values == [True, None, True, None, True]
    assert pool.counts["timeouts"] == 2
    assert time.monotonic() - start < 60
    pool.close()


def test_an_abandoned_call_ends_and_the_pool_stays_usable():
    pool, ended = Pool(size=1, memory_mb=1024), []

    def prove():
        with pytest.raises(AbandonedError):
            pool.run([ENDLESS] * 9, timeout=600, budget=600)
        ended.append(True)

    thread = threading.Thread(target=prove)
    thread.start()
    with pool.abandoned():
        thread.join(60)
    assert ended and pool.run([EASY], timeout=60, budget=60) == [True]
    pool.close()


def test_the_budget_ends_a_call():
    pool = Pool(size=1, memory_mb=1024)
    values = pool.run([ENDLESS] * 50 + [EASY], timeout=0.5, budget=1.5)
    assert [v for v in values if v is not SKIPPED] == [None] * (51 - pool.counts["skipped"])
    assert pool.counts["skipped"] >= 40
    assert pool.run([EASY], timeout=5, budget=5) == [True]
    pool.close()


def test_a_proof_may_take_longer_than_the_budget_after_which_no_other_begins():
    pool = Pool(size=1, memory_mb=1024)
    assert pool.run([ENDLESS, EASY, EASY], timeout=1.5, budget=0.2) == [None, SKIPPED, SKIPPED]
    assert (pool.counts["timeouts"], pool.counts["skipped"]) == (1, 2)
    pool.close()


@pytest.mark.parametrize("memory_mb", [40, 44, 48])
def test_memory_is_limited_and_a_crash_is_counted(memory_mb):
    pool = Pool(size=1, memory_mb=memory_mb)  # enough for the interpreter, not for sympy
    assert pool.run([EASY], timeout=20, budget=60) == [None]
    assert pool.counts["crashes"] + pool.counts["errors"] == 1
    pool.close()


def test_many_close_values_cost_bounded_work():
    """ln(a^n)/n has the same value for all n, but each n has its own normal form. Pairs must not fill the memory."""
    answers = [",".join(f"\\ln(a^{n})/{n}" for n in range(k, k + 90)) for k in range(2, 2000, 90)]
    with Grader(workers=1, budget=0.5, timeout=0.3) as grader:
        grader.groups([answers])
        assert 0 < grader.metrics()["symbolic_checks"] <= MAX_CANDIDATES
        assert len(grader._proofs) < MAX_CANDIDATES  # pairs that were not tried have no verdict
        # The grader still works. On a busy machine half a second may be too short to start another worker.
        pair = ["\\sqrt{3+2\\sqrt2}", "1+\\sqrt2"]
        assert any(grader.groups([pair]) == [[0, 0]] for _ in range(20))


def test_a_cache_with_other_content_is_ignored(tmp_path):
    path = tmp_path / "proofs.jsonl"
    lines = ['[1, "real", [], "b", true]', '[1, "real", "a", "b", "no"]', "[" * 100_000, "7", '{"a": 1}', "[1, 2]"]
    path.write_text("\n".join(lines) + "\n")
    assert Grader(cache_path=path)._proofs == {}


def test_a_dropped_pool_stops_its_workers():
    pool = Pool(size=1, memory_mb=1024)
    pool.run([EASY], timeout=5, budget=5)
    process = pool._idle[0].process
    del pool
    gc.collect()
    assert process.poll() is not None


def test_a_worker_killed_while_idle_is_replaced():
    pool = Pool(size=1, memory_mb=1024)
    assert pool.run([EASY], timeout=5, budget=5) == [True]
    pool._idle[0].process.kill()
    pool._idle[0].process.wait()
    assert pool.run([EASY], timeout=5, budget=5) == [True]
    assert pool.counts["crashes"] == 1
    pool.close()


def test_a_worker_suspended_while_idle_is_given_up_and_replaced(monkeypatch):
    pool = Pool(size=1, memory_mb=1024)
    assert pool.run([EASY], timeout=5, budget=5) == [True]
    monkeypatch.setattr("srt_jax.grading.pool.STARTUP_SECONDS", 0.5)
    suspended = pool._idle[0].process
    suspended.send_signal(signal.SIGSTOP)
    assert pool.run([EASY], timeout=5, budget=5) == [None]
    assert pool.counts["timeouts"] == pool.counts["restarts"] == 1 and suspended.poll() is not None
    monkeypatch.undo()
    assert pool.run([EASY], timeout=5, budget=5) == [True]
    pool.close()


def test_a_worker_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")
    with pytest.raises(RuntimeError, match="before it was ready"):
        Pool(size=1, memory_mb=1024).run([EASY], timeout=5, budget=5)


# --- hostile predictions
GOLD_KINDS = [
    "1/2", "0.333", "\\frac13", "x+1", "1,2", "\\{1,2\\}", "(1,2]", "10\\%", "x+y=1", "x>3", "3:4", "101_2", "yes",
    "5:30",
]  # fmt: skip


@settings(
    max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.sampled_from(GOLD_KINDS))
def test_any_prediction_is_graded(grader, prediction, gold):
    (verdict,) = grader.grade([prediction], [gold])
    assert verdict in (True, False)
