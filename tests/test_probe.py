"""`srt probe`: a policy measured against its base; scores, answer tokens, flips and the command."""

import json
import math
import pathlib

import numpy as np
import pytest

from srt_jax.config.validation import check_untruncated, validate
from srt_jax.data.base import Problem
from srt_jax.errors import ConfigError
from srt_jax.grading.answers import Format
from srt_jax.jobs import probe as job
from srt_jax.miniature import task
from srt_jax.reward.rewards import grade
from srt_jax.rollout.sampler import Rollouts
from srt_jax.run import probe
from srt_jax.run.metrics_log import read_metrics
from srt_jax.run.rollouts import Collected
from srt_jax.train import train
from tests.helpers import small_config


def collected(grader, problems, answers):
    """Graded rollouts with these answers, and no tokens to speak of."""
    P, n = len(answers), len(answers[0])
    rollouts = Rollouts(
        [[1]] * P,
        np.zeros((P, n, 1), np.int32),
        np.ones((P, n), np.int32),
        np.zeros((P, n, 1)),
        np.ones((P, n), bool),
        0,
    )
    return Collected(problems, rollouts, [grade(p, row, grader) for p, row in zip(problems, answers)], {})


PROBLEMS = [Problem(name, name, answer, "test") for name, answer in zip("abcde", ["4", "5", "6", "7", None])]
BEFORE = [["4", "4", "1"], ["5", "1", "1"], ["2", "2", "2"], [None, None, None], ["9", "9", "8"]]
AFTER = [["3", "3", "4"], ["5.0", "5", "1"], ["8", "8", "2"], [None, None, "1"], ["8", "9.0", "9"]]


def test_flips_and_anchored_agreement_by_hand(grader):
    base, now = collected(grader, PROBLEMS, BEFORE), collected(grader, PROBLEMS, AFTER)
    # Anchors: 4, 1, 2, none, 9. Agreement: 1/3, 1/3, 1/3, -, 2/3.
    assert probe.anchored_agreement(base, now, grader) == pytest.approx((1 / 3 + 1 / 3 + 1 / 3 + 2 / 3) / 4)
    none, sure = probe.flips(base, now, [0, 1, 2, 3], grader)[::2]
    assert (none.problems, none.wrong_other) == (1, 1)  # d: no vote before, a wrong one now
    # a: right to wrong; b: wrong to right (its base vote is 1, with two of three); c: wrong to other wrong.
    assert (sure.problems, sure.right_wrong, sure.wrong_right, sure.wrong_other) == (3, 1, 1, 1)


def test_a_policy_compared_with_itself_has_not_changed(grader):
    same = collected(grader, PROBLEMS, BEFORE)
    metrics = {"avg@3": 0.25, "pass@2": 0.4, "pass@3": 0.5, "response_tokens": 1.0, "truncated": 0.0}
    found = probe.compare(same, same, np.zeros((5, 3, 1)), np.ones((5, 3, 1), bool), (metrics, metrics), grader)
    assert found["kl"]["answer"] == 0 and math.isnan(found["kl"]["reasoning"])
    assert found["same_answer"]["excess"] == 0 and found["pass_at_k"]["crossing"] is None
    assert found["pass_at_k"]["now"] == {1: 0.25, 2: 0.4, 3: 0.5}
    assert sum(row["right_right"] + row["wrong_same"] for row in found["flips"]) == 4
    json.loads(json.dumps(job.without_nan(found), allow_nan=False))


def test_answer_tokens_are_those_in_the_box():
    tokenizer = task.tokenizer()
    texts = [r"15,20.\boxed{20}<eos>", r"15,20.\boxed{}<eos>", "15,20<eos>", r"\boxed{0}<eos>"]
    ids = tokenizer(texts)["input_ids"]
    tokens = np.zeros((1, 4, 18), np.int32)
    for row, found in zip(tokens[0], ids):
        row[: len(found)] = found
    lengths = np.array([[len(found) for found in ids]])
    rollouts = Rollouts([[5]], tokens, lengths, np.zeros(tokens.shape), lengths > 0, 0)
    mask = probe.answer_tokens(rollouts, tokenizer, Format())
    assert [tokenizer.decode(row[m]) for row, m in zip(tokens[0], mask[0])] == ["20", "", "", "0"]


