"""Exports of the weights for rollout servers: <directory>/step_NNNNNN/, complete or not there at all.

Each is an ordinary Hugging Face directory and a manifest.json: step, hash of the config, and the names, shapes, dtypes,
sizes and checksums (xxh3_64) of all tensors and files.
"""
import concurrent.futures
import dataclasses
import json
import mmap
import os
import pathlib
import shutil
import time

import jax
import xxhash

from srt_jax.model import weights
from srt_jax.rollout.sampler import RolloutError

MANIFEST = "manifest.json"


class ExportError(RolloutError):
    """An export that is damaged; one sentence for the user."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A complete export."""
    path: pathlib.Path
    step: int
    bytes: int
    seconds: float  # that it took to write, flush included


def publish(params, step: int, directory, hf_config: dict, dtype, tokenizer_from, config_hash: str) -> Published:
    """Writes the weights of a step in the served dtype. Raises OSError where the disk is full.

    Exports of later steps are removed: they belong to a run that was cut off after its last checkpoint.
    """
    start = time.perf_counter()
    directory = pathlib.Path(directory)
    if jax.process_index() == 0:
        _remove_leftovers(directory, step)
    path = directory / f"step_{step:06d}"
    size = weights.save(path, params, hf_config, dtype, tokenizer_from=tokenizer_from,
                        manifest={"step": step, "config_hash": config_hash})
    return Published(path, step, size, time.perf_counter() - start)


def newest(directory) -> Published | None:
    """The export of the highest step whose manifest can be read and whose files have the sizes it tells."""
    for _, path in sorted(_exports(directory), reverse=True):
        try:
            manifest = check_sizes(path)
        except ExportError:
            continue
        return Published(path, manifest["step"], sum(entry["bytes"] for entry in manifest["files"].values()), 0.0)
    return None


def check_sizes(path) -> dict:
    """The manifest of an export. Raises ExportError where it cannot be read, or a file has not the size it tells."""
    path = pathlib.Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        sizes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
        manifest["step"], manifest["tensors"]
    except FileNotFoundError:
        raise ExportError(f"{path} has no {MANIFEST}: it is no complete export.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ExportError(f"{path / MANIFEST} is damaged.") from None
    for name, size in sizes.items():
        found = (path / name).stat().st_size if (path / name).exists() else None
        if found != size:
            has = "does not exist" if found is None else f"has {found} bytes"
            raise ExportError(f"{path / name} {has}, its manifest tells {size} bytes: it was cut short or changed.")
    return manifest


def verify(path) -> dict:
    """The manifest of an export all of whose checksums hold. Raises ExportError that names the tensor or file."""
    path = pathlib.Path(path)
    manifest = check_sizes(path)
    for name, entry in manifest["files"].items():
        if "xxh3_64" in entry and xxhash.xxh3_64_hexdigest((path / name).read_bytes()) != entry["xxh3_64"]:
            raise ExportError(f"{path / name} has not the checksum that its manifest tells: it was changed.")
    files = [path / name for name in manifest["files"] if name.endswith(".safetensors")]
    with concurrent.futures.ThreadPoolExecutor(weights.WRITERS) as pool:
        found = {}
        for file in files:
            with open(file, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
                found |= _tensor_checksums(file, memoryview(data), pool)
    told = {name: {key: entry[key] for key in ("shape", "xxh3_64")} for name, entry in manifest["tensors"].items()}
    for name in sorted(told.keys() | found.keys()):
        if told.get(name) != found.get(name):
            raise ExportError(f"{path}: tensor {name!r} is not the one that its manifest tells: the file was changed.")
    return manifest


def prune(directory, keep: int) -> None:
    """Removes all but the newest `keep` exports: once every server has read the newest, none needs the others."""
    for _, path in sorted(_exports(directory))[:-keep]:
        shutil.rmtree(path)


def _exports(directory) -> list[tuple[int, pathlib.Path]]:
    """(step, path) of everything that has the name of an export."""
    return [(int(path.name[5:]), path) for path in pathlib.Path(directory).glob("step_*") if path.name[5:].isdigit()]


def _tensor_checksums(file, data: memoryview, pool) -> dict[str, dict]:
    """{tensor: its shape and checksum} of a mapped safetensors file."""
    with data:
        start = 8 + int.from_bytes(data[:8], "little")
        try:
            header = json.loads(bytes(data[8:start]))
        except ValueError:
            raise ExportError(f"{file} has a damaged header.") from None
        header.pop("__metadata__", None)

        def checksum(entry):
            first, last = entry["data_offsets"]
            with data[start + first:start + last] as part:
                return xxhash.xxh3_64_hexdigest(part)

        checksums = pool.map(checksum, header.values())
        return {name: {"shape": entry["shape"], "xxh3_64": found}
                for (name, entry), found in zip(header.items(), checksums)}


def _remove_leftovers(directory: pathlib.Path, step: int) -> None:
    for found, path in _exports(directory):
        if found > step:
            shutil.rmtree(path)
    for path in directory.glob(".step_*"):  # of a process that was killed while it wrote, or of this one's last attempt
        if not path.name.endswith(f"-{os.getpid()}"):
            shutil.rmtree(path)
