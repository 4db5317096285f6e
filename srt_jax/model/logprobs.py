"""Log-probabilities of given tokens from hidden states, without [B, S, V] logits in memory.

Both passes loop over blocks of the vocabulary and compute the logits of all positions for one block at a time. The
backward pass recomputes the logits and reuses the log-normalisers of the forward pass. If the limit on logits in memory
allows the logits of all positions, the forward pass keeps them instead. Letters on one device: N positions, v
vocabulary, d features, c vocabulary of a block.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from srt_jax.model.sharding import ROWS, fit

LANES = 128  # width of a TPU's vector registers: blocks are multiples of it
CPU_LOGITS = 2**20  # logits of a block on a CPU. 4 MB stay in its caches, which saves 40% of a forward pass.


@dataclasses.dataclass(frozen=True)
class Layout:
    """Static arguments: vocabulary per block, and the mesh axes that split head [V, D] (None: not split).

    keep: the forward pass keeps its logits for the backward pass. certainty: it also computes the self-certainty.
    """

    block: int
    keep: bool
    mesh: Mesh | None
    vocabulary: str | None
    features: str | None
    certainty: bool = False


def token_logprobs(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    temperature: jax.Array | float = 1.0,
    limit: int = 4096,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """log p(target) and entropy of the distribution at each position.

    hidden [B, S, D], head [V, D], targets [B, S]. Logits are divided by `temperature` first, as in the sampler; the
    temperature gets no gradient. A device with at most `limit` positions keeps their logits for the backward pass.
    Otherwise the logits of a block and their gradient together take no more memory than the logits of `limit`
    positions, but a block has at least 128 tokens of the vocabulary. Matrix products run in hidden's dtype and
    accumulate in float32. The gradient of head has head's dtype. On a mesh every device computes its rows and its part
    of the vocabulary, and the gradient of head is summed over the devices once.
    Returns (logprobs [B, S], entropy [B, S]), float32.
    """
    layout = _layout(head, targets, limit, mesh)
    return _token_logprobs(layout, hidden, head, targets, jnp.asarray(temperature, jnp.float32))


def token_scores(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    temperature: jax.Array | float = 1.0,
    limit: int = 4096,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """log p(target), entropy and self-certainty at each position, without a gradient.

    The arguments are those of `token_logprobs`. The self-certainty is logsumexp(z) - mean over v of z_v for the logits
    z [V], which is KL(uniform || p) + log V (Intuitor, https://arxiv.org/abs/2505.19590).
    Returns three float32 arrays [B, S].
    """
    layout = dataclasses.replace(_layout(head, targets, limit, mesh), certainty=True)
    (logprobs, entropy), (*_, certainty) = _forward(
        layout, hidden, head, targets, jnp.asarray(temperature, jnp.float32)
    )
    return logprobs, entropy, certainty


def blocks(positions: int, vocabulary: int, limit: int, platform: str) -> tuple[int, bool]:
    """(vocabulary per block, whether the forward pass keeps its logits for the backward pass), on one device.

    vocabulary: the device's part of it. platform: of the jax.Device. `token_logprobs` explains the limit.
    """
    keep = positions <= limit
    logits = limit * vocabulary if keep else limit * vocabulary // 2
    if platform == "cpu":
        logits = min(logits, CPU_LOGITS)
    return min(max(1, logits // positions // LANES) * LANES, vocabulary), keep


def _layout(head: jax.Array, targets: jax.Array, limit: int, mesh: Mesh | None) -> Layout:
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    if mesh is None or mesh.size == 1:
        return Layout(*blocks(targets.size, head.shape[0], limit, platform), None, None, None)
    axes = fit(mesh, ("tensor", "fsdp"), head.shape)
    positions = targets.size // math.prod(mesh.shape[axis] for axis in ROWS)
    vocabulary = head.shape[0] // (mesh.shape[axes[0]] if axes[0] else 1)
    return Layout(*blocks(positions, vocabulary, limit, platform), mesh, *axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_logprobs(
    layout: Layout, hidden: jax.Array, head: jax.Array, targets: jax.Array, temperature: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _forward(layout, hidden, head, targets, temperature)[0]


def _forward(layout: Layout, hidden: jax.Array, head: jax.Array, targets: jax.Array, temperature: jax.Array) -> tuple:
    V = head.shape[0]

    def on_device(hidden: jax.Array, head: jax.Array, targets: jax.Array, temperature: jax.Array) -> tuple:
        head = _whole(head, hidden.dtype, layout)
        h, t = hidden.reshape(-1, hidden.shape[-1]), _local(targets, head, layout)

        def body(sums: tuple, start: jax.Array | int, rows: jax.Array, _: None) -> tuple:
            top, total, weighted, chosen, summed = sums
            logits = _logits(h, rows, temperature)
            new_top = jnp.maximum(top, logits.max(-1))
            shrink = jnp.exp(top - new_top)
            exp = jnp.exp(logits - new_top[:, None])
            # A gather of the target's logit would not work on a part of the vocabulary. This comparison does.
            sums = (
                new_top,
                total * shrink + exp.sum(-1),
                weighted * shrink + (exp * logits).sum(-1),
                chosen + jnp.where(_is_target(t, start, logits), logits, 0.0).sum(-1),
                summed + logits.sum(-1),
            )
            return sums, logits if layout.keep else None

        zeros = jnp.zeros(t.shape)
        sums, logits = _over_blocks(body, (zeros - jnp.inf, *(zeros,) * 4), head, layout.block)
        top, *sums = sums
        whole_top = _over(jax.lax.pmax, top, layout.vocabulary)
        shrink = jnp.exp(top - whole_top)
        sums = sums[0] * shrink, sums[1] * shrink, *sums[2:]
        total, weighted, chosen, summed = _over(jax.lax.psum, sums, layout.vocabulary)
        log_total = jnp.log(total) + whole_top
        certainty = log_total - summed / V if layout.certainty else None
        values = chosen - log_total, log_total - weighted / total, log_total, certainty
        return *(x if x is None else x.reshape(targets.shape) for x in values), logits

    rows, head_spec = P(ROWS), P(layout.vocabulary, layout.features)
    logprobs, entropy, log_total, certainty, logits = _on_devices(
        on_device, layout, (rows, head_spec, rows, P()), (rows, rows, rows, rows, _kept_spec(layout))
    )(hidden, head, targets, temperature)
    return (logprobs, entropy), (hidden, head, targets, temperature, entropy, log_total, logits, certainty)


def _backward(layout: Layout, residuals: tuple[jax.Array, ...], gradients: tuple[jax.Array, jax.Array]) -> tuple:
    """d logp = (onehot - p) / T; d entropy = -p (log p + entropy) / T, by logits before the division."""

    def on_device(
        hidden: jax.Array,
        head: jax.Array,
        targets: jax.Array,
        temperature: jax.Array,
        entropy: jax.Array,
        log_total: jax.Array,
        kept: tuple,
        by_logprob: jax.Array,
        by_entropy: jax.Array,
    ) -> tuple:
        dtype = hidden.dtype
        gathered = _whole(head, dtype, layout)
        h, t = hidden.reshape(-1, hidden.shape[-1]), _local(targets, gathered, layout)
        entropy, log_total, by_logprob, by_entropy = (
            x.reshape(-1, 1) for x in (entropy, log_total, by_logprob, by_entropy)
        )

        def body(carry: tuple, start: jax.Array | int, rows: jax.Array, logits: jax.Array | None) -> tuple:
            d_hidden, d_head = carry
            logits = _logits(h, rows, temperature) if logits is None else logits
            log_p = logits - log_total
            p = jnp.exp(log_p)
            by_logits = by_logprob * (_is_target(t, start, logits) - p) - by_entropy * p * (log_p + entropy)
            by_logits = (by_logits / temperature).astype(dtype)
            d_hidden += jnp.matmul(by_logits, rows, preferred_element_type=jnp.float32)
            d_rows = jnp.matmul(by_logits.T, h, preferred_element_type=jnp.float32)
            return (d_hidden, jax.lax.dynamic_update_slice_in_dim(d_head, d_rows, start, 0)), None

        zeros = jnp.zeros(h.shape), jnp.zeros(gathered.shape)
        (d_hidden, d_head), _ = _over_blocks(body, zeros, gathered, layout.block, kept)
        d_hidden = _over(jax.lax.psum, d_hidden.astype(dtype), layout.vocabulary)
        if layout.mesh is not None:
            if layout.features:
                d_head = jax.lax.psum_scatter(d_head, layout.features, scatter_dimension=1, tiled=True)
            d_head = jax.lax.psum(d_head, "data" if layout.features else ROWS)
        return d_hidden.reshape(hidden.shape), d_head.astype(head.dtype)

    hidden, head, targets, temperature, entropy, log_total, kept, _ = residuals
    rows, head_spec = P(ROWS), P(layout.vocabulary, layout.features)
    d_hidden, d_head = _on_devices(
        on_device,
        layout,
        (rows, head_spec, rows, P(), rows, rows, _kept_spec(layout), rows, rows),
        (rows, head_spec),
    )(hidden, head, targets, temperature, entropy, log_total, kept, *gradients)
    return d_hidden, d_head, None, None


_token_logprobs.defvjp(_forward, _backward)


def _logits(h: jax.Array, rows: jax.Array, temperature: jax.Array) -> jax.Array:
    """h [N, d] and rows [c, d] of the head -> [N, c] float32."""
    return jnp.matmul(h, rows.T, preferred_element_type=jnp.float32) / temperature


def _local(targets: jax.Array, head: jax.Array, layout: Layout) -> jax.Array:
    """targets [b, S] -> [N], counted from the first row of this device's head [v, d]."""
    first = jax.lax.axis_index(layout.vocabulary) * head.shape[0] if layout.vocabulary else 0
    return targets.reshape(-1) - first


def _is_target(t: jax.Array, start: jax.Array | int, logits: jax.Array) -> jax.Array:
    """[N, c] bool for the block of the vocabulary that begins at `start`."""
    return start + jnp.arange(logits.shape[1]) == t[:, None]


def _over_blocks(body: Callable, carry: Any, head: jax.Array, block: int, kept: tuple | None = None) -> tuple:
    """carry, out = body(carry, start, head[start : start + c], kept logits or None) for each block of the vocabulary.

    Returns (carry, (the outputs of all whole blocks, stacked; the output of the last block)). The last block may be
    smaller than `block`, and the number of whole blocks before it may be 0. kept: the outputs of an earlier call.
    """
    before = (head.shape[0] - 1) // block  # whole blocks
    stacked, last = (None, None) if kept is None else kept

    def step(carry: Any, inputs: tuple) -> tuple:
        i, logits = inputs
        return body(carry, i * block, jax.lax.dynamic_slice_in_dim(head, i * block, block, 0), logits)

    out = None
    if before:
        carry, out = jax.lax.scan(step, carry, (jnp.arange(before), stacked))
    carry, rest = body(carry, before * block, head[before * block :], last)
    return carry, (out, rest)


def _kept_spec(layout: Layout) -> tuple:
    """The sharding of the logits that the forward pass keeps: those of the whole blocks, and those of the last one."""
    return P(None, ROWS, layout.vocabulary), P(ROWS, layout.vocabulary)


def _whole(head: jax.Array, dtype: DTypeLike, layout: Layout) -> jax.Array:
    """The head with this device's part of the vocabulary and all features, in the compute dtype."""
    head = head.astype(dtype)
    return jax.lax.all_gather(head, layout.features, axis=1, tiled=True) if layout.features else head


def _over(reduce: Callable, x: jax.Array | tuple[jax.Array, ...], axis: str | None) -> Any:
    """pmax or psum over a mesh axis; x itself if the axis is None."""
    return reduce(x, axis) if axis else x


def _on_devices(function: Callable, layout: Layout, in_specs: tuple, out_specs: object) -> Callable:
    """Wraps the function so that each device runs it on its part of the arrays."""
    if layout.mesh is None:
        return function
    return jax.shard_map(function, mesh=layout.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
