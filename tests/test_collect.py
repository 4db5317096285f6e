"""The rollouts of a step: annealed temperatures, votes beyond the trained samples, replaced and held-out problems."""

import dataclasses
import gzip
import json
import pathlib
import threading
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from srt_jax.config import base
from srt_jax.data.base import Problem
from srt_jax.data.batching import batch_indices
from srt_jax.grading.grader import Grader
from srt_jax.reward.labels import LabelSettings
from srt_jax.reward.measures import metrics
from srt_jax.rollout.sampler import Rollouts, Sampling
from srt_jax.run.diagnosis import Diagnosis
from srt_jax.run.metrics_log import read_metrics
from srt_jax.run.rollouts import (
    Collected,
    Grading,
    _prompts_of_step,
    answer_format,
    draws,
    sample_and_grade,
    sampling_at,
    temperature_at,
)
from srt_jax.run.watchdog import Watchdog
from srt_jax.train import collect_step, train
from tests.helpers import small_config


def rollout_rows(directory, step):
    """{problem id: its rows of the step's saved rollouts}, in order."""
    rows = {}
    for line in gzip.decompress((directory / f"rollouts/step_{step:06d}.jsonl.gz").read_bytes()).splitlines():
        row = json.loads(line)
        rows.setdefault(row["id"], []).append(row)
    return rows


def test_the_temperature_anneals_linearly_and_then_stays():
    config = base()
    config.rollout.temperature, config.rollout.temperature_end = 0.6, 1.0
    assert [temperature_at(config, step) for step in (1, 2, 99)] == [0.6] * 3
    config.rollout.temperature_steps = 4
    found = [temperature_at(config, step) for step in range(1, 8)]
    np.testing.assert_allclose(found, [0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0], atol=1e-12)


def test_all_votes_label_and_the_first_samples_train(miniature, tmp_path):
    config = small_config(miniature, tmp_path, name="votes", steps=1)
    config.batch.samples_per_prompt, config.batch.votes_per_prompt = 4, 12
    config.stop.validation_fraction = 0.1
    config.rollout.temperature, config.rollout.temperature_steps = 0.7, 10
    train(config)
    rows = rollout_rows(tmp_path / "votes", 1)
    step0, step1 = read_metrics(tmp_path / "votes")
    assert [len(group) for group in rows.values()] == [12] * 8
    for group in rows.values():
        answers = [row["answer"] for row in group]
        assert answers.count(group[0]["label"]) == max(map(answers.count, set(answers) - {None}))
        assert [row["reward"] for row in group] == [float(a == group[0]["label"]) for a in answers]
    trained = [row["tokens"] for group in rows.values() for row in group[:4]]
    assert step1["rollout/response_tokens"] == pytest.approx(np.mean(trained))
    assert step1["rollout/temperature"] == 0.7 and step1["update/updated"] == 1

    assert {"eval/validation/avg@4", "eval/heldout/avg@4"} <= step0.keys()
    held_out = {row["problem"] for row in json.loads((tmp_path / "votes/probes_step_000000.json").read_text())}
    assert len(held_out) == 6  # of 64 problems
    assert not held_out & {group[0]["problem"] for group in rows.values()}


def test_prompts_whose_rewards_agree_are_replaced(miniature, tmp_path):
    config = small_config(miniature, tmp_path, name="dynamic", steps=1)
    config.batch.samples_per_prompt, config.batch.microbatch_sequences, config.batch.resample_rounds = 2, 16, 3
    config.data.limit, config.rollout.temperature = 0, 0.5  # so that two samples often agree
    train(config)
    record = read_metrics(tmp_path / "dynamic")[1]
    rows = rollout_rows(tmp_path / "dynamic", 1)
    differing = [len({row["reward"] for row in group}) > 1 for group in rows.values()]
    assert len(differing) == 8 and record["rollout/rounds"] > 1
    assert differing == sorted(differing, reverse=True)  # those whose rewards differ come first
    with np.load(tmp_path / "dynamic/rollouts/step_000001.npz") as saved:  # the loss leaves out the others
        assert saved["left_out"].tolist() == [not wanted for wanted in differing]
        assert record["label/labelled"] == saved["labelled"].mean()
    assert record["label/informative"] == np.mean(differing)
    plain = small_config(miniature, tmp_path, name="plain", steps=1)
    plain.batch.samples_per_prompt, plain.batch.microbatch_sequences, plain.data.limit = 2, 16, 0
    plain.rollout.temperature = 0.5
    train(plain)
    kept = rollout_rows(tmp_path / "plain", 1)
    wanted = {id for id, group in kept.items() if len({row["reward"] for row in group}) > 1}
    assert wanted < {id for id, differs in zip(rows, differing) if differs}


