"""One whole step of training against NumPy. Each field that the step passes to the update changes its result.

The expected votes, rewards and log-probs are computed here again from the responses.
"""

import dataclasses
import gzip
import json

import jax
import numpy as np
import pytest

from srt_jax import train as train_module
from srt_jax.config import base
from srt_jax.model import weights
from srt_jax.rl.update import UpdateConfig
from srt_jax.run import recording
from srt_jax.run.prepare import prepare
from srt_jax.run.rollouts import collect
from srt_jax.run.setup import begin
from tests.helpers import small_config
from tests.tiny_decoder import direct_gradient, direct_logprobs

TRAINED, VOTES, LIMIT, BUFFER, THRESHOLD = 4, 8, 12, 6, 0.45
TEMPERATURE, KL_COEF, CAP = 0.9, 0.3, 1.1


def experiment(miniature, out):
    """Votes beyond the trained samples, unlabelled prompts, cut and penalised responses, KL and importance weights."""
    config = small_config(miniature, out, name="step", steps=1)
    config.batch.samples_per_prompt, config.batch.votes_per_prompt = TRAINED, VOTES
    config.batch.max_response_tokens, config.labels.threshold = LIMIT, THRESHOLD
    config.reward.overlong_buffer, config.reward.drop_truncated = BUFFER, True
    config.rollout.temperature, config.rollout.old_logprobs = TEMPERATURE, "trainer"
    config.rl.kl_coef, config.rl.tis_cap = KL_COEF, CAP
    return config


class Step:
    """A run whose policy has left the reference and the sampler; calling it makes its first step again."""

    def __init__(self, config, out):
        prepared = prepare(config)
        self.out, self.prepared = out, prepared
        self.run, self.now = begin(config, prepared, out)
        self.learner, state = self.run.learner, self.now.train_state
        self.run.sampler.load(state.params, 0)
        # About one draw in fifty has all that could be lost. Which one depends on the base model, whose bits differ
        # between machines.
        grading = self.learner.grading
        draws = (collect(config, prepared, self.run.sampler, grading, draw) for draw in range(1, 2000))
        self.collected = next(collected for collected in draws if complete(collected.graded))
        rng = np.random.default_rng(0)
        self.moved = jax.tree.map(
            lambda x: np.asarray(x) + 0.05 * np.asarray(x).std() * rng.standard_normal(x.shape).astype(np.float32),
            state.params,
        )
        self.initial = jax.tree.map(np.asarray, state.params)
        self.state = state

    def __call__(self):
        params = jax.tree.map(lambda x, old: jax.device_put(x, old.sharding), self.moved, self.state.params)
        self.state, values = train_module.learn(self.learner, self.state.replace(params=params), self.collected, 1)
        train_module.log_rollouts(self.run, 1, self.collected)
        return {name: float(value) for name, value in values.items()}


def complete(graded) -> bool:
    """Does all that a step hands on matter here?

    A prompt with a label has responses that are kept and cut, that agree and do not, of several lengths; a prompt
    without one has some that are kept, and would be rewarded differently.
    """

    def varies(values):
        return (values != values[:, :1]).any(1)

    labelled = np.array([g.labelled for g in graded])
    kept, shaped, rewards = (trained(graded, name) for name in ("kept", "shaped", "rewards"))
    both = kept.any(1) & ~kept.all(1) & varies(shaped) & varies(shaped - rewards)
    return (labelled & both).any() and (~labelled & kept.any(1) & varies(rewards)).any()


def trained(graded, name):
    """[P, TRAINED]: the samples that are trained on."""
    return np.stack([getattr(g, name)[:TRAINED] for g in graded])


@pytest.fixture(scope="module")
def step(miniature, tmp_path_factory):
    out = tmp_path_factory.mktemp("step")
    made = Step(experiment(miniature, out), out)
    with made.learner.grader:
        yield made
    made.run.log.close()
    made.run.checkpoints.close()


def saved_rows(out):
    return [
        json.loads(line)
        for line in gzip.decompress((out / "rollouts/step_000001.jsonl.gz").read_bytes()).split(b"\n")
        if line
    ]


