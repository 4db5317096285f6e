"""Errors of attention kernels, forward and backward, against an implementation that is not the project's."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from srt_jax.model import attention
from srt_jax.model.attention import PLATFORMS

PASSES = ("score", "out", "dq", "dk", "dv")  # the forward pass alone, the forward pass with gradients, the gradients


def kernels(platform: str) -> tuple[str, ...]:
    """The kernels that the backend of a platform offers, plain XLA first."""
    return {"gpu": ("xla", "cudnn"), "tpu": ("xla", "splash"), "cpu": ("xla",)}[PLATFORMS[platform]]


def attention_inputs(B: int, S: int, N: int, K: int, H: int, packed: bool) -> tuple:
    """Random bfloat16 q, k, v and gradient of the output, and segments [B, S] or None.

    Letters as in attention.py. packed: each row has three sequences and padding, with other borders in each row.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    q, by_out = (jax.random.normal(key, (B, S, N, H), jnp.bfloat16) for key in keys[:2])
    k, v = (jax.random.normal(key, (B, S, K, H), jnp.bfloat16) for key in keys[2:])
    segments = None
    if packed:
        borders = np.array([[S // 5 + b, S // 2 + 3 * b, S - S // 8 - b] for b in range(B)])
        segments = (np.arange(S) >= borders[..., None]).sum(1).astype(np.int32)
        segments[segments == 3] = -1
    return q, k, v, by_out, segments


def compile_errors(kernel: str, inputs: tuple) -> jax.stages.Compiled:
    """Compiles `attention_errors` for a kernel and inputs of these shapes."""
    return jax.jit(functools.partial(attention_errors, kernel)).lower(*inputs).compile()


def attention_errors(
    kernel: str, q: jax.Array, k: jax.Array, v: jax.Array, by_out: jax.Array, segments: jax.Array | None
) -> list[jax.Array]:
    """Relative errors of the kernel [5] and of plain XLA [5], both in bfloat16, in the order of PASSES.

    The exact values are those of jax.nn.dot_product_attention in float32.
    """

    def passes(attend: Callable, dtype: DTypeLike) -> list[jax.Array]:
        inputs = [x.astype(dtype) for x in (q, k, v)]
        out, pull = jax.vjp(attend, *inputs)
        return [x.astype(jnp.float32) for x in (attend(*inputs), out, *pull(by_out.astype(dtype)))]

    with jax.default_matmul_precision("highest"):
        exact = passes(functools.partial(_exact, segments=segments), jnp.float32)
    return [
        jnp.stack(
            [
                jnp.linalg.norm(x - y) / jnp.linalg.norm(y)
                for x, y in zip(
                    passes(functools.partial(attention.causal, segments=segments, name=name), jnp.bfloat16), exact
                )
            ]
        )
        for name in (kernel, "xla")
    ]


def limits(plain: np.ndarray) -> np.ndarray:
    """The largest errors [5] of a right kernel: twice those of plain XLA in bfloat16, or 1%."""
    return np.maximum(2 * plain, 0.01)


def _exact(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None) -> jax.Array:
    mask = None if segments is None else (segments[:, :, None] == segments[:, None])[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, implementation="xla")