class Sampled:
    """A sampler whose sample i of a problem writes token i."""

    def generate(self, prompts, n, sampling, seeds, finished, advanced=None):
        tokens = np.tile(np.arange(n, dtype=np.int32)[None, :, None], (len(prompts), 1, 1))
        for p, rows in enumerate(tokens):
            finished(p, list(rows), [True] * n)
        ones = np.ones(tokens.shape[:2], np.int32)
        return Rollouts(list(prompts), tokens, ones, tokens.astype(np.float32), ones.astype(bool), 0)


class Stopped(Exception):
    """What a callback raises to end a step."""


@pytest.mark.parametrize("of_a_user", [False, True], ids=["proof", "function of a user"])
def test_a_stop_during_grading_does_not_wait_for_it(of_a_user):
    called, released = [], threading.Event()
    factorial = ("fn", "factorial", (("num", Fraction(3 * 10**7), None),))
    endless = {"op": "equal", "a": factorial, "b": ("num", Fraction(1), None), "positive": False}

    class Endless:
        def __init__(self, grader):
            self.grader, self.settings = grader, LabelSettings()

        def __call__(self, *_):
            called.append(1)
            released.wait() if of_a_user else self.grader._pool.run([endless] * 9, timeout=600, budget=600)

    def stop(share, tokens):
        assert (share, tokens) == (1, 6)
        raise Stopped

    with Grader(workers=1) as grader:
        try:
            with pytest.raises(Stopped):
                sample_and_grade(Sampled(), Endless(grader), [None] * 3, [[1]] * 3, 2, Sampling(1), [0] * 3, stop)
        finally:
            released.set()
    assert len(called) == 1


class Answers:
    """A tokenizer that reads token i as the problem's own answer i: of four problems, the first differs among its
    trained samples, the second among the other votes only, the third not at all; and so on.
    """

    added_tokens_decoder = {}  # noqa: RUF012

    def __init__(self, kinds=("0 1 1 1", "1 1 1 0", "1 1 1 1")):
        self.calls, self.kinds = 0, kinds

    def decode(self, tokens):
        return ""

    def batch_decode(self, tokens, **_):
        texts = self.kinds[self.calls % len(self.kinds)].split()
        self.calls += 1
        return [f"\\boxed{{{texts[int(row[0])]}}}" for row in tokens]


def collected(steps=(1,), tokenizer=None, teacher=None, **batch):
    """The rollouts of steps on 40 problems, with the samples of `Answers`. Two of four samples are trained on.

    All steps are collected before the first one is returned, as with rollout.steps_ahead.
    """
    config = base()
    config.batch.update(dict(prompts_per_step=4, samples_per_prompt=2, votes_per_prompt=4, resample_rounds=9) | batch)
    problems = [Problem(str(i), "?", "1", "test") for i in range(40)]
    prepared = SimpleNamespace(
        problems=problems,
        prompts=[[1]] * 40,
        indices=lambda step: batch_indices(40, 4, 0, step),
    )
    with Grader(workers=1) as grader:
        grading = Grading(tokenizer or Answers(), answer_format(config), grader, LabelSettings.of(config))
        learner = SimpleNamespace(grading=grading, grader=grader)
        run = SimpleNamespace(config=config, prepared=prepared, sampler=Sampled(), teacher=teacher, learner=learner)
        now = SimpleNamespace(watchdog=Watchdog(pathlib.Path(), 0), stop=None, fallback=teacher)
        return [collect_step(run, now, step) for step in steps]


def test_prompts_are_replaced_until_the_rewards_of_their_trained_samples_differ():
    (found,) = collected()
    assert [g.rewards[:2].tolist() for g in found.graded] == [[0, 1]] * 4 and all(g.labelled for g in found.graded)
    assert found.rounds == 3  # a third of the prompts is of the kind
    assert metrics(found.graded)["label/informative"] == 1
    assert metrics(found.graded)["label/pseudo_reward"] == 0.5


