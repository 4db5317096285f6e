"""Log-probabilities of given tokens from hidden states, without [B, S, V] logits in memory.

Both passes compute a chunk of positions of every row at a time. The backward pass recomputes the logits and reuses the
log-normalisers of the forward pass. If one chunk covers the rows, the forward pass keeps its logits instead, since they
take no more memory than those of any chunk. Letters on one device: b rows, v vocabulary, d features, c positions.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from srt_jax.model.sharding import ROWS, fit


@dataclasses.dataclass(frozen=True)
class Layout:
    """Static arguments: positions per chunk, and the mesh axes that split head [V, D] (None: not split).

    certainty: the forward pass also computes the self-certainty.
    """

    chunk: int
    mesh: Mesh | None
    vocabulary: str | None
    features: str | None
    certainty: bool = False


def token_logprobs(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    temperature: jax.Array | float = 1.0,
    chunk: int = 512,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """log p(target) and entropy of the distribution at each position.

    hidden [B, S, D], head [V, D], targets [B, S]. Logits are divided by `temperature` first, as in the sampler; the
    temperature gets no gradient. At most `chunk` positions of each row are computed at a time, so memory grows with
    rows x chunk x V. Matrix products run in hidden's dtype and accumulate in float32. The gradient of head has head's
    dtype. On a mesh every device computes its rows and its part of the vocabulary, and the gradient of head is summed
    over the devices once.
    Returns (logprobs [B, S], entropy [B, S]), float32.
    """
    layout = _layout(head, targets, chunk, mesh)
    return _token_logprobs(layout, hidden, head, targets, jnp.asarray(temperature, jnp.float32))


def token_scores(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    temperature: jax.Array | float = 1.0,
    chunk: int = 512,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """log p(target), entropy and self-certainty at each position, without a gradient.

    The arguments are those of `token_logprobs`. The self-certainty is logsumexp(z) - mean over v of z_v for the logits
    z [V], which is KL(uniform || p) + log V (Intuitor, https://arxiv.org/abs/2505.19590).
    Returns three float32 arrays [B, S].
    """
    layout = dataclasses.replace(_layout(head, targets, chunk, mesh), certainty=True)
    (logprobs, entropy), (*_, certainty) = _forward(
        layout, hidden, head, targets, jnp.asarray(temperature, jnp.float32)
    )
    return logprobs, entropy, certainty


def _layout(head: jax.Array, targets: jax.Array, chunk: int, mesh: Mesh | None) -> Layout:
    S = targets.shape[1]
    chunk = -(-S // -(-S // chunk))  # as even as the number of chunks allows
    if mesh is None or mesh.size == 1:
        return Layout(chunk, None, None, None)
    return Layout(chunk, mesh, *fit(mesh, ("tensor", "fsdp"), head.shape))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_logprobs(
    layout: Layout, hidden: jax.Array, head: jax.Array, targets: jax.Array, temperature: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _forward(layout, hidden, head, targets, temperature)[0]


def _forward(layout: Layout, hidden: jax.Array, head: jax.Array, targets: jax.Array, temperature: jax.Array) -> tuple:
    V = head.shape[0]

    def on_device(hidden: jax.Array, head: jax.Array, targets: jax.Array, temperature: jax.Array) -> tuple:
        head = _whole(head, hidden.dtype, layout)

        def body(_: None, h: jax.Array, t: jax.Array) -> tuple:
            logits = _logits(h, head, temperature)
            top = _over(jax.lax.pmax, logits.max(-1), layout.vocabulary)
            exp = jnp.exp(logits - top[..., None])
            # A gather of the target's logit would not work on a part of the vocabulary. This comparison does.
            sums = exp.sum(-1), (exp * logits).sum(-1), jnp.where(_is_target(t, logits, layout), logits, 0.0).sum(-1)
            total, weighted, chosen = _over(jax.lax.psum, sums, layout.vocabulary)
            log_total = jnp.log(total) + top
            # The logits of a single chunk fit in memory, so the backward pass reuses them.
            kept = logits if layout.chunk == targets.shape[1] else None
            certainty = None
            if layout.certainty:
                certainty = log_total - _over(jax.lax.psum, logits.sum(-1), layout.vocabulary) / V
            return None, (chosen - log_total, log_total - weighted / total, log_total, kept, certainty)

        return _over_chunks(body, None, (hidden, targets), layout.chunk)[1]

    rows, head_spec = P(ROWS), P(layout.vocabulary, layout.features)
    logprobs, entropy, log_total, logits, certainty = _on_devices(
        on_device,
        layout,
        (rows, head_spec, rows, P()),
        (rows, rows, rows, P(ROWS, None, layout.vocabulary), rows),
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
        kept: jax.Array,
        by_logprob: jax.Array,
        by_entropy: jax.Array,
    ) -> tuple:
        dtype = hidden.dtype
        gathered = _whole(head, dtype, layout)

        def body(
            d_head: jax.Array,
            h: jax.Array,
            t: jax.Array,
            entropy: jax.Array,
            log_total: jax.Array,
            by_logprob: jax.Array,
            by_entropy: jax.Array,
            logits: jax.Array | None = None,
        ) -> tuple:
            logits = _logits(h, gathered, temperature) if logits is None else logits
            log_p = logits - log_total[..., None]
            p = jnp.exp(log_p)
            by_logits = by_logprob[..., None] * (_is_target(t, logits, layout) - p)
            by_logits -= by_entropy[..., None] * p * (log_p + entropy[..., None])
            by_logits = (by_logits / temperature).astype(dtype)
            # On CPUs XLA copies a transposed left operand. It is `h` here, and not the much larger `by_logits`, with
            # which this pass takes 1.4 times as long. The barrier keeps the transpose out of the product, because the
            # CPU backend cannot multiply transposed bfloat16 matrices into float32.
            h_T = jax.lax.optimization_barrier(h.reshape(-1, h.shape[-1]).T)
            by_logits_2d = by_logits.reshape(-1, by_logits.shape[-1])
            d_head += jnp.matmul(h_T, by_logits_2d, preferred_element_type=jnp.float32).T
            return d_head, (jnp.einsum("bcv,vd->bcd", by_logits, gathered),)

        arrays = (hidden, targets, entropy, log_total, by_logprob, by_entropy)
        d_head, (d_hidden,) = _over_chunks(
            body, jnp.zeros(gathered.shape), arrays if kept is None else (*arrays, kept), layout.chunk
        )
        d_hidden = _over(jax.lax.psum, d_hidden, layout.vocabulary)
        if layout.mesh is not None:
            if layout.features:
                d_head = jax.lax.psum_scatter(d_head, layout.features, scatter_dimension=1, tiled=True)
            d_head = jax.lax.psum(d_head, "data" if layout.features else ROWS)
        return d_hidden, d_head.astype(head.dtype)

    hidden, head, targets, temperature, entropy, log_total, kept, _ = residuals
    rows, head_spec = P(ROWS), P(layout.vocabulary, layout.features)
    d_hidden, d_head = _on_devices(
        on_device,
        layout,
        (rows, head_spec, rows, P(), rows, rows, P(ROWS, None, layout.vocabulary), rows, rows),
        (rows, head_spec),
    )(hidden, head, targets, temperature, entropy, log_total, kept, *gradients)
    return d_hidden, d_head, None, None


_token_logprobs.defvjp(_forward, _backward)


def _logits(h: jax.Array, head: jax.Array, temperature: jax.Array) -> jax.Array:
    return jnp.einsum("bcd,vd->bcv", h, head, preferred_element_type=jnp.float32) / temperature


def _is_target(targets: jax.Array, logits: jax.Array, layout: Layout) -> jax.Array:
    """[b, c, v] bool, for this device's part of the vocabulary."""
    v = logits.shape[-1]
    first = jax.lax.axis_index(layout.vocabulary) * v if layout.vocabulary else 0
    return first + jnp.arange(v) == targets[..., None]


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


def _over_chunks(body: Callable, carry: object, arrays: Sequence[jax.Array], chunk: int) -> tuple:
    """body(carry, *chunks [b, c, ...]) -> (carry, outputs [b, c, ...]) along S; outputs are joined to [b, S, ...].

    Chunks run along S and not along b * S, so that rows stay whole. One chunk needs no loop.
    """
    S = arrays[0].shape[1]
    if chunk == S:
        return body(carry, *arrays)
    padded = [jnp.pad(x, ((0, 0), (0, -S % chunk), *((0, 0),) * (x.ndim - 2))) for x in arrays]

    def step(carry: object, start: jax.Array) -> tuple:
        return body(carry, *(jax.lax.dynamic_slice_in_dim(x, start, chunk, 1) for x in padded))

    carry, parts = jax.lax.scan(step, carry, jnp.arange(0, S, chunk))
    return carry, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, :S], parts)
