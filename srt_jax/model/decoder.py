"""One decoder for Qwen2/2.5, Qwen3 and Llama 3, built from a Hugging Face config.

Letters of shapes: B sequences, S tokens, D model, F ffn, N heads, K kv heads, H head dim, V vocab, L layers.
The layers' parameters are stacked on a leading L and run by one `lax.scan`, so compile time does not grow with depth.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from srt_jax.model import attention, gradients, lora, sharding
from srt_jax.model.config import ModelConfig, inverse_frequencies

UNROLL_BELOW = 10_000_000  # parameters


def activations(primitive: jax.extend.core.Primitive, *operands: jax.core.ShapedArray, **_: object) -> bool:
    """Remat policy that keeps every result computed from an activation [B, S, ...].

    It does not keep weights that were gathered over fsdp and cast: over all layers they are a second copy of the model.
    """
    return any(x.ndim > 2 for x in operands)


# The results of a layer's forward pass that its backward pass reuses, by model.remat.
KEPT = {
    "none": activations,
    "attention": activations,  # Decoder.attend recomputes attention itself
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


# (q, k, v, the layer's slice of a cache) -> (attended [..., S, N, H], a value to keep for the layer)
Attend = Callable[[jax.Array, jax.Array, jax.Array, Any], tuple]


class Linear(nnx.Module):
    """y = x @ kernel + bias, kernel [in, out], computed in x's dtype. `lora.attach` adds adapters."""

    lora_a = lora_b = lora_scale = None

    def __init__(self, in_features: int, out_features: int, bias: bool, stddev: float, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(stddev * jax.random.normal(rngs.params(), (in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = gradients.product(x, self.kernel[...].astype(x.dtype))
        y = y if self.bias is None else y + self.bias[...].astype(x.dtype)
        return y if self.lora_a is None else y + lora.apply(x, self.lora_a[...], self.lora_b[...], self.lora_scale)


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis."""

    def __init__(self, features: int, eps: float) -> None:
        self.scale = nnx.Param(jnp.ones(features))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        return gradients.rms_norm(x, self.scale[...], self.eps)


def rotate(x: jax.Array, positions: jax.Array, frequencies: jax.Array) -> jax.Array:
    """Rotary embedding. x [..., S, heads, H]; positions [..., S]; frequencies [H/2]. Angles in float32."""
    angle = positions[..., None].astype(jnp.float32) * frequencies  # [..., S, H/2]
    cos, sin = jnp.cos(angle)[..., None, :], jnp.sin(angle)[..., None, :]
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def positions_within(segments: jax.Array) -> jax.Array:
    """Positions from 0 in each run of equal numbers: segments [B, S] -> [B, S]."""
    index = jnp.arange(segments.shape[1])
    first = segments != jnp.roll(segments, 1, 1)
    return index - jax.lax.cummax(jnp.where(first, index, 0), axis=1)


class Layer(nnx.Module):
    """Pre-norm attention and gated feed-forward. Training and decoding share its two methods."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, mesh: Mesh | None = None) -> None:
        c, std = config, config.initializer_range
        heads, kv_heads = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        self.attention_norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.q = Linear(c.hidden_size, heads, c.qkv_bias, std, rngs)
        self.k = Linear(c.hidden_size, kv_heads, c.qkv_bias, std, rngs)
        self.v = Linear(c.hidden_size, kv_heads, c.qkv_bias, std, rngs)
        self.o = Linear(heads, c.hidden_size, c.output_bias, std, rngs)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm else None
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm else None
        self.mlp_norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.gate = Linear(c.hidden_size, c.intermediate_size, c.mlp_bias, std, rngs)
        self.up = Linear(c.hidden_size, c.intermediate_size, c.mlp_bias, std, rngs)
        self.down = Linear(c.intermediate_size, c.hidden_size, c.mlp_bias, std, rngs)
        self.config, self.mesh = config, mesh

    def queries_keys_values(self, x: jax.Array, positions: jax.Array, frequencies: jax.Array) -> tuple[jax.Array, ...]:
        """x [..., S, D] -> q [..., S, N, H], k and v [..., S, K, H], rotated to their positions [..., S]."""
        c = self.config
        h = self.attention_norm(x)
        q = self.q(h).reshape(*x.shape[:-1], c.num_heads, c.head_dim)
        k = self.k(h).reshape(*x.shape[:-1], c.num_kv_heads, c.head_dim)
        v = self.v(h).reshape(*x.shape[:-1], c.num_kv_heads, c.head_dim)
        if c.qk_norm:  # before the rotation
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, positions, frequencies), rotate(k, positions, frequencies)
        return tuple(sharding.by_row(x, self.mesh, "tensor", None) for x in (q, k, v))

    def finish(self, x: jax.Array, attended: jax.Array) -> jax.Array:
        """Adds the attention output [..., S, N, H] and the feed-forward block to the residual stream x [..., S, D]."""
        x = sharding.by_row(x + self.o(attended.reshape(*x.shape[:-1], -1)), self.mesh)
        h = self.mlp_norm(x)
        h = sharding.by_row(gradients.swiglu(self.gate(h), self.up(h)), self.mesh, "tensor")
        return sharding.by_row(x + self.down(h), self.mesh)


class Decoder(nnx.Module):
    """The model. Parameters are float32 (the master copy). It computes in `dtype`, on all devices of `mesh` if given.

    remat: none | dots | attention | full. kernel: xla | cudnn | splash, from attention.choose.
    """

    def __init__(
        self,
        config: ModelConfig,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        kernel: str = "xla",
        mesh: Mesh | None = None,
    ) -> None:
        std = config.initializer_range
        self.embedding = nnx.Param(std * jax.random.normal(rngs.params(), (config.vocab_size, config.hidden_size)))
        keys = jax.random.split(rngs.params(), config.num_layers)
        self.layers = nnx.vmap(lambda key: Layer(config, nnx.Rngs(params=key), mesh))(keys)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = (
            None
            if config.tie_word_embeddings
            else nnx.Param(std * jax.random.normal(rngs.params(), (config.vocab_size, config.hidden_size)))
        )
        self.config, self.dtype, self.remat, self.kernel, self.mesh = config, jnp.dtype(dtype), remat, kernel, mesh

    def head_weights(self) -> jax.Array:
        """The head [V, D] in float32: the embedding if the two are tied."""
        return (self.embedding if self.head is None else self.head)[...]

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Token ids [..., S] -> embeddings [..., S, D] in the compute dtype, each row on its device.

        Every device looks up its part of the features for all rows of its fsdp group. An all-to-all then moves the
        features to the rows' devices. The table is much larger than the activations, so neither it nor its gradient
        is moved.
        """
        tokens = sharding.constrain(tokens, self.mesh, P("data", *(None,) * (tokens.ndim - 1)))
        table = sharding.constrain(self.embedding[...], self.mesh, sharding.rule("embedding"))
        x = table[tokens].astype(self.dtype)
        x = sharding.constrain(x, self.mesh, P("data", *(None,) * (tokens.ndim - 1), "fsdp"))
        return sharding.by_row(x, self.mesh)

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None = None) -> jax.Array:
        """Causal attention by the chosen kernel: q [B, S, N, H], k and v [B, S, K, H] -> [B, S, N, H]."""
        return attention.causal(q, k, v, segments, self.kernel, self.mesh, recompute=self.remat == "attention")

    def keeps_everything(self) -> bool:
        """Tells whether the backward pass recomputes nothing, not even the cast or the gather of weights."""
        used_as_stored = self.dtype == jnp.float32 and (self.mesh is None or self.mesh.shape["fsdp"] == 1)
        return KEPT[self.remat] is activations and used_as_stored

    def run_layers(self, tokens: jax.Array, positions: jax.Array, attend: Attend, caches: object = None) -> tuple:
        """Embeds tokens [..., S] and runs all layers.

        `attend(q, k, v, cache)` returns (attended, kept). `cache` is one layer's slice of `caches` (a pytree with a
        leading L). Returns (hidden [..., S, D] after the last norm, `kept` stacked over layers).
        """
        x = self.embed(tokens)
        frequencies = jnp.asarray(inverse_frequencies(self.config), jnp.float32)
        graphdef, stacked = nnx.split(self.layers)

        def body(x: jax.Array, inputs: tuple) -> tuple:
            params, cache = inputs
            layer = nnx.merge(graphdef, sharding.gather_layer(params, self.mesh, self.dtype))
            q, k, v = layer.queries_keys_values(x, positions, frequencies)
            attended, kept = attend(q, k, v, cache)
            return layer.finish(x, attended), kept

        # Tiny models train with unrolled layers, because a scan copies the activations it stacks, a fifth of their step
        # time. Decoding stores no activations, and its scan is faster than unrolled layers.
        unroll = self.config.num_layers if caches is None and self.config.num_params < UNROLL_BELOW else 1
        if not self.keeps_everything():
            # In a loop the compiler cannot merge recomputed values with the first ones, so it needs no CSE barriers.
            body = jax.checkpoint(body, policy=KEPT[self.remat], prevent_cse=False)
        x, kept = jax.lax.scan(body, x, (stacked, caches), unroll=unroll)
        return self.norm(x), kept

    def __call__(self, tokens: jax.Array, segments: jax.Array | None = None) -> jax.Array:
        """tokens [B, S] -> hidden states [B, S, D]. The product with head_weights() gives logits.

        A row is one right-padded sequence. With segments [B, S] a row has several sequences: neighbours with equal
        numbers are one sequence, whose positions begin at 0 and whose tokens attend only to each other.
        """
        if segments is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        else:
            positions = positions_within(segments)
        hidden, _ = self.run_layers(tokens, positions, lambda q, k, v, _: (self.attend(q, k, v, segments), None))
        return hidden

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Hidden states [..., D] -> logits [..., V] in float32, for few positions. Training uses model/logprobs.py."""
        return jnp.einsum(
            "...d,vd->...v", hidden, self.head_weights().astype(hidden.dtype), preferred_element_type=jnp.float32
        )


def abstract(
    config: ModelConfig,
    dtype: DTypeLike = jnp.float32,
    remat: str = "none",
    kernel: str = "xla",
    mesh: Mesh | None = None,
) -> tuple[nnx.GraphDef, nnx.State]:
    """(graphdef, shapes of the parameters) of a decoder. Allocates nothing."""
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0), dtype, remat, kernel, mesh)))


def create(
    config: ModelConfig, seed: int, mesh: Mesh, dtype: DTypeLike = jnp.float32, remat: str = "none", kernel: str = "xla"
) -> tuple[nnx.GraphDef, nnx.State]:
    """(graphdef, random parameters). Every device draws its own part of each parameter."""
    graphdef, shapes = abstract(config, dtype, remat, kernel, mesh)
    draw = jax.jit(
        lambda: nnx.split(Decoder(config, nnx.Rngs(seed), dtype, remat, kernel, mesh))[1],
        out_shardings=sharding.parameter_shardings(mesh, shapes),
    )
    return graphdef, draw()
