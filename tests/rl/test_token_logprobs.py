import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from srt_jax.model import sharding
from srt_jax.model.logprobs import token_logprobs

B, S, D, V = 3, 11, 6, 17


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    hidden, head = rng.normal(size=(B, S, D)), 2 * rng.normal(size=(V, D))
    return hidden.astype(np.float32), head.astype(np.float32), rng.integers(0, V, (B, S)).astype(np.int32)


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def reference(hidden, head, targets, temperature):
    """float64 (log-probs, entropies)."""
    everything = log_softmax(hidden.astype(np.float64) @ head.astype(np.float64).T / temperature)
    return np.take_along_axis(everything, targets[..., None], -1)[..., 0], -(np.exp(everything) * everything).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [1, 3, 7, S, 64])
def test_values(case, chunk, temperature):
    found = jax.jit(functools.partial(token_logprobs, temperature=temperature, chunk=chunk))(*case)
    for ours, expected in zip(found, reference(*case, temperature)):
        assert ours.shape == (B, S)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def numeric_free_gradient(case, temperature, weights, entropy_weights):
    """By hand: d logp = (onehot - p) / T, d entropy = -p (log p + entropy) / T."""
    hidden, head, targets = case
    everything = log_softmax(hidden.astype(np.float64) @ head.astype(np.float64).T / temperature)
    p = np.exp(everything)
    entropy = -(p * everything).sum(-1, keepdims=True)
    by_logits = weights[..., None] * (np.eye(V)[targets] - p) - entropy_weights[..., None] * p * (everything + entropy)
    by_logits /= temperature
    return by_logits @ head, np.einsum("bsv,bsd->vd", by_logits, hidden)


@pytest.mark.parametrize("chunk", [1, 3, 7, S])
def test_gradients_of_log_probs_and_entropy(case, chunk):
    hidden, head, targets = case
    rng = np.random.default_rng(1)
    weights, entropy_weights = rng.normal(size=(2, B, S))

    def scalar(hidden, head):
        logprobs, entropy = token_logprobs(hidden, head, targets, 0.7, chunk)
        return (weights * logprobs + entropy_weights * entropy).sum()

    found = jax.jit(jax.grad(scalar, (0, 1)))(hidden, head)
    for ours, expected in zip(found, numeric_free_gradient(case, 0.7, weights, entropy_weights)):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("size", [V, 18])
@pytest.mark.parametrize("chunk", [3, S])
def test_devices_share_rows_features_and_vocabulary(case, size, chunk):
    """17 tokens are not divided by two, 18 are; 6 features are, by 2 of fsdp."""
    mesh = sharding.make_mesh(2, 2, 2, devices=jax.devices()[:8])
    hidden, head, targets = (np.concatenate([x, x]) for x in case)
    hidden, targets, head = hidden[:4], targets[:4], head[:size]
    weights, entropy_weights = np.random.default_rng(1).normal(size=(2, 4, S))

    def results(hidden, head, mesh):
        def scalar(hidden, head):
            logprobs, entropy = token_logprobs(hidden, head, targets, 0.7, chunk, mesh)
            return (weights * logprobs + entropy_weights * entropy).sum(), (logprobs, entropy)

        return jax.value_and_grad(scalar, (0, 1), has_aux=True)(hidden, head)

    expected, found = (jax.jit(functools.partial(results, mesh=m))(hidden, head) for m in (None, mesh))
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_the_temperature_may_be_data(case):
    found = jax.jit(lambda t: token_logprobs(*case, t))(jnp.float32(0.6))
    for ours, expected in zip(found, reference(*case, 0.6)):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_large_logits_neither_overflow_nor_lose_the_target():
    hidden, head = np.full((1, 2, 1), 1e4, np.float32), np.array([[1.0], [-1.0], [0.5]], np.float32)
    logprobs, entropy = token_logprobs(hidden, head, np.array([[0, 2]]), 1.0, 1)
    np.testing.assert_allclose(logprobs, [[0.0, -5000.0]])
    np.testing.assert_allclose(entropy, 0.0, atol=1e-6)


def test_bfloat16_hidden_states_accumulate_in_float32(case):
    hidden, head, targets = case
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in (hidden, head)]
    logprobs, _ = token_logprobs(*rounded, targets, 1.0, 4)
    expected, _ = reference(*(np.asarray(x, np.float32) for x in rounded), targets, 1.0)
    assert logprobs.dtype == jnp.float32
    np.testing.assert_allclose(logprobs, expected, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_float32_head_is_summed_in_float32():
    """One feature that is 1 everywhere: the gradient by the first token's weight is a sum of 4,096 terms."""
    hidden, head = jnp.ones((1, 4096, 1), jnp.bfloat16), jnp.zeros((4, 1))
    targets = jnp.zeros((1, 4096), jnp.int32)
    found = jax.jit(jax.grad(lambda head: token_logprobs(hidden, head, targets, 1.0, 16)[0].sum()))(head)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[:, 0], [0.75 * 4096, *[-0.25 * 4096] * 3], rtol=1e-6)


def shapes_within(jaxpr):
    """Shapes of all values of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from shapes_within(inner)


def test_no_logits_of_the_whole_batch_are_ever_held():
    """Neither in the traced program nor in the compiled one; memory grows with the vocabulary by a chunk only."""
    b, s, d, chunk = 8, 128, 16, 8

    def lowered(v):
        shapes = [
            jax.ShapeDtypeStruct((b, s, d), jnp.float32),
            jax.ShapeDtypeStruct((v, d), jnp.float32),
            jax.ShapeDtypeStruct((b, s), jnp.int32),
        ]
        return jax.jit(
            jax.value_and_grad(
                lambda hidden, head, targets: token_logprobs(hidden, head, targets, 1.0, chunk)[0].sum(), (0, 1)
            )
        ).trace(*shapes)

    small, large = lowered(500), lowered(1000)
    sizes = [math.prod(shape) for shape in shapes_within(large.jaxpr)]
    assert b * chunk * 1000 in sizes and max(sizes) < b * s * 1000 / 4
    small, large = (traced.lower().compile() for traced in (small, large))
    sizes = [math.prod(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", large.as_text())]
    assert b * chunk * 1000 in sizes and max(sizes) < b * s * 1000 / 4
    held = [compiled.memory_analysis().temp_size_in_bytes for compiled in (small, large)]
    assert (held[1] - held[0]) / 4 / 500 < 4 * (b * chunk + d) < b * s / 3
