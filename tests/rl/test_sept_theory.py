"""SePT's theory on the loss that is trained with: exact expectations, every response enumerated.

Cross-entropy on own samples drawn at tau_s, with logits divided by tau_t. At tau_s = tau_t the expected gradient is
zero (the score identity); else one round's optimum has its logit margins scaled by tau_t / tau_s.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srt_jax.model.logprobs import token_logprobs
from srt_jax.rl.update import LossInputs, UpdateConfig, loss
from tests.tiny_decoder import decoder, flat

V, STOP, PROMPT, LONGEST = 8, 0, (3, 5), 3
CROSS_ENTROPY = UpdateConfig(layout=None, objective="cross_entropy", kl_coef=0.0)


def responses():
    """All responses up to LONGEST tokens: those that stop, and those that are cut."""
    for length in range(1, LONGEST + 1):
        for start in itertools.product(range(1, V), repeat=length - 1):
            yield *start, STOP
    yield from itertools.product(range(1, V), repeat=LONGEST)


@functools.cache
def enumerated():
    """(tokens [R, S], lengths [R]) of the prompt with every response."""
    every = list(responses())
    tokens = np.zeros((len(every), len(PROMPT) + LONGEST), np.int32)
    for row, response in zip(tokens, every):
        row[: len(PROMPT) + len(response)] = PROMPT + response
    return tokens, np.array([len(PROMPT) + len(response) for response in every], np.int32)


@functools.cache
def gradients():
    """The jitted (expected gradient, probability of the responses) as a function of (params, tau_s, tau_t)."""
    graphdef, _ = decoder(vocab_size=V)
    tokens, lengths = enumerated()
    position = np.arange(tokens.shape[1])
    inside = (position >= len(PROMPT)) & (position < lengths[:, None])

    def logprobs(params, temperature):
        model = nnx.merge(graphdef, params)
        values = token_logprobs(model(tokens)[:, :-1], model.head_weights(), tokens[:, 1:], temperature)
        return tuple(jnp.pad(v, ((0, 0), (1, 0))) for v in values)

    def expected(params, tau_s, tau_t):
        probability = jnp.exp((logprobs(params, tau_s)[0] * inside).sum(1))
        inputs = LossInputs(
            tokens=tokens,
            sampler_logprobs=jnp.zeros(tokens.shape),
            weights=probability[:, None] * inside,
            trained=inside,
        )
        gradient = jax.grad(lambda p: loss(CROSS_ENTROPY, inputs, *logprobs(p, tau_t))[0])(params)
        return gradient, probability.sum()

    return jax.jit(expected)


def expected_gradient(tau_s, tau_t):
    """{path: array} of the decoder's expected gradient; the enumeration must be complete."""
    gradient, total = gradients()(decoder(vocab_size=V)[1], tau_s, tau_t)
    assert total == pytest.approx(1, abs=1e-5)
    return flat(gradient)


def norm(tree):
    return np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in tree.values()))


@pytest.mark.parametrize("tau", [0.6, 1.0])
def test_equal_temperatures_have_no_expected_gradient(tau):
    """In every parameter of a decoder, over whole responses with their stop tokens."""
    assert norm(expected_gradient(tau, tau)) < 1e-5 * norm(expected_gradient(0.6 * tau, tau))


def test_colder_samples_pull_one_way_and_hotter_ones_the_other():
    cold, hot = expected_gradient(0.8, 1.0), expected_gradient(1.25, 1.0)
    dot = sum((cold[name] * hot[name]).sum() for name in cold)
    assert dot / (norm(cold) * norm(hot)) < -0.9


# ---- one round's optimum, where every context has logits of its own


def train_to_the_optimum(logits, tau_s, tau_t):
    """Gradient descent on the expected loss over a table of logits [contexts, V]; samples stay those of the start."""
    contexts, vocabulary = logits.shape
    sampled = jax.nn.softmax(logits / tau_s)
    hidden = jnp.eye(contexts)[:, None].repeat(vocabulary, 1)  # [contexts, V, contexts]
    targets = jnp.tile(jnp.arange(vocabulary), (contexts, 1))
    ones = jnp.ones(targets.shape)
    inputs = LossInputs(tokens=targets, sampler_logprobs=jnp.zeros(targets.shape), weights=ones, trained=ones)

    def objective(table):
        new, entropy = token_logprobs(hidden, table.T, targets, tau_t)
        # Each token of a row stands for a sample: its weight in the mean is how often it is drawn.
        return loss(CROSS_ENTROPY, inputs, new * sampled, entropy)[0]

    descend = jax.jit(lambda table: jax.lax.fori_loop(0, 20_000, lambda _, t: t - 2.0 * jax.grad(objective)(t), table))
    return descend(logits)


@pytest.mark.parametrize(("tau_s", "tau_t"), [(0.6, 1.0), (1.0, 1.0), (1.5, 1.0), (0.6, 0.8)])
def test_margins_are_scaled_by_the_ratio_of_the_temperatures(tau_s, tau_t):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
    found = np.asarray(train_to_the_optimum(logits, tau_s, tau_t))
    margins, before = (np.asarray(x)[:, :, None] - np.asarray(x)[:, None] for x in (found, logits))
    np.testing.assert_allclose(margins, before * tau_t / tau_s, atol=2e-3)