def by_hand(row, group):
    """(labelled, agreement, reward, kept) of a row, from the answers and lengths of its prompt's samples."""
    answers = [other["answer"] for other in group]
    texts = [answer for answer in answers if answer is not None]
    winner = max(texts, key=lambda text: (texts.count(text), -answers.index(text))) if texts else None
    labelled = winner is not None and texts.count(winner) / VOTES >= THRESHOLD
    agreement = float(labelled and row["answer"] == winner)
    over = row["tokens"] - (LIMIT - BUFFER)
    return labelled, agreement, agreement - min(max(over, 0) / BUFFER, 1), row["response"].endswith("<eos>")


@pytest.fixture(scope="module")
def expected(step, miniature):
    """The metrics of the step in NumPy: the token mean of -A c over labelled, kept responses, and its gradient."""
    step()
    rows, rollouts = saved_rows(step.out), step.collected.rollouts
    P = len(rollouts.prompts)
    groups = [rows[p * VOTES : (p + 1) * VOTES] for p in range(P)]
    truth = [[by_hand(row, group) for row in group[:TRAINED]] for group in groups]
    labelled, agreement, rewards, kept = (np.array([[row[i] for row in group] for group in truth]) for i in range(4))
    width = max(map(len, rollouts.prompts)) + LIMIT
    tokens, mask, sampled = (np.zeros((P * TRAINED, width), kind) for kind in (np.int32, bool, np.float64))
    for b in range(P * TRAINED):
        p, i = divmod(b, TRAINED)
        prompt, length = rollouts.prompts[p], rollouts.lengths[p, i]
        end = len(prompt) + length
        tokens[b, : len(prompt)], tokens[b, len(prompt) : end] = prompt, rollouts.tokens[p, i, :length]
        mask[b, len(prompt) : end], sampled[b, len(prompt) : end] = True, rollouts.logprobs[p, i, :length]
    graphdef, _, _ = weights.load(miniature)
    policy, _ = direct_logprobs(graphdef, step.moved, tokens, TEMPERATURE)
    reference, _ = direct_logprobs(graphdef, step.initial, tokens, TEMPERATURE)
    k3 = (
        np.minimum(np.exp(reference - policy) - (reference - policy) - 1, 10)
        * mask
        * np.repeat(labelled, TRAINED, 0).reshape(P, TRAINED, TRAINED)[:, 0].reshape(-1)[:, None]
    )
    returns = np.where(labelled, rewards, 0) - KL_COEF * k3.sum(1).reshape(P, TRAINED)
    advantages = np.array([[returns[p, i] - np.delete(returns[p], i).mean() for i in range(TRAINED)] for p in range(P)])
    inside = mask & (labelled & kept).reshape(-1)[:, None]
    slope = np.where(inside, -advantages.reshape(-1)[:, None] * np.minimum(np.exp(policy - sampled), CAP), 0)
    slope /= inside.sum()
    gradient = direct_gradient(graphdef, step.moved, tokens, slope, TEMPERATURE)
    sequences = (labelled & kept).sum()
    return {
        "update/loss": slope.sum(),
        "update/grad_norm": np.sqrt(sum((g**2).sum() for g in gradient.values())),
        "update/return": (returns * (labelled & kept)).sum() / sequences,
        "update/kl": (k3 * inside).sum() / inside.sum(),
        "update/importance_weight": (np.minimum(np.exp(policy - sampled), CAP) * inside).sum() / inside.sum(),
        "label/pseudo_reward": rewards[labelled[:, 0]].mean(),
        "label/agreement": agreement[labelled[:, 0]].mean(),
        "label/labelled": labelled[:, 0].mean(),
        "rollout/response_tokens": rollouts.lengths[:, :TRAINED].mean(),
    }


def test_the_step_is_computed_from_its_responses(step, expected):
    found = step()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3), name


