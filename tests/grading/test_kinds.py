"""Kinds of answers that models write. cases.jsonl has pairs of each kind that must match and pairs that must not.

A row has the prediction, the gold answer, whether the prediction is right, and whether both are one answer in a vote.
"""

import itertools
import json
import random
from collections import defaultdict
from pathlib import Path

import pytest

CASES = [json.loads(line) for line in Path(__file__).with_name("cases.jsonl").read_text(encoding="utf-8").splitlines()]
KINDS = defaultdict(list)
for row in CASES:
    KINDS[row["kind"]].append(row)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_enough_cases(kind):
    assert sum(row["correct"] for row in KINDS[kind]) >= 8
    assert sum(not row["correct"] for row in KINDS[kind]) >= 5


@pytest.mark.parametrize("kind", KINDS)
def test_grade(grader, kind):
    rows = KINDS[kind]
    verdicts = grader.grade([row["prediction"] for row in rows], [row["gold"] for row in rows])
    assert [row for row, verdict in zip(rows, verdicts) if verdict != row["correct"]] == []


@pytest.mark.parametrize("kind", KINDS)
def test_votes(grader, kind):
    rows = KINDS[kind]
    there = grader.same([row["prediction"] for row in rows], [row["gold"] for row in rows])
    back = grader.same([row["gold"] for row in rows], [row["prediction"] for row in rows])
    assert there == back
    assert [row for row, verdict in zip(rows, there) if verdict != row["votes"]] == []
    assert not any(row["votes"] for row in rows if not row["correct"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_right_for_itself(grader, kind):
    answers = list({answer for row in KINDS[kind] for answer in (row["prediction"], row["gold"])})
    assert all(grader.grade(answers, answers))
    assert all(grader.same(answers, answers))


@pytest.mark.parametrize("kind", KINDS)
def test_groups_do_not_depend_on_the_order(grader, kind):
    answers = sorted({answer for row in KINDS[kind] for answer in (row["prediction"], row["gold"])})
    (ids,) = grader.groups([answers])
    shuffled = random.Random(0).sample(answers, len(answers))
    group = dict(zip(shuffled, grader.groups([shuffled])[0]))
    for (a, i), (b, j) in itertools.combinations(zip(answers, ids), 2):
        assert (i == j) == (group[a] == group[b]), (a, b)
