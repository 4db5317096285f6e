"""Measures a machine: seconds of calls, arithmetic and memory bandwidth, collectives, and disks."""

import functools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

CHUNK = 8 * 2**20  # bytes of one write


def seconds_of(call: Callable[[], object], repeats: int, warmup: int = 1) -> list[float]:
    """Sorted wall-clock seconds of `repeats` calls, after `warmup` calls. The call must wait for its results."""
    seconds = []
    for _ in range(warmup + repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[warmup:])


def peaks(size: int, copied_bytes: int) -> tuple[float, float]:
    """(FLOP/s of a size x size bfloat16 product, bytes/s of a copy) on one device, each the best of ten."""

    def best(call, x):
        return seconds_of(functools.partial(_finished, call, x), 10)[0]

    x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)  # random, because zeros run faster
    return (
        2 * size**3 / best(jax.jit(lambda x: x @ x), x),
        2 * copied_bytes / best(jax.jit(lambda x: x + 1), jnp.zeros(copied_bytes // 4)),
    )


def collectives(mesh: Mesh, gathered_bytes: int) -> dict[str, tuple[float, bool]]:
    """{collective: (bytes/s, whether its result was right)} of an all-gather and a reduce-scatter over all devices.

    gathered_bytes: size of the gathered array. bytes/s: the bus bandwidth of NVIDIA's nccl-tests, which is
    gathered_bytes x (devices - 1) / devices / seconds, the best of five. A mesh of one device has no collectives.
    """
    devices, axes = mesh.size, mesh.axis_names
    per_device = gathered_bytes // 4 // devices
    split, whole = NamedSharding(mesh, P(axes)), NamedSharding(mesh, P())

    def program(body, into: P):
        return jax.jit(jax.shard_map(body, mesh=mesh, in_specs=P(axes), out_specs=into, check_vma=False))

    gather = program(lambda x: jax.lax.all_gather(x, axes, tiled=True), P())
    scatter = program(lambda x: jax.lax.psum_scatter(x, axes, tiled=True), P(axes))
    numbers = jax.jit(lambda: jnp.arange(devices * per_device, dtype=jnp.float32) % 8191, out_shardings=split)()
    # Device d contributes d + 1 to each sum.
    terms = jax.jit(lambda: jnp.repeat(jnp.arange(1.0, devices + 1), devices * per_device), out_shardings=split)()
    same = jax.jit(lambda x: (x == jnp.arange(len(x), dtype=jnp.float32) % 8191).all(), out_shardings=whole)
    summed = jax.jit(lambda x: (x == devices * (devices + 1) / 2).all(), out_shardings=whole)
    moved, found = per_device * 4 * (devices - 1), {}
    for name, call, x, right in (("all-gather", gather, numbers, same), ("reduce-scatter", scatter, terms, summed)):
        correct = bool(right(call(x)))
        seconds = seconds_of(functools.partial(_finished, call, x), 5)[0]
        found[name] = moved / seconds, correct
    return found


def _finished(call: Callable[[jax.Array], jax.Array], x: jax.Array) -> None:
    call(x).block_until_ready()


def disk(folder: pathlib.Path, size: int, limit: float = 3.0) -> tuple[float, float]:
    """(bytes/s written and flushed, bytes/s read) of one temporary file in a folder.

    size: bytes, at least 1, rounded up to whole chunks. limit: seconds after which writing or reading stops. Reading
    bypasses the page cache where the file system permits it. Raises OSError if the folder cannot be written.
    """
    data, written = os.urandom(CHUNK), 0
    with tempfile.TemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        while written < size and (not written or time.perf_counter() - start < limit):
            written += file.write(data)
        file.flush()
        os.fsync(file.fileno())
        writing = time.perf_counter() - start
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # drops the pages of the file
        file.seek(0)
        start, read = time.perf_counter(), 0
        while chunk := file.read(CHUNK):
            read += len(chunk)
            if time.perf_counter() - start > limit:
                break
        return written / writing, read / (time.perf_counter() - start)
