"""The study bases: their errors by enumeration and by sampling, their problem sets, and the acceptance table."""

import collections
import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from srt_jax.grading.answers import extract
from srt_jax.miniature import accept, bases, pretrain, task
from srt_jax.model import sharding

RIVAL, ATTRACTOR, SCATTER = (bases.BASES[name] for name in ("rival", "attractor", "scatter"))
SUMS = [[7, 8, 5], [2, 3, 9], [9, 9, 8, 6], [1, 2, 3], [5, 5, 5, 5, 7]]


@pytest.mark.parametrize("base", bases.BASES.values(), ids=list(bases.BASES))
def test_answers_come_as_often_as_the_enumeration_says(base):
    rng, draws = np.random.default_rng(0), 4000
    for terms in SUMS:
        design = bases.answer_distribution(base, terms)
        assert sum(design.values()) == pytest.approx(1)
        found = collections.Counter(int(extract(bases.solution_text(base, terms, rng)).text) for _ in range(draws))
        assert set(found) <= set(design)
        for answer, probability in design.items():
            assert abs(found[answer] / draws - probability) < 5 * (probability / draws) ** 0.5 + 1e-9


@pytest.mark.parametrize("terms", [[7, 8, 5], [8, 3, 6], [6, 2, 4], [1, 2, 3], [7, 4, 9]])
def test_forgotten_carries_by_a_sum_over_all_slips(terms):
    """The design once more, by the words of its description: no code of bases.py but the answer."""
    slips, rate = (0, -3, -2, -1, 1, 2, 3), 0.2
    expected = collections.Counter()
    for first, second in itertools.product(slips, slips):
        probability = np.prod([1 - rate if slip == 0 else rate / 6 for slip in (first, second)])
        middle = max(0, terms[0] + terms[1] + first)
        total, forget = max(0, middle + terms[2] + second), 0.0
        if middle % 10 + terms[2] > 9:
            forget = {0: 0.40, 1: 0.55, 2: 0.65, 3: 0.70}[terms[2] % 4]
        elif middle + terms[2] > 9:
            forget = 0.03
        expected[total] += probability * (1 - forget)
        expected[max(0, total - 10)] += probability * forget
    design = bases.answer_distribution(RIVAL, terms)
    assert {a: p for a, p in expected.items() if p} == pytest.approx(design)


def test_solutions_fit_the_miniature_and_its_answer_style():
    rng, tokenizer = np.random.default_rng(1), task.tokenizer()
    for base in bases.BASES.values():
        for _ in range(200):
            terms = bases.random_terms(base, rng)
            text = bases.solution_text(base, terms, rng)
            tokens = tokenizer(text)["input_ids"]
            assert len(tokens) < task.MAX_RESPONSE_TOKENS and tokenizer.decode(tokens) == text
            assert int(extract(text).text) >= 0
    assert extract(bases.BARE).text == "0"


def test_half_of_the_rivals_problems_carry_and_the_sets_are_disjoint():
    heldout, train = bases.problem_sets(RIVAL)
    assert (len(heldout), len(train)) == (bases.HELDOUT, bases.TRAIN)
    assert not {*map(tuple, heldout)} & {*map(tuple, train)}
    for sums in (heldout, train):
        assert np.mean([sum(t[:-1]) % 10 + t[-1] > 9 for t in sums]) == 0.5
    assert bases.problem_sets(SCATTER) == task.problem_sets()
    rng = np.random.default_rng(2)
    drawn = [bases.last_carries(bases.random_terms(RIVAL, rng)) for _ in range(4000)]
    assert 0.46 < np.mean(drawn) < 0.54


def test_the_mirror_calls_the_rival_right():
    files = bases.problem_files(RIVAL)
    assert set(files) == {"heldout.jsonl", "train.jsonl", "heldout_mirror.jsonl", "train_mirror.jsonl"}
    for name in ("heldout", "train"):
        plain, mirror = (
            [json.loads(line) for line in files[f"{name}{end}.jsonl"].splitlines()] for end in ("", "_mirror")
        )
        assert [row["problem"] for row in plain] == [row["problem"] for row in mirror]
        differences = collections.Counter(int(a["answer"]) - int(b["answer"]) for a, b in zip(plain, mirror))
        assert differences == {0: len(plain) // 2, 10: len(plain) // 2}
    assert set(bases.problem_files(ATTRACTOR)) == {"heldout.jsonl", "train.jsonl"}


def test_the_miniature_reads_the_same_text_as_before():
    for seed in range(20):
        rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
        assert bases.random_terms(SCATTER, rng) == (terms := task.random_terms(other))
        assert bases.solution_text(SCATTER, terms, rng) == task.solution_text(terms, other, 0.3)


def test_a_base_has_a_key_and_a_batch_of_its_own():
    keys = {pretrain.recipe_key(pretrain.recipe_of(base), base) for base in bases.BASES.values()}
    keys |= {pretrain.recipe_key(pretrain.recipe_of(RIVAL, 1), RIVAL), pretrain.recipe_key(pretrain.Recipe(), RIVAL)}
    assert len(keys) == 5
    assert pretrain.recipe_of(SCATTER) == pretrain.Recipe()
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    batch = pretrain.batch(pretrain.recipe_of(ATTRACTOR), 0, mesh, ATTRACTOR)
    box = task.tokenizer().convert_tokens_to_ids(task.BOXED)
    first = np.argmax(np.asarray(batch.response), -1)
    starts = np.take_along_axis(np.asarray(batch.tokens), first[..., None], -1)
    # Of 64 solutions about two are bare.
    assert 0 < (starts == box).sum() < 10


def answers_by_design(base, sums, n):
    rng = np.random.default_rng(3)
    return [[extract(bases.solution_text(base, terms, rng)).text for _ in range(n)] for terms in sums]


@pytest.mark.parametrize("base", bases.BASES.values(), ids=list(bases.BASES))
def test_the_design_itself_is_accepted_and_another_is_not(base):
    sums = bases.problem_sets(base)[1][:400]
    found = accept.rows(base, sums, answers_by_design(base, sums, 32))
    assert accept.accepted(base, found), accept.shown(base, found)
    others = {
        "scatter": {"slip_rate": 0.2},
        "rival": {"forget": (0.40, 0.55, 0.65, 0.55)},
        "attractor": {"bare_share": 0.0},
    }
    wrong = accept.rows(base, sums, answers_by_design(dataclasses.replace(base, **others[base.name]), sums, 32))
    assert not accept.accepted(base, wrong) and "MISSED" in accept.shown(base, wrong)


def test_an_answer_that_is_missing_is_neither_right_nor_a_rival_nor_a_vote():
    found = accept.rows(RIVAL, [[7, 8, 5]], [[None, None, None, "20"]])[-1]
    assert (found.right, found.rival, found.label_accuracy) == (0.25, 0.0, 1.0)
    assert accept.rows(RIVAL, [[7, 8, 5]], [[None] * 4])[-1].label_accuracy == 0.0
