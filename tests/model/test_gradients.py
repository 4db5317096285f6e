"""The gradients of model/gradients.py beside those that JAX derives, and the arrays that they store."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srt_jax.model import attention, gradients

VISIBLE = jnp.asarray(np.tril(np.ones((4, 4), bool)))
CASES = {
    "product": (gradients.product, lambda x, w: x @ w, ((2, 3, 5), (5, 7))),
    "swiglu": (gradients.swiglu, lambda gate, up: gate / (1 + jnp.exp(-gate)) * up, ((2, 3, 5), (2, 3, 5))),
    "rms_norm": (
        lambda x, scale: gradients.rms_norm(x, scale, 1e-5),
        lambda x, scale: scale * x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5),
        ((2, 3, 5), (5,)),
    ),
    "masked_softmax": (
        lambda scores: attention.masked_softmax(scores, VISIBLE),
        lambda scores: (
            jnp.where(VISIBLE, jnp.exp(scores), 0) / jnp.where(VISIBLE, jnp.exp(scores), 0).sum(-1)[..., None]
        ),
        ((3, 4, 4),),
    ),
}


def arrays(shapes, dtype=jnp.float32):
    """Random arrays of these shapes."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_formula(name, dtype):
    ours, formula, shapes = CASES[name]
    inputs = arrays(shapes, dtype)
    wide = [x.astype(jnp.float32) for x in inputs]
    expected, their_gradient = jax.vjp(formula, *wide)
    found, our_gradient = jax.vjp(ours, *inputs)
    by = arrays([expected.shape], dtype)[0]
    tolerance = 1e-5 if dtype == jnp.float32 else 0.03
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance)
    for a, b in zip(our_gradient(by), their_gradient(by.astype(jnp.float32))):
        assert a.dtype == dtype and a.shape == b.shape
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=tolerance, atol=tolerance * float(jnp.abs(b).max()))


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("product", [(2, 3, 5), (5, 7)]),
        ("swiglu", [(2, 3, 5), (2, 3, 5)]),
        ("rms_norm", [(2, 3, 5), (5,)]),
        ("masked_softmax", [(3, 4, 4)]),
    ],
)
def test_a_backward_pass_stores_no_more_than_it_needs(name, stored):
    ours, _, shapes = CASES[name]
    inputs = arrays(shapes)
    found = jax.tree.leaves(jax.eval_shape(lambda *x: jax.vjp(ours, *x)[1], *inputs))
    assert sorted(x.shape for x in found if x.size > 1) == sorted(stored)


def test_a_gradient_of_a_kernel_needs_no_transposed_copy():
    """XLA's CPU backend made one of the output's gradient, which took half of a layer's backward pass."""
    x, w, by = arrays(((4, 32, 64), (64, 96), (4, 32, 96)))

    def gradient(x, w, by):
        return jax.vjp(gradients.product, x, w)[1](jnp.exp(by))

    assert "f32[96,128]" not in jax.jit(gradient).lower(x, w, by).compile().as_text()
