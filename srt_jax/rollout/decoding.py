"""The decoder as sampling uses it: weights copied and gathered once per call, a prefill, one token at a time."""
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from srt_jax.model import sharding
from srt_jax.model.config import inverse_frequencies
from srt_jax.model.paths import map_with_path


def compute_copy(params, graphdef, mesh: Mesh):
    """The weights in the compute dtype, where they are stored; norm scales stay float32, as the trainer uses them.

    Made once per call and dropped with it, so that the update has its memory: it takes milliseconds where a call takes
    seconds.
    """
    dtype = nnx.merge(graphdef, params).dtype

    def copy(path, x):
        # Placed: else the compiler would gather float32 and cast then.
        return jax.lax.with_sharding_constraint(
            x if path.endswith("scale") else x.astype(dtype), sharding.parameter_sharding(mesh, path, x.shape))

    return map_with_path(copy, params)


def gathered(params, mesh: Mesh, prefix: str = "", layer: int | None = None):
    """Weights (of one layer of a stack) that are split over `tensor` only.

    Weights that stayed split over fsdp would cross the network for every token.
    """
    def gather(path, x):
        spec = sharding.parameter_sharding(mesh, prefix + path, x.shape).spec
        spec = PartitionSpec(*(axis if axis == "tensor" else None for axis in spec[0 if layer is None else 1:]))
        return jax.lax.with_sharding_constraint(x if layer is None else x[layer], NamedSharding(mesh, spec))

    return map_with_path(gather, params)


def off_mesh(graphdef, params):
    """The decoder without its own placement of activations: one token of a sequence needs none.

    What it computes lies where its inputs lie, rows over (data, fsdp) and heads over tensor.
    """
    model = nnx.merge(graphdef, params)
    model.mesh = model.layers.mesh = None
    return model


def prefill(graphdef, params, tokens):
    """tokens [P, S] -> hidden states [P, S, D], and keys and values, a pair [L, P, S, K, H]."""
    model = nnx.merge(graphdef, params)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return model.run_layers(tokens, positions, lambda q, k, v, _: (model.attend(q, k, v), (k, v)))


def split_layers(graphdef, params, mesh: Mesh):
    """((graph, weights) of the decoder without its layers, (graph of a layer, weights of each)), all gathered."""
    model = off_mesh(graphdef, params)
    layer, stacked = nnx.split(model.layers)
    model.layers = None
    rest, others = nnx.split(model)
    layers = [gathered(stacked, mesh, "layers.", i) for i in range(model.config.num_layers)]
    return (rest, gathered(others, mesh)), (layer, layers)


def next_logits(model, layers, tokens, positions, attend, caches):
    """tokens [W] at positions [W] -> logits [W, V] of the next, and what `attend(q, k, v, cache)` keeps of each layer.

    The layers run one by one, each with arrays of its own: in a loop over stacked ones an accelerator would copy every
    weight and every cache before it uses it, three times the memory traffic.
    """
    x, kept = model.embed(tokens), []
    frequencies = jnp.asarray(inverse_frequencies(model.config), jnp.float32)
    for layer, cache in zip(layers, caches, strict=True):
        q, k, v = layer.queries_keys_values(x, positions, frequencies)
        attended, new = attend(q, k, v, cache)
        x = layer.finish(x, attended)
        kept.append(new)
    return model.logits(model.norm(x)), kept
