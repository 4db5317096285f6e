import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


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


def test_no_logits_of_the_whole_batch_are_ever_held():
    """The compiled gradient's memory grows with the chunk, not with S * V."""
    b, s, d, v = 2, 512, 8, 512

    def scalar(hidden, head, targets, chunk):
        return token_logprobs(hidden, head, targets, 1.0, chunk)[0].sum()

    def temporary_bytes(chunk):
        shapes = [jax.ShapeDtypeStruct((b, s, d), jnp.float32), jax.ShapeDtypeStruct((v, d), jnp.float32),
                  jax.ShapeDtypeStruct((b, s), jnp.int32)]
        compiled = jax.jit(jax.grad(scalar, (0, 1)), static_argnums=3).lower(*shapes, chunk).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(s) > b * s * v * 4
    assert temporary_bytes(32) < b * s * v * 4 / 4