def test_the_reward_that_is_saved_is_the_one_that_is_trained(step, expected):
    rows = saved_rows(step.out)
    groups = [rows[p * VOTES : (p + 1) * VOTES] for p in range(len(rows) // VOTES)]
    for group in groups:
        for row in group:
            labelled, agreement, reward, kept = by_hand(row, group)
            assert (row["label"] is not None, row["agreement"], row["kept"]) == (labelled, agreement, kept)
            assert row["reward"] == pytest.approx(reward, abs=1e-6)
    # The step has all that could be lost: prompts without a label, cut and penalised responses among the trained.
    trained = [row for group in groups for row in group[:TRAINED]]
    assert {(row["kept"], row["label"] is None) for row in trained} >= {(True, True), (True, False), (False, False)}
    assert any(row["reward"] < row["agreement"] for row in trained if row["label"] and row["kept"])


def test_the_recorded_step_is_graded_to_the_same_rewards(step, expected):
    problems = {problem.id: problem for problem in step.collected.problems}
    again = recording.read(recording.rollouts_path(step.out, 1, recording.RECORDED), problems, step.learner.grading)
    for one, other in zip(again.graded, step.collected.graded, strict=True):
        for field in dataclasses.fields(one):
            np.testing.assert_equal(getattr(one, field.name), getattr(other, field.name))


# What a step hands on, each taken away: other fields of the samples, or another temperature.
LOST = {
    "the penalty for length": lambda step, samples: {"rewards": trained(step.collected.graded, "shaped")},
    "the labels of some prompts": lambda step, samples: {"labelled": np.ones_like(samples.labelled)},
    "which responses are kept": lambda step, samples: {"kept": None},
    "the temperature": lambda step, samples: {"temperature": 1.0},
    "the sampler's log-probs": lambda step, samples: {
        "rollouts": dataclasses.replace(samples.rollouts, logprobs=samples.rollouts.logprobs - 1)
    },
    "which samples are trained on": lambda step, samples: {
        "rollouts": step.collected.rollouts.take(np.arange(len(samples.rollouts.prompts))[::-1]).first(TRAINED)
    },
    "the rewards": lambda step, samples: {"rewards": samples.rewards[::-1]},
}


def assert_differs(found, expected):
    """Some metric, by more than the step itself may. Which one moves, and how far, depends on the responses."""
    assert any(found[name] != pytest.approx(value, rel=1e-2) for name, value in expected.items())


@pytest.mark.parametrize("lost", LOST)
def test_nothing_that_a_step_hands_on_can_be_lost(step, expected, monkeypatch, lost):
    collate = train_module.collate

    def losing(samples, layout, mesh, temperature, answer_mask):
        changes = {"temperature": temperature} | LOST[lost](step, samples)
        temperature = changes.pop("temperature")
        return collate(dataclasses.replace(samples, **changes), layout, mesh, temperature, answer_mask)

    monkeypatch.setattr(train_module, "collate", losing)
    assert_differs(step(), expected)


def test_an_evaluation_needs_nobody_who_watches_signals(step):
    """As in benchmarks, which take a run's steps one by one."""
    assert step.now.stop is None
    assert "eval/heldout/avg@4" in train_module.evaluate_sets(step.run, step.now)


def test_the_reference_cannot_be_lost(step, expected, monkeypatch):
    moved = jax.tree.map(lambda x, old: jax.device_put(x, old.sharding), step.moved, step.learner.reference)
    monkeypatch.setattr(step, "learner", dataclasses.replace(step.learner, reference=moved))
    assert_differs(step(), expected)


def test_the_loss_has_a_temperature_of_its_own(step, expected, monkeypatch):
    config = step.run.config.copy_and_resolve_references()
    config.rl.temperature = TEMPERATURE
    config.rollout.temperature = 0.5
    monkeypatch.setattr(step, "learner", dataclasses.replace(step.learner, config=config))
    assert step()["update/grad_norm"] == pytest.approx(expected["update/grad_norm"], rel=1e-3)
    config.rl.temperature = 1.0
    assert_differs(step(), expected)


def test_every_field_of_rl_reaches_the_update():
    """But the temperature, which a batch carries."""
    other = {
        "objective": "entropy",
        "advantage": "grpo",
        "kl": "k1",
        "kl_in": "loss",
        "loss_aggregation": "seq-mean-token-sum",
    }
    for field, value in base().rl.items():
        config = base()
        with config.unlocked():
            changed = not value if isinstance(value, bool) else value if isinstance(value, str) else value + 1.5
            config.rl[field] = other.get(field, changed)
        assert (UpdateConfig.of(config) == UpdateConfig.of(base())) == (field == "temperature"), field
    assert UpdateConfig.of(base()).loss_scale == 3072
