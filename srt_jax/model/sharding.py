"""The device mesh, and the placement of arrays on it: one ordered table for parameters, one rule for activations.

Sequences are split over data x fsdp. Heads, ffn and vocabulary are split over tensor. Parameters are also split over
fsdp, and each layer is gathered right before its use.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike, DTypeLike

from srt_jax.errors import ModelError
from srt_jax.model.config import ModelConfig
from srt_jax.model.paths import flat_paths, map_with_path

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the axes that split the sequences of a batch

# Stacked layer parameters carry a leading L that is never split.
RULES = (
    (r"embedding|head", P("tensor", "fsdp")),
    (r"layers\.(q|k|v|gate|up)\.kernel", P(None, "fsdp", "tensor")),
    (r"layers\.(o|down)\.kernel", P(None, "tensor", "fsdp")),
    (r"layers\.(q|k|v|gate|up)\.bias", P(None, "tensor")),
    # Adapters: A [L, in, r] and B [L, r, out] are split like the matrix [L, in, out], except for the rank.
    (r"layers\.(q|k|v|gate|up)\.lora_a", P(None, "fsdp", None)),
    (r"layers\.(q|k|v|gate|up)\.lora_b", P(None, None, "tensor")),
    (r"layers\.(o|down)\.lora_a", P(None, "tensor", None)),
    (r"layers\.(o|down)\.lora_b", P(None, None, "fsdp")),
    (r".*", P()),
)

Tree = TypeVar("Tree")  # a pytree of arrays


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp, tensor) mesh over all devices of all processes; data=-1 uses the devices that the others leave.

    `devices` may belong to a topology that does not exist here. On TPUs neighbours in the mesh are neighbours on the
    chips' network. Elsewhere devices keep their order, process by process, so that `tensor` stays inside a machine.
    """
    devices = jax.devices() if devices is None else devices
    data = len(devices) // (fsdp * tensor) if data == -1 else data
    # jax.make_mesh refuses meshes in which two axes share a dimension of the torus.
    arranged = mesh_utils.create_device_mesh((data, fsdp, tensor), devices, allow_split_physical_axes=True)
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * 3)


def check_mesh(config: ModelConfig, tensor: int) -> None:
    """Raises ModelError unless the mesh's tensor axis divides the model's heads."""
    if config.num_kv_heads % tensor:
        raise ModelError(
            f"mesh.tensor is {tensor}, which does not divide the {config.num_kv_heads} key/value heads of "
            f"this model: choose a divisor of {config.num_kv_heads}, and split the rest with mesh.fsdp."
        )


def num_row_shards(mesh: Mesh) -> int:
    """Number of parts into which the mesh splits the sequences of a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


# ---- parameters


def rule(path: str) -> P:
    """The table's entry for a parameter."""
    return next(spec for pattern, spec in RULES if re.fullmatch(pattern, path))


def fit(mesh: Mesh, spec: P | tuple, shape: tuple[int, ...]) -> P:
    """The spec without the axes that do not divide their dimension. Such a dimension stays whole."""

    def divides(axes: str | tuple[str, ...] | None, size: int) -> bool:
        names = axes if isinstance(axes, tuple) else (axes,)
        return size % math.prod(mesh.shape[a] for a in names) == 0

    return P(*(axes if axes and divides(axes, size) else None for axes, size in zip(spec, shape)))


def parameter_sharding(mesh: Mesh, path: str, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of one parameter."""
    return NamedSharding(mesh, fit(mesh, rule(path), shape))


def parameter_shardings(mesh: Mesh, shapes: nnx.State) -> nnx.State:
    """The tree of the parameters' shardings."""
    return map_with_path(lambda path, x: parameter_sharding(mesh, path, x.shape), shapes)


def gather_layer(params: nnx.State, mesh: Mesh | None, dtype: DTypeLike) -> nnx.State:
    """One layer's parameters for the computation: matrices and biases cast to `dtype` and gathered over fsdp.

    The cast comes first, so that the gather moves fewer bytes. Norm scales are unchanged. Gradients are split over fsdp
    again at once, because XLA would otherwise stack whole gradients over the layers.
    """

    def gather(path: str, x: jax.Array) -> jax.Array:
        if path.endswith("scale"):
            return x
        x = x.astype(dtype)
        if mesh is None or mesh.size == 1:
            return x
        split = fit(mesh, rule(f"layers.{path}")[1:], x.shape)
        gathered = P(*(None if axis == "fsdp" else axis for axis in split))
        return _gather(x, NamedSharding(mesh, gathered), NamedSharding(mesh, split))

    return map_with_path(gather, params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x: jax.Array, gathered: NamedSharding, split: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, gathered)


_gather.defvjp(
    lambda x, gathered, split: (jax.lax.with_sharding_constraint(x, gathered), None),
    lambda gathered, split, _, gradient: (jax.lax.with_sharding_constraint(gradient, split),),
)


def describe(mesh: Mesh, shapes: nnx.State) -> str:
    """The text that a run prints at start: each rule with its parameters and their bytes per device.

    `shapes`: parameters, abstract or not. The text names each dimension that stays whole because its axis does not
    divide it.
    """
    lines = [f"mesh: {' x '.join(f'{axis}={size}' for axis, size in mesh.shape.items())}"]
    named = list(flat_paths(shapes))
    for pattern, spec in RULES:
        found = [(path, x) for path, x in named if next(p for p, _ in RULES if re.fullmatch(p, path)) == pattern]
        count = sum(math.prod(x.shape) for _, x in found)
        size = sum(
            math.prod(parameter_sharding(mesh, path, x.shape).shard_shape(x.shape)) * x.dtype.itemsize
            for path, x in found
        )
        whole = [
            f"{path} dimension {d} of {n} stays whole: {axis}={mesh.shape[axis]} does not divide it"
            for path, x in found
            for d, (axis, n) in enumerate(zip(spec, x.shape))
            if axis and n % mesh.shape[axis]
        ]
        if found:
            axes = ", ".join(axis or "-" for axis in spec) or "whole"
            lines += [
                f"  {pattern:<36} ({axes}): {count:,} parameters, {size / 2**20:,.1f} MiB per device",
                *(f"    {line}" for line in whole),
            ]
    return "\n".join(lines)


# ---- activations


def constrain(x: jax.Array, mesh: Mesh | None, spec: P) -> jax.Array:
    """Constrains the sharding of an array inside a jitted function. Without a mesh it does nothing."""
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, fit(mesh, spec, x.shape)))


def by_row(x: jax.Array, mesh: Mesh | None, *last: str | tuple[str, ...] | None) -> jax.Array:
    """Splits an activation: the leading dimension over data x fsdp, the last ones over the axes `last`."""
    return constrain(x, mesh, P(ROWS, *(None,) * (x.ndim - 1 - len(last)), *last))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def by_rows(mesh: Mesh) -> NamedSharding:
    """The leading dimension split over data x fsdp."""
    return NamedSharding(mesh, P(ROWS))


def place(tree: Tree, sharding: object) -> Tree:
    """Turns host arrays, which are whole in every process, into global arrays.

    Each process copies only the slices of its own devices. `sharding` is one sharding for all leaves, or a tree.
    """

    def one(x: ArrayLike, sharding: jax.sharding.Sharding) -> jax.Array:
        host = np.asarray(x)
        # This transfer is meant, but JAX counts it as implicit, and the training loop disallows those.
        with jax.transfer_guard_host_to_device("allow"):
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda x: one(x, sharding), tree)
    return jax.tree.map(one, tree, sharding)
