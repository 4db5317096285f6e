import itertools
import math

import numpy as np
import pytest

from srt_jax.config import base
from srt_jax.data.base import Problem
from srt_jax.data.prompts import EvalSet
from srt_jax.grading.answers import Format
from srt_jax.grading.grader import Grader
from srt_jax.miniature import task
from srt_jax.reward.rewards import grade
from srt_jax.rollout.sampler import Rollouts, Sampling, problem_seeds
from srt_jax.run.evaluation import evaluate, metrics, pass_at
from srt_jax.run.rollouts import Grading, answer_format, extract_answers, response_texts

SOLVED, UNSOLVED, OPEN, SILENT = (
    Problem("solved", "3+5", "8", "test"),
    Problem("unsolved", "9+9", "18", "test"),
    Problem("open", "1+1", None, "test"),
    Problem("silent", "2+2", "4", "test"),
)
TEXTS = {
    "solved": [r"8.\boxed{8}", r"8.\boxed{9}", r"8.\boxed{8}", "8."],
    "unsolved": [r"\boxed{17}", r"\boxed{17}", r"17.\boxed{18}", r"\boxed{1}\boxed{16}"],
    "open": [r"\boxed{2}", r"\boxed{2}", r"\boxed{3}", r"\boxed{4}"],
    "silent": ["4", r"\boxed{4", r"\boxed{}", "."],
}


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=1) as one:
        yield one


def rollouts_of(problems):
    """TEXTS as token ids. Each response ends with the stop token, except for the last one of each problem."""
    encoded = [
        [
            task.tokenizer().encode(text, add_special_tokens=False) + [1] * (i < 3)
            for i, text in enumerate(TEXTS[problem.id])
        ]
        for problem in problems
    ]
    lengths = np.array([[len(row) for row in rows] for rows in encoded], np.int32).reshape(-1, 4)
    tokens = np.zeros((len(problems), 4, 24), np.int32)
    for p, rows in enumerate(encoded):
        for i, row in enumerate(rows):
            tokens[p, i, : len(row)] = row
    stopped = np.broadcast_to(np.arange(4) < 3, lengths.shape)
    return Rollouts([[4]] * len(problems), tokens, lengths, np.zeros(tokens.shape, np.float32), stopped, 3)


class Replay:
    """A sampler that has said it all before."""

    def __init__(self, problems):
        self.problems, self.calls = problems, []

    def generate(self, prompts, n, sampling, seeds, finished, advanced=None):
        self.calls.append((prompts, n, sampling, [int(s) for s in seeds]))
        rollouts = rollouts_of(self.problems)
        for p, responses in reversed(list(enumerate(rollouts.responses()))):  # the order they end in is nobody's
            finished(p, responses, rollouts.stopped[p])
        return rollouts


def run(problems, grader, seed=0):
    sampler = Replay(problems)
    eval_set = EvalSet("sums", problems, [[5], [6], [7], [8]][: len(problems)])
    config = base()
    config.seed, config.eval.samples, config.batch.max_response_tokens = seed, 4, 24
    values, collected = evaluate(eval_set, sampler, Grading(task.tokenizer(), answer_format(config), grader), config)
    return values, collected.rollouts, np.stack([g.true_rewards for g in collected.graded]), sampler.calls


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_counts_the_subsets_that_hold_a_right_sample(n):
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations([i < correct for i in range(n)], k))
        assert pass_at(n, correct, k) == pytest.approx(np.mean([any(s) for s in subsets]), abs=1e-12), (correct, k)


def test_pass_at_k_of_many_samples_does_not_overflow():
    assert pass_at(4096, 1, 2048) == pytest.approx(0.5)
    assert pass_at(4096, 2048, 1) == pytest.approx(0.5)


def test_answers_are_extracted_per_problem_and_sample():
    rollouts = rollouts_of([SOLVED, SILENT])
    found = [
        extract_answers(response_texts(responses, task.tokenizer()), prompt, task.tokenizer(), Format("boxed"))
        for responses, prompt in zip(rollouts.responses(), rollouts.prompts)
    ]
    assert found == [["8", "9", "8", None], [None] * 4]


def test_metrics_by_hand(grader):
    values, rollouts, true_rewards, _ = run([SOLVED, UNSOLVED, OPEN, SILENT], grader)
    np.testing.assert_array_equal(true_rewards, [[1, 0, 1, 0], [0, 0, 1, 0], [math.nan] * 4, [0, 0, 0, 0]])
    expected = {
        "avg@4": (2 + 1 + 0) / 12,
        "maj@4": 1 / 3,
        "pass@2": ((1 - 1 / 6) + (1 - 3 / 6) + 0) / 3,
        "pass@4": 2 / 3,
        "vote_share": (2 + 2 + 2 + 0) / 16,
        "parse_rate": 11 / 16,
        "distinct_answers": (2 + 3 + 3 + 0) / 4,
        "response_tokens": rollouts.lengths.mean(),
        "truncated": 1 / 4,
    }
    assert values == pytest.approx(expected)
    assert all(type(value) is float for value in values.values())


def test_a_set_without_answers_has_no_accuracy(grader):
    values, _, true_rewards, _ = run([OPEN], grader)
    assert not {name for name in values if "@" in name}
    assert values["vote_share"] == 0.5
    assert np.isnan(true_rewards).all()


@pytest.mark.parametrize(("k", "tags"), [(1, {1}), (2, {2}), (3, {2, 3}), (8, {2, 4, 8}), (12, {2, 4, 8, 12})])
def test_pass_at_powers_of_two_and_at_k(grader, k, tags):
    one = rollouts_of([SOLVED])
    repeated = Rollouts(
        one.prompts, *(np.repeat(x[:, :1], k, 1) for x in (one.tokens, one.lengths, one.logprobs, one.stopped)), 0
    )
    values = metrics([grade(SOLVED, ["8"] * k, grader)], repeated)
    assert {name for name in values if name.startswith("pass@")} == {f"pass@{j}" for j in tags}
    assert values[f"avg@{k}"] == values[f"maj@{k}"] == values[f"pass@{k}"] == 1


def test_draws_depend_on_the_seed_and_the_problem_alone(grader):
    calls = [run([SOLVED, OPEN], grader, seed)[3][0] for seed in (0, 0, 1)]
    assert calls[0] == calls[1] != calls[2]
    prompts, n, sampling, seeds = calls[0]
    assert (prompts, n, sampling) == ([[5], [6]], 4, Sampling(24))
    assert seeds == [int(s) for s in problem_seeds(0, "eval", 0, ["solved", "open"])]
    assert seeds != [int(s) for s in problem_seeds(0, "train", 0, ["solved", "open"])]
