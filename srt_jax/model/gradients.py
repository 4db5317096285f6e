"""Operations of the decoder with gradients of their own, which need less time or memory than those that JAX derives.

The values are the same. They stay the same under `jax.checkpoint`, because its policies see what these rules save.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def recomputed(function: Callable) -> Callable:
    """The function with a backward pass that stores only the arguments and computes everything else again.

    For chains of operations on single elements. XLA fuses them, so computing them twice costs less than storing their
    results. All arguments must be arrays, numbers or None, and all of them get gradients.
    """
    again = jax.custom_vjp(function)
    again.defvjp(lambda *inputs: (function(*inputs), inputs), lambda inputs, by: jax.vjp(function, *inputs)[1](by))
    return again


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., in] @ kernel [in, out] -> [..., out].

    JAX's gradient of the kernel contracts all leading axes of x at once. For that XLA's CPU backend writes a transposed
    copy of the output's gradient, and computes the operations before it once more, element by element. Here it is a
    product of two matrices, which needs no copy.
    """
    return x @ kernel


def _product_backward(inputs: tuple[jax.Array, jax.Array], by_out: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = inputs
    return by_out @ kernel.T, x.reshape(-1, x.shape[-1]).T @ by_out.reshape(-1, by_out.shape[-1])


product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)


@recomputed
def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) * up, the gated unit of a feed-forward block (https://arxiv.org/abs/2002.05202)."""
    return jax.nn.silu(gate) * up


@recomputed
def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x [..., D] over its root mean square, times scale [D], in float32 (https://arxiv.org/abs/1910.07467)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps)
    return (x32 * scale).astype(x.dtype)
