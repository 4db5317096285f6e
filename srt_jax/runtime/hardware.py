"""Chips by name with their peak arithmetic, memory and bandwidth from the data sheets; the memory of this machine.

Peaks are dense bfloat16 (no sparsity). `memory` is the part that a program can use, a little less than is sold.
"""

import dataclasses
import os
import pathlib
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """Per device: FLOP/s, bytes of memory, bytes/s of memory bandwidth."""

    flops: float
    memory: float
    bandwidth: float


GB, GIB, TERA = 1e9, 2**30, 1e12
CPU_MEMORY_FRACTION = 0.7  # share of main memory for sampling; Python, graders and others get the rest

CHIPS = {
    "h200": Chip(989 * TERA, 139.8 * GIB, 4800 * GB),
    "h100": Chip(989 * TERA, 79.1 * GIB, 3350 * GB),
    "a100": Chip(312 * TERA, 79.1 * GIB, 2039 * GB),
    "v4": Chip(275 * TERA, 31.75 * GIB, 1228 * GB),
    "v5e": Chip(197 * TERA, 15.75 * GIB, 819 * GB),
    "v5p": Chip(459 * TERA, 95.74 * GIB, 2765 * GB),
    "v6e": Chip(918 * TERA, 31.25 * GIB, 1640 * GB),
}

# Part of jax.Device.device_kind -> name in CHIPS; the first match counts.
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


# PCI devices of TPUs: vendor, and devices by jax/_src/hardware_utils.py. A network card or a disk of Google's virtual
# machines has the same vendor.
GOOGLE = "0x1ae0"
TPUS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")


def tpu_chips(root: pathlib.Path = pathlib.Path("/")) -> int:
    """The number of TPU chips that the operating system shows, even without libtpu. root: root of its files."""

    def read(file: pathlib.Path) -> str:
        try:
            return file.read_text().strip()
        except OSError:
            return ""

    cards = (root / "sys/bus/pci/devices").glob("*")
    on_bus = sum(read(card / "vendor") == GOOGLE and read(card / "device") in TPUS for card in cards)
    return max(on_bus, len(list((root / "dev").glob("accel[0-9]*"))))


def chip_of(device_kind: str) -> Chip | None:
    """The chip with this `jax.Device.device_kind`; None for CPUs and unknown chips."""
    return next((CHIPS[name] for kind, name in KINDS if kind in device_kind), None)


def machine_memory() -> float:
    """Bytes of main memory of the machine, or the limit of this process's control group if that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup version 2 and version 1
        try:
            found.append(int((pathlib.Path("/sys/fs/cgroup") / file).read_text()))
        except (OSError, ValueError):  # the other version, or "max"
            continue
    return float(min(found))


def available_memory() -> float:
    """Bytes of main memory that programs can still take, or `machine_memory()` if that is less."""
    meminfo = pathlib.Path("/proc/meminfo")
    if not meminfo.exists():
        return machine_memory()
    kibibytes = re.search(r"^MemAvailable: +(\d+) kB", meminfo.read_text(), re.MULTILINE)
    return min(machine_memory(), float(kibibytes[1]) * 1024 if kibibytes else machine_memory())


def device_memory(device, local_devices: int) -> float | None:
    """Total bytes of a jax.Device that a process can use, in use or free; None if unknown.

    local_devices: number of devices of this process, which share the memory of a CPU.
    """
    if device.platform == "cpu":
        return machine_memory() / local_devices
    limit = (device.memory_stats() or {}).get("bytes_limit")
    chip = chip_of(device.device_kind)
    if limit:
        return float(limit)
    return chip.memory if chip else None
