"""Chips by name: peak arithmetic, memory and links, from their vendors' data sheets; the memory that is there.

Peaks are dense bfloat16 (no sparsity). `memory` is what a program can have, a little less than what is sold.
"""

import dataclasses
import os
import pathlib


@dataclasses.dataclass(frozen=True)
class Chip:
    """Per device: FLOP/s, bytes, bytes/s. `link` is one way: of one torus link on TPUs, of all NVLinks on GPUs."""

    flops: float
    memory: float
    bandwidth: float
    link: float
    torus: int = 0  # dimensions of the torus of a TPU pod; 0: every device reaches every other through a switch
    wrap: int = 0  # torus dimensions that are multiples of this close to rings


GB, GIB, TERA = 1e9, 2**30, 1e12
GPUS_PER_NODE = 8
CPU_MEMORY_FRACTION = 0.7  # sampling gets this share of main memory; Python, graders and others get the rest
BETWEEN_NODES = 50 * GB  # bytes/s of one GPU to other nodes: one 400 Gb/s adapter each

CHIPS = {
    "h200": Chip(989 * TERA, 139.8 * GIB, 4800 * GB, 450 * GB),
    "h100": Chip(989 * TERA, 79.1 * GIB, 3350 * GB, 450 * GB),
    "a100": Chip(312 * TERA, 79.1 * GIB, 2039 * GB, 300 * GB),
    "v4": Chip(275 * TERA, 31.75 * GIB, 1228 * GB, 45 * GB, torus=3, wrap=4),
    "v5e": Chip(197 * TERA, 15.75 * GIB, 819 * GB, 45 * GB, torus=2, wrap=16),
    "v5p": Chip(459 * TERA, 95.74 * GIB, 2765 * GB, 90 * GB, torus=3, wrap=4),
    "v6e": Chip(918 * TERA, 31.25 * GIB, 1640 * GB, 90 * GB, torus=2, wrap=16),
}

# Part of what JAX calls a device -> name above; the first that matches.
KINDS = (
    ("H200", "h200"),
    ("H100", "h100"),
    ("A100", "a100"),
    ("TPU v4", "v4"),
    ("TPU v5 lite", "v5e"),
    ("TPU v5e", "v5e"),
    ("TPU v5", "v5p"),
    ("TPU v6", "v6e"),
)


def chip_of(device_kind: str) -> Chip | None:
    """The chip that `jax.Device.device_kind` names; None for CPUs and chips that are not in the table."""
    return next((CHIPS[name] for kind, name in KINDS if kind in device_kind), None)


def interconnect(name: str, shape: tuple[int, ...]) -> float:
    """bytes/s that one device can receive from the others of its node or slice, all its links together.

    A TPU receives from both ends of each torus dimension that closes to a ring, from one where it does not. Of a
    three-dimensional torus all dimensions close, or none.
    """
    chip = CHIPS[name]
    if not chip.torus:
        return chip.link
    closed = [size % chip.wrap == 0 for size in shape]
    if chip.torus == 3:
        closed = [all(closed)] * 3
    return chip.link * max(1, sum(1 + ring for size, ring in zip(shape, closed) if size > 1))


def machine_memory() -> float:
    """Bytes of main memory: the machine's, or the limit of this process's control group where that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # of cgroup version 2, of version 1
        try:
            found.append(int((pathlib.Path("/sys/fs/cgroup") / file).read_text()))
        except (OSError, ValueError):  # no such version, or "max"
            continue
    return float(min(found))


def device_memory(device, local_devices: int) -> float | None:
    """Bytes of a jax.Device that a process can have, whatever lies there now; None where nothing tells.

    local_devices: of this process, among which a CPU's memory is divided.
    """
    if device.platform == "cpu":
        return machine_memory() / local_devices
    limit = (device.memory_stats() or {}).get("bytes_limit")
    chip = chip_of(device.device_kind)
    return float(limit) if limit else chip and chip.memory
