"""Parts of the jitted update: loops over micro-batches, and conversions between values per token and per rollout."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from srt_jax.model import sharding
from srt_jax.rl.collate import Batch, Layout

Carry = TypeVar("Carry")  # a pytree
Tree = TypeVar("Tree")  # a pytree of arrays


def fold(body: Callable, carry: Carry, counts: jax.Array, layout: Layout, minibatch: jax.Array | int) -> Carry:
    """carry = body(carry, i, length) for every micro-batch i of a mini-batch, in order.

    `length` is the bucket of micro-batch i. It is a Python number, so `body` is traced once per bucket. The number of
    micro-batches in each bucket (counts [K, buckets]) is data, so one compiled program serves steps of all lengths.
    """
    # With one bucket and without packing the number is constant. Then XLA gets a loop with a known trip count.
    known = len(layout.length_buckets) == 1 and not layout.packing
    start = minibatch * layout.microbatches_per_minibatch
    for b, length in enumerate(sorted(layout.length_buckets)):
        count = layout.microbatches_per_minibatch if known else counts[minibatch, b]
        carry = jax.lax.fori_loop(0, count, lambda i, c, s=start, n=length: body(c, s + i, n), carry)
        start += count
    return carry


def cut(tree: Tree, i: jax.Array, length: int, mesh: Mesh) -> Tree:
    """Micro-batch i of token arrays [M, m, S], cut to [m, length]. Every row stays on its device."""
    rows = NamedSharding(mesh, P(sharding.ROWS))

    def one(x: jax.Array) -> jax.Array:
        x = jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False)
        return jax.lax.with_sharding_constraint(x[:, :length], rows)

    return jax.tree.map(one, tree)


def put(x: jax.Array, i: jax.Array, part: jax.Array) -> jax.Array:
    """x [M, m, S] with the first `length` positions of micro-batch i replaced by part [m, length]."""
    return jax.lax.dynamic_update_slice(x, part[None], (i, 0, 0))


def to_tokens(values: jax.Array, batch: Batch) -> jax.Array:
    """[P, n] -> [M, m, S]: copies the value of a rollout to each of its response tokens. Other tokens get 0."""
    return jnp.where(batch.response, values.reshape(-1)[batch.rollout], 0)


def to_prompts(values: jax.Array, batch: Batch) -> jax.Array:
    """[M, m, S] -> [P, n]: the sum of the token values of each rollout, including those of its prompt."""
    sums = (
        jnp.zeros(batch.rewards.size, values.dtype)
        .at[batch.rollout]
        .add(values, mode="drop", wrap_negative_indices=False)
    )  # padding has -1
    return sums.reshape(batch.rewards.shape)


def padding(batch: Batch, layout: Layout) -> jax.Array:
    """Share of the computed tokens that are padding."""
    lengths = jnp.array(sorted(layout.length_buckets), jnp.float32)
    computed = (batch.counts * lengths).sum() * layout.microbatch_sequences
    return 1.0 - (batch.rollout >= 0).sum(dtype=jnp.float32) / computed
