"""Inside the jitted update: loops over the micro-batches of a batch, and the way between its rows and its prompts."""
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from srt_jax.model import sharding
from srt_jax.rl.collate import Batch, Layout


def fold(body, carry, counts, layout: Layout, minibatch=0):
    """carry = body(carry, i, length) for every micro-batch i of a mini-batch, in order.

    `length` is the bucket of micro-batch i, a Python number: the body is traced once per bucket. How many micro-batches
    a bucket has (counts [K, buckets]) is data, so that one compiled program serves every step, whatever its lengths.
    """
    start = minibatch * layout.microbatches_per_minibatch
    for b, length in enumerate(sorted(layout.length_buckets)):
        # With one bucket the number is known: a scan, of which XLA knows the trip count.
        count = counts[minibatch, b] if len(layout.length_buckets) > 1 else layout.microbatches_per_minibatch
        carry = jax.lax.fori_loop(0, count, lambda i, c, s=start, n=length: body(c, s + i, n), carry)
        start += count
    return carry


def cut(tree, i, length: int, mesh: Mesh):
    """Micro-batch i of row arrays [M, m, ...]: token arrays [M, m, S] cut to `length`, every row on its own device."""
    rows = NamedSharding(mesh, P(sharding.ROWS))

    def one(x):
        x = jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False)
        return jax.lax.with_sharding_constraint(x[:, :length] if x.ndim == 2 else x, rows)

    return jax.tree.map(one, tree)


def put(x, i, part):
    """[M, m, S] with the first positions of micro-batch i set to part [m, length]."""
    return jax.lax.dynamic_update_slice(x, part[None], (i, 0, 0))


def to_rows(values, batch: Batch):
    """One number per rollout: [P, n] -> [M, m]."""
    return values.reshape(-1)[batch.rollout]


def to_prompts(values, batch: Batch):
    """One number per rollout: [M, m] -> [P, n]."""
    return jnp.zeros(batch.rewards.size, values.dtype).at[batch.rollout].add(values).reshape(batch.rewards.shape)


def response_mask(rows):
    """[..., S] float: 1 on response tokens, the stop token included. From lengths, never from ids."""
    position = jnp.arange(rows.tokens.shape[-1])
    inside = (position >= rows.prompt_lengths[..., None]) & (position < rows.lengths[..., None])
    return inside.astype(jnp.float32)


def padding(batch: Batch, layout: Layout):
    """Share of the computed tokens that are padding."""
    lengths = jnp.array(sorted(layout.length_buckets), jnp.float32)
    computed = (batch.counts * lengths).sum() * layout.microbatch_sequences
    return 1.0 - batch.lengths.sum(dtype=jnp.float32) / computed
