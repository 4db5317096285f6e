"""The device mesh, and which parameter lies where: one ordered table, first match wins."""
import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the axes that split the sequences of a batch

# Stacked layer parameters carry a leading L that is never split.
RULES = (
    (r"embedding|head", P("tensor", "fsdp")),
    (r"layers\.(q|k|v|gate|up)\.kernel", P(None, "fsdp", "tensor")),
    (r"layers\.(o|down)\.kernel", P(None, "tensor", "fsdp")),
    (r"layers\.(q|k|v|gate|up)\.bias", P(None, "tensor")),
    (r".*", P()),
)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """A (data, fsdp, tensor) mesh over all devices; data=-1 takes what the other two leave."""
    devices = jax.devices() if devices is None else devices
    data = len(devices) // (fsdp * tensor) if data == -1 else data
    return Mesh(np.asarray(devices).reshape(data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def parameter_sharding(mesh: Mesh, path: str, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of one parameter; a dimension that its axis does not divide stays whole."""
    spec = next(spec for pattern, spec in RULES if re.fullmatch(pattern, path))
    fitting = [axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(spec, shape)]
    return NamedSharding(mesh, P(*fitting))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def by_rows(mesh: Mesh) -> NamedSharding:
    """The leading dimension split over data x fsdp."""
    return NamedSharding(mesh, P(ROWS))


def num_row_shards(mesh: Mesh) -> int:
    """Into how many parts the sequences of a batch are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def place(tree, sharding):
    """Host arrays that every process holds whole -> global arrays; each process copies only its devices' slices.

    `sharding` is one sharding for all leaves, or a tree of them.
    """
    def one(x, sharding):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda x: one(x, sharding), tree)
    return jax.tree.map(one, tree, sharding)
