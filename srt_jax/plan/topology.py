"""Descriptions of devices to compile for: TPU slices (libtpu), NVIDIA nodes (the CUDA plug-in), simulated CPUs."""

import dataclasses
import importlib.util
import math
import re

from srt_jax.errors import ConfigError
from srt_jax.runtime.hardware import CHIPS, Chip

GPUS_PER_NODE = 8
TPU_DIMENSIONS = {"v5e": 2, "v5p": 3, "v6e": 2}
# The values of GPU_TARGET in which the GPUs differ, beside memory and bandwidth.
GPUS = {"h100": ("NVIDIA H100 80GB HBM3", 52_428_800), "h200": ("NVIDIA H200", 62_914_560)}  # name, bytes of L2 cache
EXAMPLES = "h200:8, h100:8 (GPUs), v5e:4x4, v5p:4x4x4, v6e:16x16 (TPU slices), cpu:8 (simulated devices)"
PLUGINS = {"cuda": "jax_cuda13_plugin", "tpu": "libtpu", "cpu": "jax"}

GPU_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: {l2} clock_rate_ghz: 1.98
  device_memory_size: {memory} shared_memory_per_block_optin: 232448 cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }} runtime_version {{ major: 13 }}
device_description_str: "{name}"
"""


@dataclasses.dataclass(frozen=True)
class Topology:
    """`shape`: chips along each dimension of a TPU slice, else (number of devices,). `chip` is None for CPUs."""

    name: str
    platform: str  # cpu | cuda | tpu
    kind: str  # cpu, or a key of hardware.CHIPS
    shape: tuple[int, ...]

    @property
    def num_devices(self) -> int:
        return math.prod(self.shape)

    @property
    def chip(self) -> Chip | None:
        return CHIPS.get(self.kind)


def parse(name: str) -> Topology:
    """The topology of a name. Raises ConfigError, with examples of valid names, for an invalid one."""
    kind, _, extent = name.partition(":")
    dimensions = TPU_DIMENSIONS.get(kind, 1 if kind in GPUS or kind == "cpu" else 0)
    if not dimensions or not re.fullmatch("x".join([r"[1-9]\d*"] * dimensions), extent):
        raise ConfigError(f"--topology is {name!r}, which does not exist: give one like {EXAMPLES}.")
    shape = tuple(int(n) for n in extent.split("x"))
    if kind in GPUS and shape[0] > GPUS_PER_NODE and shape[0] % GPUS_PER_NODE:
        raise ConfigError(f"--topology is {name!r}: more than one node is a multiple of {GPUS_PER_NODE} GPUs.")
    platform = "tpu" if kind in TPU_DIMENSIONS else "cuda" if kind in GPUS else "cpu"
    return Topology(name, platform, kind, shape)


def compiler_is_here(topology: Topology) -> bool:
    """Tells whether this environment has the compiler of the topology."""
    return importlib.util.find_spec(PLUGINS[topology.platform]) is not None


def devices(topology: Topology) -> list:
    """The topology's devices, to build a mesh from. Nothing can run on them.

    Raises ConfigError for a TPU shape that the compiler refuses, or more CPU devices than this process has.
    """
    import jax
    from jax.experimental import topologies

    if topology.platform == "cpu":
        here = jax.devices("cpu")
        if len(here) < topology.num_devices:
            raise ConfigError(f"--topology is {topology.name!r}, but this process has {len(here)} simulated devices.")
        return here[: topology.num_devices]
    try:
        if topology.platform == "tpu":
            described = topologies.get_topology_desc(platform="tpu", topology_name=topology.name)
        else:
            described = topologies.get_topology_desc(platform="cuda", **_gpus(topology))
    except jax.errors.JaxRuntimeError as e:
        reason = " ".join(str(e).split())[:160]
        raise ConfigError(
            f"--topology is {topology.name!r}, which the compiler refuses ({reason}): give one like {EXAMPLES}."
        ) from None
    return list(described.devices)


def _gpus(topology: Topology) -> dict:
    name, l2 = GPUS[topology.kind]
    nodes = max(1, topology.num_devices // GPUS_PER_NODE)
    grid = f"1x{nodes}x{topology.num_devices // nodes}"  # slices x hosts x GPUs of a host
    target = GPU_TARGET.format(
        name=name, l2=l2, bandwidth=int(topology.chip.bandwidth), memory=int(topology.chip.memory)
    )
    return {"topology_name": grid, "topology": grid, "target_config": target}
