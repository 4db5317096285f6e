"""Every algorithm's whole step against NumPy: token losses by hand, gradients row by row, several updates in a row."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from srt_jax.model import sharding
from srt_jax.rl.collate import Layout, abstract_batch, batch_sharding
from srt_jax.rl.optimizer import abstract_state, init_state, learning_rate_schedule, make_optimizer
from srt_jax.rl.update import UpdateConfig, make_update
from tests.helpers import fast_cases
from tests.tiny_decoder import decoder, direct_gradient, direct_logprobs, flat, mesh_of, place, recorded

P, N, SCALE = 4, 4, 11.0
RATE = 2.0  # of plain gradient descent; large, so that the ratios of later updates reach the clip
SGD = optax.chain(optax.trace(decay=0.0), optax.scale(-RATE))
LABELLED = np.array([True, True, False, True])
DEFAULTS = UpdateConfig(Layout(P, N, 4, (16,)), loss_scale=SCALE)


@functools.cache
def rollouts():
    """One prompt without label, one rollout not kept, sampler's log-probs a little off the policy's."""
    found = recorded()
    policy, _ = direct_logprobs(*decoder(), found.tokens, 1.0)
    noise = 0.3 * np.random.default_rng(4).standard_normal(policy.shape)
    kept = found.kept.copy()
    kept[1, 2] = False
    rewards = np.where(LABELLED[:, None], found.rewards, np.nan).astype(np.float32)
    return dataclasses.replace(
        found,
        logprobs=((policy + noise) * found.mask()).astype(np.float32),
        labelled=LABELLED,
        kept=kept,
        rewards=rewards,
    )


def answers(data):
    """[B, S]: in every second rollout the tokens of an answer, in one of these all tokens of the response."""
    position = np.arange(data.tokens.shape[1])
    starts = np.where(np.arange(P * N) == 4, data.prompt_lengths, data.lengths - 2)
    return data.mask() & (position >= starts[:, None]) & (np.arange(P * N) % 2 == 0)[:, None]


def run(config, data, optimizer=SGD, mesh_shape=(1, 1, 1)):
    """(new state, metrics) of one step."""
    mesh = mesh_of(*mesh_shape)
    graphdef, params = decoder(mesh=mesh)
    params, reference = place(params, mesh), place(decoder(seed=1)[1], mesh) if config.kl_coef else None
    state = init_state(params, optimizer, mesh)
    update = make_update(graphdef, optimizer, config, mesh, state).lower(
        abstract_state(params, optimizer, mesh), reference, abstract_batch(config.layout, mesh, config.mask_answer)
    )
    batch = sharding.place(data.batch(config.layout), batch_sharding(mesh, config.mask_answer))
    state, metrics = update.compile({"xla_backend_optimization_level": 0})(state, reference, batch)
    return state, jax.device_get(metrics)


# ---- the step in NumPy


def kl_of(kind, p, q):
    return {"k1": p - q, "k2": (p - q) ** 2 / 2, "k3": np.minimum(np.exp(q - p) - (q - p) - 1, 10)}[kind]


def kl_slope(kind, p, q):
    """d kl / d p."""
    k3 = np.where(kl_of("k3", p, q) < 10, 1 - np.exp(q - p), 0.0)  # it is clamped
    return {"k1": np.ones_like(p), "k2": p - q, "k3": k3}[kind]


def literal_advantages(config, data, kl, trained):
    """[B, S]: of each token, from a loop over the rollouts."""
    mask = data.loss_tokens()
    returns = np.array(
        [
            [
                np.nan_to_num(data.rewards[p, i]) * data.labelled[p] - config.kl_coef * kl[p * N + i].sum()
                for i in range(N)
            ]
            for p in range(P)
        ]
    )
    out = np.zeros(mask.shape)
    for b in range(P * N):
        p, i = divmod(b, N)
        others = [returns[p, j] for j in range(N) if j != i]
        mean, deviation = np.mean(returns[p]), np.std(returns[p], ddof=1)
        used = [returns[divmod(c, N)] for c in range(P * N) if trained[c] and data.labelled[c // N]]
        out[b] = {
            "rloo": returns[p, i] - np.mean(others),
            "grpo": (returns[p, i] - mean) / (deviation + 1e-6),
            "dr_grpo": returns[p, i] - mean,
            "reinforce": returns[p, i],
            "reinforce_baseline": returns[p, i] - np.mean(used),
            "reinforce_pp_baseline": returns[p, i] - mean,
            "reinforce_pp": 0.0,
        }[config.advantage]
        if config.advantage == "reinforce_pp":
            reward = np.nan_to_num(data.rewards[p, i]) * data.labelled[p]
            out[b] = [reward - config.kl_coef * kl[b, t:].sum() for t in range(mask.shape[1])]
    if config.advantage.startswith("reinforce_pp"):
        chosen = out[mask & (trained & np.repeat(data.labelled, N))[:, None]]
        out = (out - chosen.mean()) / np.sqrt(chosen.var() + 1e-8)
    if config.unlabelled == "penalty":
        out[~np.repeat(data.labelled, N)] = -config.penalty
    return out * (mask & trained[:, None])


def literal_step(config, data):
    """{path: parameters} after all updates of the step, and the expected metrics."""
    graphdef, params = decoder()
    mask = data.mask()
    discards = config.objective == "policy_gradient" and config.unlabelled != "penalty"
    labelled = data.labelled if discards else np.ones(P, bool)
    trained = np.repeat(labelled, N) & data.kept.reshape(-1)
    counted = data.kept.reshape(-1) if config.unlabelled == "zero_advantage" else trained
    old, _ = direct_logprobs(graphdef, params, data.tokens, 1.0)
    reference, _ = direct_logprobs(graphdef, decoder(seed=1)[1], data.tokens, 1.0)
    fixed = data.logprobs.astype(np.float64) if config.old_logprobs == "sampler" else old
    kl = np.zeros(mask.shape)
    if config.kl_in == "reward":
        # Of the rollout that is not kept, too: it is in the baseline of the others.
        kl = kl_of(config.kl, fixed, reference) * (mask & np.repeat(labelled, N)[:, None])
    advantages = literal_advantages(config, data, kl, trained)
    K, many = config.layout.minibatches_per_step, config.updates_per_step > 1
    clipped, dual_clipped = [], []
    for u in range(config.updates_per_step):
        rows = np.arange(P * N) // (P * N // K) == u % K
        inside = data.loss_tokens() & (rows & counted)[:, None]
        lengths = inside.sum(1)
        sequences = (lengths > 0).sum()
        weights = (
            inside
            / {
                "token-mean": inside.sum(),
                "seq-mean-token-sum": sequences,
                "seq-mean-token-mean": np.maximum(lengths, 1)[:, None] * sequences,
                "seq-mean-token-sum-norm": sequences * config.loss_scale,
            }[config.loss_aggregation]
        )
        new, _ = direct_logprobs(graphdef, params, data.tokens, 1.0)
        slope, by_entropy = np.zeros(mask.shape), np.zeros(mask.shape)
        if config.objective == "policy_gradient":
            ratio = np.exp(new - fixed) if many else np.ones(mask.shape)
            high, low = ratio > 1 + config.clip_high, ratio < 1 - config.clip_low
            bound = (high & (advantages > 0)) | (low & (advantages < 0))
            clipped += list(bound[inside & trained[:, None]])
            above = (advantages < 0) & (ratio > (config.dual_clip or np.inf))
            dual_clipped += list(above[inside & trained[:, None]])
            slope = np.where(bound | above, 0.0, -advantages * ratio)
            if config.tis_cap:
                slope *= np.minimum(np.exp(old - data.logprobs), config.tis_cap)
        elif config.objective == "cross_entropy":
            slope -= 1.0
        else:
            by_entropy += 1.0
        if config.kl_in == "loss":
            slope += config.kl_coef * kl_slope(config.kl, new, reference) * trained[:, None]
        by_entropy -= config.entropy_coef
        gradients = direct_gradient(graphdef, params, data.tokens, slope * weights, 1.0, by_entropy * weights)
        moved = {path: (value - RATE * gradients[path]).astype(np.float32) for path, value in flat(params).items()}
        params = jax.tree.unflatten(jax.tree.structure(params), moved.values())
    shares = {"clip_fraction": clipped, "dual_clip_fraction": dual_clipped if config.dual_clip else []}
    return moved, {name: np.mean(tokens) if many and tokens else None for name, tokens in shares.items()}


def changed(**fields):
    layout = {name: fields.pop(name) for name in ("minibatches_per_step",) if name in fields}
    return dataclasses.replace(DEFAULTS, layout=dataclasses.replace(DEFAULTS.layout, **layout), **fields)


KL = 0.3
STEPS = {
    "rloo, KL in the reward": dict(kl_coef=KL),
    "grpo with KL k3 in the loss": dict(advantage="grpo", kl_coef=KL, kl_in="loss"),
    "dr_grpo, token sums over the longest length": dict(
        advantage="dr_grpo", loss_aggregation="seq-mean-token-sum-norm", kl="k2", kl_coef=KL, kl_in="loss"
    ),
    "reinforce, token sums": dict(advantage="reinforce", loss_aggregation="seq-mean-token-sum", kl_coef=0.0),
    "reinforce with baseline, k1": dict(advantage="reinforce_baseline", kl="k1", kl_coef=KL),
    "reinforce++": dict(advantage="reinforce_pp", kl="k1", kl_coef=KL, loss_aggregation="seq-mean-token-mean"),
    "reinforce++ with baseline": dict(advantage="reinforce_pp_baseline", kl="k2", kl_coef=KL),
    "PPO over mini-batches and epochs, clip higher": dict(
        minibatches_per_step=2, epochs_per_step=2, kl_coef=0.0, clip_low=0.1, clip_high=0.2
    ),
    "dual clip, over another constant": dict(
        minibatches_per_step=2,
        epochs_per_step=2,
        kl_coef=0.0,
        dual_clip=1.15,
        advantage="grpo",
        loss_aggregation="seq-mean-token-sum-norm",
        loss_scale=5.5,
    ),
    "token sums over a constant so small that the denominator is below 1": dict(
        loss_aggregation="seq-mean-token-sum-norm", loss_scale=0.05, kl_coef=0.0
    ),
    "PPO with the sampler's log-probs as old ones": dict(minibatches_per_step=2, kl_coef=KL, old_logprobs="sampler"),
    "truncated importance sampling": dict(tis_cap=1.2, kl_coef=0.0),
    "entropy bonus, zero advantage without label": dict(entropy_coef=0.1, unlabelled="zero_advantage", kl_coef=KL),
    "rloo, penalty without label": dict(unlabelled="penalty", penalty=0.7, kl_coef=KL),
    "reinforce with baseline, penalty without label": dict(
        advantage="reinforce_baseline", unlabelled="penalty", penalty=0.7, kl_coef=KL
    ),
    "reinforce++, penalty without label": dict(
        advantage="reinforce_pp", unlabelled="penalty", penalty=0.7, kl="k1", kl_coef=KL
    ),
    "cross-entropy": dict(objective="cross_entropy", kl_coef=0.0),
    "answers masked, KL in the reward": dict(mask_answer=True, kl_coef=KL, loss_aggregation="seq-mean-token-mean"),
    "answers masked, KL in the loss, reinforce++, two updates": dict(
        mask_answer=True, kl="k2", kl_coef=KL, kl_in="loss", advantage="reinforce_pp", minibatches_per_step=2
    ),
    "entropy minimisation, KL in the loss": dict(objective="entropy", kl_coef=KL, kl_in="loss", kl="k2"),
}


FAST = (
    "answers masked, KL in the reward",
    "grpo with KL k3 in the loss",
    "reinforce++",
    "rloo, penalty without label",
    "token sums over a constant so small that the denominator is below 1",
    "PPO over mini-batches and epochs, clip higher",
)


@pytest.mark.parametrize("name", fast_cases(STEPS, *FAST))
def test_the_step_is_that_of_the_formulas(name):
    config, data = changed(**STEPS[name]), rollouts()
    if config.mask_answer:
        data = dataclasses.replace(data, answer_mask=answers(data))
    state, metrics = run(config, data)
    expected, found = literal_step(config, data)
    for path, start in flat(decoder()[1]).items():
        step = expected[path] - start.astype(np.float64)
        moved = flat(state.params)[path] - start.astype(np.float64)
        assert np.linalg.norm(moved - step) <= 2e-4 * np.linalg.norm(step), path
        assert np.linalg.norm(step) > 0, path
    assert metrics["finite"] and metrics["updated"] == 1
    for share, value in found.items():
        assert (share in metrics) == (value is not None)
        if value is not None:
            assert metrics[share] == pytest.approx(value, rel=1e-4)
            assert 0.05 < metrics[share] < 0.9


@pytest.mark.slow
def test_several_updates_on_several_devices_are_those_of_one():
    """Mini-batches, whitened advantages and importance weights over data=2 x fsdp=2, in buckets."""
    config = changed(minibatches_per_step=2, kl_coef=KL, advantage="reinforce_pp", tis_cap=1.2)
    bucketed = dataclasses.replace(config, layout=dataclasses.replace(config.layout, length_buckets=(10, 16)))
    (one, metrics), (many, many_metrics) = run(config, rollouts()), run(bucketed, rollouts(), mesh_shape=(2, 2, 1))
    for path, value in flat(one.params).items():
        moved = value - flat(decoder()[1])[path]
        assert np.linalg.norm(flat(many.params)[path] - value) <= 1e-4 * np.linalg.norm(moved), path
    assert metrics.pop("padding") > many_metrics["padding"]
    for name, value in metrics.items():
        assert many_metrics[name] == pytest.approx(value, rel=1e-4), name


def test_a_bad_minibatch_undoes_the_whole_step():
    """The first of two mini-batches is sound, the second not: neither weights nor moments keep anything of it."""
    adamw = make_optimizer(learning_rate_schedule(1e-3), 0.9, 0.99, 1e-8, 0.1, 0.5)
    rewards = rollouts().rewards.copy()
    rewards[3, 1] = np.inf
    state, metrics = run(
        changed(minibatches_per_step=2, kl_coef=0.0), dataclasses.replace(rollouts(), rewards=rewards), adamw
    )
    assert not metrics["finite"] and metrics["updated"] == 0.5
    before = init_state(place(decoder()[1], mesh_of()), adamw, mesh_of())
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), state, before)
    assert all(jax.tree.leaves(same))


PASSES = {
    "nothing asked": (dict(kl_coef=0.0), False, False),
    "KL in the reward": (dict(kl_coef=KL), True, True),
    "KL in the reward, the sampler's log-probs": (dict(kl_coef=KL, old_logprobs="sampler"), False, True),
    "KL in the loss": (dict(kl_coef=KL, kl_in="loss"), False, True),
    "several updates": (dict(kl_coef=0.0, epochs_per_step=2), True, False),
    "importance weights": (dict(kl_coef=0.0, tis_cap=2.0), False, False),
    "cross-entropy, several updates": (dict(objective="cross_entropy", kl_coef=0.0, epochs_per_step=2), False, False),
}


@pytest.mark.parametrize("name", PASSES)
def test_no_pass_that_nobody_asks_for(name):
    fields, policy, reference = PASSES[name]
    config = changed(**fields)
    assert (config.scores_policy, config.scores_reference) == (policy, reference)
