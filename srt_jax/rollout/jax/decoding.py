"""The decoder for sampling: copies and gathers the weights once per call, runs the prefill, decodes token by token."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from srt_jax.model import sharding
from srt_jax.model.config import inverse_frequencies
from srt_jax.model.decoder import Decoder, Layer
from srt_jax.model.paths import map_with_path


@flax.struct.dataclass
class Fixed:
    """The constants of a call: gathered weights in the compute dtype, and the keys and values of the prompts.

    graphs: what merges the weights to a model again: with static batching the graph definition, with continuous
    batching (the graph definitions of `split_layers`, the mesh).
    """

    weights: Any
    prompt_kv: tuple[jax.Array, jax.Array]
    graphs: Any = flax.struct.field(pytree_node=False)


def compute_copy(params: nnx.State, graphdef: nnx.GraphDef, mesh: Mesh) -> nnx.State:
    """The weights in the compute dtype with unchanged shardings. Norm scales stay float32, as in the trainer.

    Each call makes its own copy and frees it, so that the update can use the memory. The copy takes milliseconds, and a
    call takes seconds.
    """
    dtype = nnx.merge(graphdef, params).dtype

    def copy(path: str, x: jax.Array) -> jax.Array:
        # Without this constraint the compiler would gather the float32 weights before it casts them.
        return jax.lax.with_sharding_constraint(
            x if path.endswith("scale") else x.astype(dtype), sharding.parameter_sharding(mesh, path, x.shape)
        )

    return map_with_path(copy, params)


def gathered(params: nnx.State, mesh: Mesh, prefix: str = "", layer: int | None = None) -> nnx.State:
    """The weights, split over `tensor` only. layer: the index of a layer if `params` is a stack of layers.

    If the weights stayed split over fsdp, every token would move them over the network.
    """

    def gather(path: str, x: jax.Array) -> jax.Array:
        where = _gathered_sharding(mesh, prefix + path, x.shape, stacked=layer is not None)
        return jax.lax.with_sharding_constraint(x if layer is None else x[layer], where)

    return map_with_path(gather, params)


def gathered_shardings(weights: nnx.State, mesh: Mesh, prefix: str = "", num_layers: int | None = None) -> nnx.State:
    """The shardings of `gathered`. num_layers: the layers of the stack, if the weights are those of one layer."""

    def where(path: str, x: jax.Array) -> NamedSharding:
        shape = x.shape if num_layers is None else (num_layers, *x.shape)
        return _gathered_sharding(mesh, prefix + path, shape, stacked=num_layers is not None)

    return map_with_path(where, weights)


def _gathered_sharding(mesh: Mesh, path: str, shape: tuple[int, ...], stacked: bool) -> NamedSharding:
    """shape: the shape of the whole stack, if the weights are those of one layer."""
    spec = sharding.parameter_sharding(mesh, path, shape).spec
    return NamedSharding(
        mesh, PartitionSpec(*(axis if axis == "tensor" else None for axis in spec[1 if stacked else 0 :]))
    )


def off_mesh(graphdef: nnx.GraphDef, params: nnx.State) -> Decoder:
    """The decoder without sharding constraints on activations. Decoding one token at a time does not need them.

    Its results have the sharding of its inputs: rows over (data, fsdp) and heads over tensor.
    """
    model = nnx.merge(graphdef, params)
    model.mesh = model.layers.mesh = None
    return model


def prefill(graphdef: nnx.GraphDef, params: nnx.State, tokens: jax.Array) -> tuple:
    """tokens [P, S] -> hidden states [P, S, D], and keys and values, a pair [L, P, S, K, H]."""
    model = nnx.merge(graphdef, params)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return model.run_layers(tokens, positions, lambda q, k, v, _: (model.attend(q, k, v), (k, v)))


def split_layers(graphdef: nnx.GraphDef, params: nnx.State, mesh: Mesh) -> tuple:
    """Splits the decoder into its layers and the rest, with gathered weights.

    Returns ((graph of the rest, graph of a layer), (weights of the rest, [weights of each layer])).
    """
    model = off_mesh(graphdef, params)
    layer, stacked = nnx.split(model.layers)
    model.layers = None
    rest, others = nnx.split(model)
    layers = [gathered(stacked, mesh, "layers.", i) for i in range(model.config.num_layers)]
    return (rest, layer), (gathered(others, mesh), layers)


def next_logits(
    model: Decoder,
    layers: Sequence[Layer],
    tokens: jax.Array,
    positions: jax.Array,
    attend: Callable,
    caches: Sequence,
) -> tuple:
    """tokens [W] at positions [W] -> (logits [W, V] of the next tokens, the second result of `attend` for each layer).

    attend(q, k, v, cache) returns (attention output, any value to keep). The layers run one by one, each with its own
    arrays. In a loop over stacked arrays, an accelerator would copy every weight and every cache before it uses them,
    which triples the memory traffic.
    """
    x, kept = model.embed(tokens), []
    frequencies = jnp.asarray(inverse_frequencies(model.config), jnp.float32)
    for layer, cache in zip(layers, caches, strict=True):
        q, k, v = layer.queries_keys_values(x, positions, frequencies)
        attended, new = attend(q, k, v, cache)
        x = layer.finish(x, attended)
        kept.append(new)
    return model.logits(model.norm(x)), kept