def test_prompts_that_are_left_out_of_the_loss_still_have_their_labels():
    (found,) = collected(resample_rounds=1)  # three of the eight prompts differ
    assert [g.left_out for g in found.graded] == [False, False, False, True]
    assert found.trained().labelled.tolist() == [True, True, True, False]
    measured = metrics(found.graded)
    assert measured["label/labelled"] == measured["label/label_accuracy"] == 1 and measured["label/informative"] == 0.75
    assert measured["label/pseudo_reward"] == measured["label/agreement"] == (3 * 0.5 + 1) / 4
    assert measured["label/tpr"] == 1 and measured["label/fpr"] == 0


def test_solved_prompts_are_not_reported_as_prompts_without_a_label():
    (found,) = collected(tokenizer=Answers(["1 1 1 1"]), resample_rounds=1)
    assert all(g.left_out for g in found.graded) and not found.trained().labelled.any()
    config = base()
    config.batch.resample_rounds = 1
    for advantage in ("rloo", "my_module:advantage"):
        config.rl.advantage = advantage
        diagnosis = Diagnosis(config, ["<eos>"])
        (text,) = [text for _ in range(3) for text in diagnosis.update(metrics(found.graded))]
        assert "every response agrees with its label" in text


def test_the_tokens_of_replaced_prompts_count_as_sampled():
    (found,) = collected()  # three rounds of four problems with four samples of one token
    assert found.rounds == 3 and found.rollouts.lengths.sum() == 4 * 4 and found.tokens == 3 * 4 * 4
    (labelled,) = collected(teacher=Sampled())
    assert labelled.rounds == 3 and labelled.teacher.tokens == 3 * 4 * 4 and labelled.tokens == 2 * 3 * 4 * 4
    assert Collected.join([found, found.take([0])]).tokens == 2 * found.tokens


def test_a_step_has_the_counters_of_its_own_rollouts():
    for found in collected(steps=(1, 2)):  # of each prompt four answers, the majority's and the label
        assert found.workers["graded"] == 4 * 6 * found.rounds and found.workers["seconds"] > 0


@pytest.mark.parametrize(("room", "slots", "expected"), [(16, 0, 4), (2, 0, 2), (16, 8, 16)])
def test_the_calls_of_a_step_have_no_empty_rows(room, slots, expected):
    """With slots a call has a queue, and needs no rows of its own for each prompt."""
    config = base()
    config.batch.prompts_per_step, config.rollout.prompts_per_call, config.rollout.slots = 4, room, slots
    assert sampling_at(config, 1).prompts_per_call == expected


def test_mini_batches_get_equally_many_prompts_whose_rewards_differ():
    (few,) = collected(minibatches_per_step=2)
    assert all(g.labelled for g in few.graded)
    config = base()
    config.batch.update(dict(prompts_per_step=4, samples_per_prompt=2, minibatches_per_step=2))
    agreement, rewards = [[1, 1], [0, 1], [1, 0], [0, 0]], [[1, 0.5], [0, 1], [1, 0], [0, -1]]
    part = dataclasses.replace(
        few,
        graded=[
            dataclasses.replace(g, shaped=np.array(agreed), rewards=np.array(reward))
            for g, agreed, reward in zip(few.graded, agreement, rewards)
        ],
    )  # the penalty for length makes no difference
    dealt = _prompts_of_step([part], config.batch)
    assert dealt.trained().labelled.tolist() == [True, False] * 2  # a mini-batch is a half


def test_replacements_leave_the_order_of_the_data_alone():
    config = base()
    prepared = SimpleNamespace(problems=range(40), indices=lambda step: batch_indices(40, 16, 0, step))
    config.batch.resample_rounds = 3
    for step in (1, 2, 3):
        own, *others = draws(config, prepared, step)
        assert own.tolist() == batch_indices(40, 16, 0, step - 1).tolist()
        assert [len(chosen) for chosen in others] == [16, 8]  # there are no more
        assert sorted(np.concatenate([own, *others])) == list(range(40))
