"""Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685): y = x W + scale * (x A) B, with a frozen W.

The adapters are a parameter tree of their own: `layers.q.lora_a` [L, in, r] and `layers.q.lora_b` [L, r, out], both
float32. Training changes only this tree. The frozen parameters, the base, are stored in the compute dtype. `join` makes
the policy of both trees, and `base_graphdef` gives the decoder without adapters, which is the reference model. Neither
copies an array. A starts random and B starts at zero, so the first policy equals the base.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from srt_jax.errors import ModelError
from srt_jax.model import sharding
from srt_jax.model.config import ModelConfig
from srt_jax.model.paths import flat_paths, map_with_path

# PEFT's name of a linear layer -> its name in the decoder.
TARGETS = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "o",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
}
A, B = "lora_a", "lora_b"


@dataclasses.dataclass(frozen=True)
class LoRA:
    """The shape of the adapters. targets: keys of TARGETS. rslora: divides by sqrt(rank) (arXiv 2312.03732)."""

    rank: int
    alpha: float
    rslora: bool = False
    targets: tuple[str, ...] = tuple(TARGETS)

    @classmethod
    def of(cls, config: Any) -> "LoRA | None":
        """The adapters of a config's section `model.lora`; None if its rank is 0."""
        if not config.rank:
            return None
        return cls(config.rank, float(config.alpha), config.rslora, tuple(t for t in TARGETS if t in config.targets))

    @property
    def scale(self) -> float:
        """The factor of the product A B."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def matrix_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear layer of TARGETS."""
    D, F = config.hidden_size, config.intermediate_size
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes = (D, heads), (D, kv), (D, kv), (heads, D), (D, F), (D, F), (F, D)
    return dict(zip(TARGETS, shapes, strict=True))


def num_params(settings: LoRA, config: ModelConfig, fsdp: int = 1, tensor: int = 1) -> float:
    """Number of trained parameters on one device. fsdp, tensor: sizes of the mesh axes, if they divide the matrices."""
    total = 0.0
    for name in settings.targets:
        inputs, outputs = matrix_shapes(config)[name]
        by_input, by_output = (tensor, fsdp) if name in ("o_proj", "down_proj") else (fsdp, tensor)
        total += inputs / by_input + outputs / by_output
    return config.num_layers * settings.rank * total


def check(settings: LoRA, config: ModelConfig) -> None:
    """Raises ModelError if the rank exceeds a dimension of an adapted matrix."""
    shapes = matrix_shapes(config)
    for name in settings.targets:
        if settings.rank > min(shapes[name]):
            inputs, outputs = shapes[name]
            raise ModelError(
                f"model.lora.rank is {settings.rank}, but {name} of this model has {inputs} x {outputs} weights: "
                f"choose a rank of at most {min(shapes[name])}, or leave {name} out of model.lora.targets."
            )


# ---- trees


def attach(graphdef: nnx.GraphDef, shapes: nnx.State, settings: LoRA) -> tuple[nnx.GraphDef, nnx.State]:
    """(graph definition of the decoder with adapters, shapes of the adapters), from those of the base."""
    model = nnx.merge(graphdef, shapes)
    for name in settings.targets:
        linear = getattr(model.layers, TARGETS[name])
        layers, (inputs, outputs) = model.config.num_layers, matrix_shapes(model.config)[name]
        linear.lora_a = nnx.LoRAParam(jax.ShapeDtypeStruct((layers, inputs, settings.rank), jnp.float32))
        linear.lora_b = nnx.LoRAParam(jax.ShapeDtypeStruct((layers, settings.rank, outputs), jnp.float32))
        linear.lora_scale = settings.scale
    return nnx.split(model, nnx.LoRAParam, ...)[:2]


def split(params: nnx.State) -> tuple[nnx.State, nnx.State | None]:
    """(trained, frozen) parameters of a policy: (adapters, base), or (all parameters, None) without adapters."""
    adapters, base = nnx.split_state(params, nnx.LoRAParam, ...)
    return (adapters, base) if jax.tree.leaves(adapters) else (params, None)


def join(trained: nnx.State, frozen: nnx.State | None) -> nnx.State:
    """The policy's parameters. trained: adapters of the base `frozen`, or all parameters; then `frozen` is not used."""
    return nnx.merge_state(trained, frozen) if has_adapters(trained) else trained


def has_adapters(params: nnx.State) -> bool:
    """Tells whether any parameter belongs to an adapter."""
    return bool(jax.tree.leaves(nnx.filter_state(params, nnx.LoRAParam)))


def base_graphdef(graphdef: nnx.GraphDef, params: nnx.State) -> nnx.GraphDef:
    """The graph definition without adapters. params: the policy's parameters, arrays or not."""
    if not has_adapters(params):
        return graphdef
    model = nnx.merge(graphdef, params)
    for linear in (getattr(model.layers, name) for name in TARGETS.values()):
        if linear.lora_a is not None:
            del linear.lora_a, linear.lora_b, linear.lora_scale
    return nnx.split(model)[0]


def init_adapters(shapes: nnx.State, seed: int, mesh: Mesh) -> nnx.State:
    """New adapters on the mesh. A is uniform in +-1 / sqrt(inputs), PEFT's default, and B is 0.

    shapes: the second result of `attach`. The numbers depend on the seed, but not on the mesh.
    """
    order = [f"layers.{name}.{A}" for name in TARGETS.values()]

    def one(path: str, x: jax.ShapeDtypeStruct) -> jax.Array:
        if path.endswith(B):
            return jnp.zeros(x.shape, x.dtype)
        key = jax.random.fold_in(jax.random.key(seed), order.index(path))
        bound = 1 / math.sqrt(x.shape[1])
        return jax.random.uniform(key, x.shape, x.dtype, -bound, bound)

    where = sharding.parameter_shardings(mesh, shapes)
    return jax.jit(lambda: map_with_path(one, shapes), out_shardings=where)()


# ---- arithmetic


def apply(x: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """The output of one matrix's adapters, scale * (x A) B: x [..., in] -> [..., out], computed in the dtype of x."""
    return scale * ((x @ a.astype(x.dtype)) @ b.astype(x.dtype))


def merged(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """W + scale * A B in float32: kernel [..., in, out], a [..., in, r], b [..., r, out].

    The result is not rounded to bfloat16, because that would lose most of a small update.
    """
    product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return kernel.astype(jnp.float32) + scale * product


def merge(params: nnx.State, scale: float) -> nnx.State:
    """The parameters of an ordinary decoder that computes the same: adapted matrices merged, in float32.

    params: a policy's parameters, whose base is not changed.
    """
    adapters, base = split(params)
    if base is None:
        return params
    pairs = dict(flat_paths(adapters))

    def one(path: str, x: jax.Array) -> jax.Array:
        linear = path.removesuffix("kernel")
        return _merged(x, pairs[linear + A], pairs[linear + B], scale) if linear + A in pairs else x

    return map_with_path(one, base)


_merged = functools.partial(jax.jit, static_argnames="scale")(merged)
