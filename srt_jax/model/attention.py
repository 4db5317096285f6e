"""Causal attention with the kernel of each platform, and one decoding step of samples that share a prompt.

Letters: B sequences, S tokens, N query heads, K key/value heads, G = N/K, H head dim.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from srt_jax.errors import ModelError
from srt_jax.model import gradients
from srt_jax.model.sharding import ROWS

PLATFORMS = {"gpu": "gpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu", "cpu": "cpu"}
MASKED = -1e30  # finite, because the softmax of a row of -inf would be NaN
LANES = 128  # width of a TPU's vector registers; splash and cuDNN get lengths that are multiples of it


def choose(name: str, platform: str, dtype: DTypeLike, head_dim: int) -> str:
    """The kernel for model.attention: xla | cudnn | splash.

    platform: of the jax.Device; dtype: of the computation. "auto" is cudnn on GPUs that can compute dtype and head_dim
    with it, splash on TPUs, else xla. Raises ModelError for a kernel that cannot run.
    """
    kind, half = PLATFORMS[platform], jnp.dtype(dtype).itemsize == 2
    fits = head_dim % 8 == 0 and head_dim <= 128  # limits of cuDNN's attention on all GPUs that have it
    if name == "auto":
        return {"gpu": "cudnn" if half and fits else "xla", "tpu": "splash", "cpu": "xla"}[kind]
    if name == "cudnn" and kind != "gpu":
        raise ModelError(
            f"model.attention is 'cudnn', which needs an NVIDIA GPU, and this is a {kind.upper()}: set it to 'auto'."
        )
    if name == "cudnn" and not half:
        raise ModelError(
            f"model.attention is 'cudnn', which cannot compute in {jnp.dtype(dtype).name}: set "
            "model.dtype to 'bfloat16', or model.attention to 'xla'."
        )
    if name == "cudnn" and not fits:
        raise ModelError(
            f"model.attention is 'cudnn', which needs a head dim that is a multiple of 8 and at most 128, and this "
            f"model has {head_dim}: set it to 'xla'."
        )
    if name == "splash" and kind != "tpu":
        raise ModelError(
            f"model.attention is 'splash', which needs a TPU, and this is a {kind.upper()}: set it to 'auto'."
        )
    return name


def causal(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    name: str = "xla",
    mesh: Mesh | None = None,
    recompute: bool = False,
) -> jax.Array:
    """Attention of each token to itself and to earlier tokens. Every device computes its own rows and heads.

    q [B, S, N, H], k and v [B, S, K, H] -> [B, S, N, H]; `name` is xla, cudnn or splash. Without `segments` a row is
    one right-padded sequence, and the causal mask alone hides padding from real tokens. segments [B, S]: tokens with
    different numbers do not see each other. Every token sees at least itself, also in padding. `recompute`: the
    backward pass recomputes the scores from q, k and v. cudnn and splash always do, since they store no scores.
    """
    on_cpu = (jax.default_backend() if mesh is None else mesh.devices.flat[0].platform) == "cpu"
    kernels = {
        "xla": xla_again if recompute else xla,
        "cudnn": cudnn,
        "splash": functools.partial(splash, interpret=on_cpu),
    }
    kernel = kernels[name]
    if mesh is None or mesh.size == 1:
        return kernel(q, k, v, segments)
    spec = P(ROWS, None, "tensor")
    return jax.shard_map(kernel, mesh=mesh, in_specs=(*(spec,) * 3, P(ROWS)), out_specs=spec, check_vma=False)(
        q, k, v, segments
    )


@jax.custom_vjp
def masked_softmax(scores: jax.Array, visible: jax.Array) -> jax.Array:
    """Softmax over the last axis of the scores where `visible`. Each row must have a visible score.

    The backward pass stores its result p only: d scores = p (d p - sum of p d p), which is 0 where p is 0.
    """
    return jax.nn.softmax(jnp.where(visible, scores, MASKED), -1)


def _softmax_forward(scores: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
    p = masked_softmax(scores, visible)
    return p, p


def _softmax_backward(p: jax.Array, by_p: jax.Array) -> tuple[jax.Array, None]:
    return p * (by_p - jnp.sum(p * by_p, -1, keepdims=True)), None


masked_softmax.defvjp(_softmax_forward, _softmax_backward)


def xla(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """Attention in plain XLA with all scores in memory, for CPUs and short sequences.

    The G = N/K query heads of a key head are stacked along S. Each key head is then one batched matrix product, which
    XLA's CPU backend runs 1.15 times as fast as the five-dimensional contraction.
    """
    B, S, N, H = q.shape
    K = k.shape[2]
    G = N // K
    q = q.reshape(B, S, K, G, H).transpose(0, 2, 3, 1, 4).reshape(B * K, G * S, H) * H**-0.5
    k = k.transpose(0, 2, 3, 1).reshape(B * K, H, S)
    v = v.transpose(0, 2, 1, 3).reshape(B * K, S, H)
    scores = jnp.einsum("bsh,bht->bst", q, k, preferred_element_type=jnp.float32)
    visible = jnp.tile(jnp.tril(jnp.ones((S, S), bool)), (G, 1))  # [G * S, S]
    if segments is not None:
        visible &= jnp.repeat(jnp.tile(_together(segments), (1, G, 1)), K, 0)  # [B * K, G * S, S]
    weights = masked_softmax(scores, visible).astype(v.dtype)
    out = jnp.einsum("bst,bth->bsh", weights, v)
    return out.reshape(B, K, G, S, H).transpose(0, 3, 1, 2, 4).reshape(B, S, N, H)


xla_again = gradients.recomputed(xla)


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """cuDNN's flash attention, in 16 bits only. Lengths are padded to multiples of 128, since it refuses odd ones."""
    S = q.shape[1]
    more = (0, -S % LANES)
    q, k, v = (jnp.pad(x, ((0, 0), more, (0, 0), (0, 0))) for x in (q, k, v))
    mask = None
    if segments is not None:
        mask = _together(jnp.pad(segments, ((0, 0), more)))[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, implementation="cudnn")[:, :S]


