"""Published labels and model outputs: agreement, extraction, votes, and comparison with pairwise math-verify."""

import itertools
import logging
from collections import defaultdict

import pytest

from srt_jax.grading.answers import extract
from srt_jax.grading.canonical import canonical
from srt_jax.reward.votes import majority

# Here we differ from the suite by a rule of docs/grading.md: a tuple in brackets is ordered. An option of the suite
# compares it as a set.
EXCUSED = {("\\left(1,2\\right)", "\\left(2,1\\right)")}


@pytest.mark.parametrize("suite", ["mario_eval", "nemo_skills", "hendrycks_math", "dart_math"])
def test_agreement_with_the_authors_of_four_suites(grader, rows, suite):
    pairs = rows(f"grader_pairs_{suite}.jsonl")
    verdicts = grader.grade([p["prediction"] for p in pairs], [p["gold"] for p in pairs])
    wrong = {(p["prediction"], p["gold"]) for p, v in zip(pairs, verdicts) if v != p["correct"]}
    assert len(wrong) <= 0.05 * len(pairs)
    assert wrong <= EXCUSED


def by_problem(rows):
    problems = defaultdict(list)
    for row in rows:
        problems[row["problem"]].append(row)
    return list(problems.values())


def test_qwen_outputs(grader, rows):
    problems = by_problem(rows("generations_qwen25math_math100x8.jsonl"))
    found = [[extract(row["response"]) for row in problem] for problem in problems]
    assert sum(answer is not None for answers in found for answer in answers) == 800
    answers = [[a.text for a in group] for group in found]
    votes = [majority(a, g) for a, g in zip(answers, grader.groups(answers))]
    right = grader.grade([v.label for v in votes], [problem[0]["gold"] for problem in problems])
    assert sum(right) >= 86


@pytest.mark.parametrize("name", ["qwen25math_math100x8", "nemo_math50x3"])
def test_groups_are_those_of_brute_force_math_verify(grader, rows, name):
    math_verify = pytest.importorskip("math_verify", reason="math_verify is not installed")
    logging.disable(logging.CRITICAL)  # math-verify logs a warning for every answer that it cannot parse
    try:
        pairs = 0
        for problem in by_problem(rows(f"generations_{name}.jsonl")):
            answers = list(dict.fromkeys(a.text for row in problem if (a := extract(row["response"]))))
            (ids,) = grader.groups([answers])
            parsed = [math_verify.parse(f"\\boxed{{{a}}}", parsing_timeout=None) for a in answers]
            for (i, a), (j, b) in itertools.combinations(enumerate(parsed), 2):
                there = math_verify.verify(a, b, timeout_seconds=None)
                if there == math_verify.verify(b, a, timeout_seconds=None):
                    pairs += 1
                    assert there == (ids[i] == ids[j]), (answers[i], answers[j])
        assert pairs > 20
    finally:
        logging.disable(logging.NOTSET)


def test_published_verdicts(grader, rows):
    """The published verdicts on 2,950 outputs differ from ours in few cases, mostly about units or misprints."""
    for name, most in (("qwen25math_math100x8", 9), ("nemo_math50x3", 4), ("rho_math500x4", 10)):
        outputs = rows(f"generations_{name}.jsonl")
        pairs = [(a.text, row) for row in outputs if (a := extract(row["response"]))]
        verdicts = grader.grade([text for text, _ in pairs], [row["gold"] for _, row in pairs])
        assert sum(v != row["published_correct"] for v, (_, row) in zip(verdicts, pairs)) <= most


def test_gold_answers_are_read_as_mathematics(grader, rows):
    """Few gold answers of MATH are read as text, and each is right as a prediction for itself."""
    golds = [row["answer"] for row in rows("math_train_7500.jsonl")]
    assert all(grader.grade(golds, golds))
    assert sum(canonical(gold).startswith("⟦text:") for gold in golds) < 0.01 * len(golds)
