import functools
import math
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from srt_jax.model import logprobs as logprobs_module
from srt_jax.model import sharding
from srt_jax.model.logprobs import token_logprobs

B, S, D, V = 3, 11, 6, 300
LIMITS = [1, 20, B * S, 4096]  # from B * S on, the forward pass keeps its logits


@pytest.fixture(params=[2**20, 1], ids=["as few blocks as the limit allows", "blocks of 128, 128 and 44"], autouse=True)
def blocks(request, monkeypatch):
    monkeypatch.setattr(logprobs_module, "CPU_LOGITS", request.param)


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
@pytest.mark.parametrize("limit", LIMITS)
def test_values(case, limit, temperature):
    found = jax.jit(functools.partial(token_logprobs, temperature=temperature, limit=limit))(*case)
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


@pytest.mark.parametrize("limit", LIMITS)
def test_gradients_of_log_probs_and_entropy(case, limit):
    hidden, head, targets = case
    rng = np.random.default_rng(1)
    weights, entropy_weights = rng.normal(size=(2, B, S))

    def scalar(hidden, head):
        logprobs, entropy = token_logprobs(hidden, head, targets, 0.7, limit)
        return (weights * logprobs + entropy_weights * entropy).sum()

    found = jax.jit(jax.grad(scalar, (0, 1)))(hidden, head)
    for ours, expected in zip(found, numeric_free_gradient(case, 0.7, weights, entropy_weights)):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("size", [V - 1, V])
@pytest.mark.parametrize("limit", [1, S])
def test_devices_share_rows_features_and_vocabulary(case, size, limit):
    """299 tokens are not divided by two, 300 are; 6 features are, by 2 of fsdp."""
    mesh = sharding.make_mesh(2, 2, 2, devices=jax.devices()[:8])
    hidden, head, targets = (np.concatenate([x, x]) for x in case)
    hidden, targets, head = hidden[:4], targets[:4], head[:size]
    weights, entropy_weights = np.random.default_rng(1).normal(size=(2, 4, S))

    def results(hidden, head, mesh):
        def scalar(hidden, head):
            logprobs, entropy = token_logprobs(hidden, head, targets, 0.7, limit, mesh)
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


def test_no_logits_of_the_whole_batch_are_ever_in_memory(monkeypatch):
    """Neither in the traced program nor in the compiled one. The limit alone decides, as on GPUs and TPUs."""
    monkeypatch.setattr(logprobs_module, "CPU_LOGITS", 2**40)
    b, s, d, limit = 8, 128, 16, 128

    def traced(v):
        shapes = [
            jax.ShapeDtypeStruct((b, s, d), jnp.float32),
            jax.ShapeDtypeStruct((v, d), jnp.float32),
            jax.ShapeDtypeStruct((b, s), jnp.int32),
        ]
        return jax.jit(
            jax.value_and_grad(
                lambda hidden, head, targets: token_logprobs(hidden, head, targets, 1.0, limit)[0].sum(), (0, 1)
            )
        ).trace(*shapes)

    small, large = traced(2048), traced(4096)
    sizes = [math.prod(shape) for shape in shapes_within(large.jaxpr)]
    assert limit * 4096 // 2 in sizes and max(sizes) < b * s * 4096 / 8
    small, large = (program.lower().compile() for program in (small, large))
    sizes = [math.prod(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", large.as_text())]
    assert limit * 4096 // 2 in sizes and max(sizes) < b * s * 4096 / 8
    temporary = [program.memory_analysis().temp_size_in_bytes for program in (small, large)]
    assert (temporary[1] - temporary[0]) / 4 / 2048 < 4 * (limit + d) < b * s


def test_a_block_fits_the_caches_of_a_cpu():
    """If more positions than the limit are computed, the logits of one block are the largest array."""
    n, v = 1024, 5000
    shapes = jnp.ones((1, n, 4)), jnp.ones((v, 4)), jnp.zeros((1, n), jnp.int32)
    jaxpr = jax.make_jaxpr(lambda *x: token_logprobs(*x, 1.0, n - 1)[0])(*shapes).jaxpr
    block = max(logprobs_module.LANES, logprobs_module.CPU_LOGITS // n)
    assert max(math.prod(shape) for shape in shapes_within(jaxpr)) == n * block < n * v


def test_a_plan_for_one_accelerator_has_its_block_and_not_that_of_a_cpu():
    """The platform is that of the mesh, also if the mesh has one device only, as in a plan."""
    device = types.SimpleNamespace(platform="gpu")
    mesh = types.SimpleNamespace(size=1, devices=np.array([device]))
    head, targets = jax.ShapeDtypeStruct((150_000, 64), jnp.float32), jax.ShapeDtypeStruct((4, 4096), jnp.int32)
    layout = logprobs_module._layout(head, targets, 4096, mesh)
    assert (layout.block, layout.keep) == (150_000 // 8 // 128 * 128, False)
    assert logprobs_module.blocks(16_384, 150_000, 4096, "cpu")[0] < layout.block