def splash(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None = None, interpret: bool = False
) -> jax.Array:
    """JAX's splash attention for TPUs; `interpret` runs the kernel's code on a CPU.

    Lengths and head dims are padded to multiples of 128. Padded keys come last, so the causal mask hides them.
    """
    # These imports take half a second, and only TPUs need them.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    _, S, N, H = q.shape
    length = S + -S % LANES
    q, k, v = (
        jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, length - S), (0, -H % LANES))) for x in (q * H**-0.5, k, v)
    )
    block = next(size for size in (512, 256, LANES) if length % size == 0)
    sizes = kernels.BlockSizes(
        block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, block_q_dq=block, block_kv_dq=block
    )
    mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * N)
    kernel = kernels.make_splash_mha(mask, head_shards=1, q_seq_shards=1, block_sizes=sizes, interpret=interpret)
    if segments is not None:
        segments = kernels.SegmentIds(*(jnp.pad(segments, ((0, 0), (0, length - S))),) * 2)
    return jax.vmap(kernel)(q, k, v, segments).swapaxes(1, 2)[:, :S, :, :H]


def _together(segments: jax.Array) -> jax.Array:
    """segments [B, S] -> [B, S, S] bool: whether two tokens of a row belong to the same sequence."""
    return segments[:, :, None] == segments[:, None]


def decode_step(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    prompt_kv: Sequence[jax.Array],
    prompt_lengths: jax.Array,
    response_kv: Sequence[jax.Array],
    step: jax.Array,
) -> jax.Array:
    """Attention of one new token per sample to its prompt, its earlier response tokens and itself.

    q [P, n, N, H], k and v [P, n, K, H]: of the new token. prompt_kv: keys and values [P, K, Sp, H], shared by the n
    samples of a prompt. prompt_lengths [P]. response_kv: keys and values [P, n, K, T, H], filled for the first `step`
    tokens. Returns [P, n, N, H].
    """
    P, n, N, H = q.shape
    K = k.shape[2]
    prompt_k, prompt_v = prompt_kv
    response_k, response_v = response_kv
    q = q.reshape(P, n, K, N // K, H) * H**-0.5
    f32 = jnp.float32
    to_prompt = jnp.einsum("pnkgh,pksh->pnkgs", q, prompt_k, preferred_element_type=f32)
    to_response = jnp.einsum("pnkgh,pnkth->pnkgt", q, response_k, preferred_element_type=f32)
    to_self = jnp.einsum("pnkgh,pnkh->pnkg", q, k, preferred_element_type=f32)[..., None]
    Sp, T = to_prompt.shape[-1], to_response.shape[-1]
    real = jnp.arange(Sp) < prompt_lengths[:, None]  # [P, Sp]
    to_prompt = jnp.where(real[:, None, None, None], to_prompt, MASKED)
    to_response = jnp.where(jnp.arange(T) < step, to_response, MASKED)
    weights = jax.nn.softmax(jnp.concatenate([to_prompt, to_response, to_self], -1), -1).astype(q.dtype)
    out = jnp.einsum("pnkgs,pksh->pnkgh", weights[..., :Sp], prompt_v)
    out += jnp.einsum("pnkgt,pnkth->pnkgh", weights[..., Sp : Sp + T], response_v)
    out += weights[..., -1:] * v[:, :, :, None]
    return out.reshape(P, n, N, H)