class Wide:
    """A tokenizer whose tokens have several characters, one of them none of its own."""

    added_tokens_decoder: dict = {}  # noqa: RUF012
    pieces = ("the ans", "wer", "", " is $1", "2", "3$ now")

    def batch_decode(self, rows, skip_special_tokens):
        return ["".join(self.pieces[i] for i in row) for row in rows]


def test_a_span_takes_every_token_that_it_touches():
    text = "".join(Wide.pieces)
    start = text.index("123")
    assert probe.span_of_tokens(np.arange(6), start, start + 3, Wide()) == (3, 6)
    assert probe.span_of_tokens(np.arange(6), 0, 3, Wide()) == (0, 1)
    assert probe.span_of_tokens(np.arange(6), start + 1, start + 2, Wide()) == (4, 5)


@pytest.mark.parametrize("field", ["temperature", "top_p", "top_k"])
def test_truncated_samples_are_refused(field, tmp_path):
    config = small_config(pathlib.Path("m"), tmp_path, "r", 1)
    check_untruncated(config)
    config.eval[field] = {"temperature": 0.0, "top_p": 0.9, "top_k": 5}[field]
    with pytest.raises(ConfigError, match=f"eval.{field}"):
        check_untruncated(config)
    validate(config)
    config.eval.kl = True
    with pytest.raises(ConfigError, match=f"eval.{field}"):
        validate(config)


@pytest.mark.slow
def test_the_samplers_own_log_probs_are_the_scores_and_a_model_has_no_distance_to_itself(untrained, tmp_path, grader):
    config = small_config(untrained, tmp_path, "probe", 1)
    config.eval.samples = 4
    sets, (graphdef, params, mesh, _) = job.sampled(config, grader)
    values, found = sets["heldout"]
    scores = probe.score(graphdef, params, mesh, found.rollouts, 1.0)
    np.testing.assert_allclose(scores, found.rollouts.logprobs, atol=2e-4)
    assert values["avg@4"] >= 0
    measured = job.probe(config, str(untrained))["heldout"]
    assert abs(measured["kl"]["reasoning"]) < 1e-6 and measured["problems"] == 8
    assert measured["same_answer"]["excess"] == pytest.approx(0)


@pytest.mark.slow
def test_a_run_with_adapters_measures_its_kl_to_their_base(untrained, tmp_path):
    config = small_config(untrained, tmp_path, "lora", steps=1)
    config.model.lora.rank, config.rl.kl_coef, config.eval.kl, config.optimizer.learning_rate = 2, 0.0, True, 1e-1
    train(config)
    first, last = (record["eval/heldout/kl"] for record in read_metrics(tmp_path / "lora"))
    assert first < 1e-6 and last > 1e-5


@pytest.mark.slow
def test_a_run_without_a_kl_penalty_measures_its_kl_to_the_base(untrained, tmp_path):
    """It is measured in each evaluation, is that of `srt probe`, and changes nothing else."""
    folders = {}
    for kl in (False, True):
        config = small_config(untrained, tmp_path, f"kl-{kl}", steps=2)
        config.rl.kl_coef, config.eval.every, config.eval.kl, config.optimizer.learning_rate = 0.0, 1, kl, 1e-2
        train(config)
        folders[kl] = tmp_path / f"kl-{kl}"
    plain, measured = (read_metrics(folders[kl]) for kl in (False, True))
    for without, found in zip(plain, measured, strict=True):
        kl = {tag: found.pop(tag) for tag in list(found) if "/kl" in tag}
        assert not any("/kl" in tag for tag in without)
        for tag, value in found.items():
            assert tag.startswith(("time/", "workers/seconds", "rollout/tokens_per_second")) or without[tag] == value, (
                tag
            )
        assert kl["eval/heldout/kl"] < 1e-6 if found["step"] == 0 else kl["eval/heldout/kl"] > 1e-4
    assert (folders[False] / "final/model.safetensors").read_bytes() == (
        folders[True] / "final/model.safetensors"
    ).read_bytes()
    config = small_config(untrained, tmp_path, "probe", 1)
    config.model.path = str(folders[True] / "final")
    probed = job.probe(config, str(untrained))["heldout"]["kl"]
    assert kl["eval/heldout/kl_reasoning"] == pytest.approx(probed["reasoning"], rel=1e-3)
