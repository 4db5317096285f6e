"""Exports of the weights for rollout servers: <directory>/step_NNNNNN/. An export is complete, or it does not exist.

Each is an ordinary Hugging Face directory, or a PEFT directory, with a manifest.json. The manifest has the step, a hash
of the config, the sizes of all files, and the names, shapes and dtypes of all tensors. It also has checksums (xxh3_64)
of all tensors, of all other bytes, and of itself.
"""

import concurrent.futures
import dataclasses
import functools
import json
import math
import mmap
import os
import pathlib
import shutil
import time
from collections.abc import Callable

import jax.numpy as jnp
import xxhash
from flax import nnx
from jax.typing import DTypeLike

from srt_jax.errors import ExportError
from srt_jax.files import remove_leftovers, says_full
from srt_jax.model import peft, weights
from srt_jax.model.lora import LoRA
from srt_jax.rollout.vllm.client import INITIAL_LABEL, Version
from srt_jax.rollout.vllm.command import MODEL_NAME
from srt_jax.runtime import processes

MANIFEST = "manifest.json"
Finish = Callable[[pathlib.Path, dict], object]  # adds files to a complete folder, as in `weights.save`


@dataclasses.dataclass(frozen=True)
class Published:
    """A complete export."""

    path: pathlib.Path
    step: int
    bytes: int
    seconds: float  # the time to write and flush it
    version: Version  # names these weights at the servers; the step alone would not distinguish two runs
    tensors: str  # checksum of all tensors, which does not depend on the step
    served_from: pathlib.Path  # the model directory that a server starts with before these weights are delivered


def publish(
    params: nnx.State,
    step: int,
    directory: str | os.PathLike[str],
    hf_config: dict,
    dtype: DTypeLike,
    tokenizer_from: str | os.PathLike[str] | None,
    config_hash: str,
    extra: dict[str, str] | None = None,
    adapter_scale: float | None = None,
) -> Published:
    """Writes the weights of a step in the served dtype. `extra`, `adapter_scale`: as in `weights.save`.

    Raises ExportError if they cannot be written. Removes exports of later steps, which a run has if it was killed after
    its last checkpoint.
    """

    def write(path: pathlib.Path, before_naming: Finish) -> int:
        return weights.save(path, params, hf_config, dtype, tokenizer_from, extra, before_naming, adapter_scale)

    return _publish(write, step, directory, config_hash, None)


def publish_adapter(
    adapters: nnx.State,
    step: int,
    directory: str | os.PathLike[str],
    settings: LoRA,
    base_id: str,
    base_directory: pathlib.Path,
    dtype: DTypeLike,
    config_hash: str,
) -> Published:
    """Writes the adapters of a step as a PEFT directory; otherwise like `publish`.

    base_id: the base's name in it, as in `peft.write_adapter`. base_directory: where servers read the base.
    """

    def write(path: pathlib.Path, before_naming: Finish) -> int:
        return peft.write_adapter(path, adapters, settings, base_id, before_naming=before_naming, dtype=dtype)

    return _publish(write, step, directory, config_hash, base_directory)


def _publish(
    write: Callable[[pathlib.Path, Finish], int],
    step: int,
    directory: str | os.PathLike[str],
    config_hash: str,
    base_directory: pathlib.Path | None,
) -> Published:
    """Writes an export by write(path, before_naming) and describes it. base_directory: of an adapter's base.

    All processes must call this; the first one writes.
    """
    start = time.perf_counter()
    directory = pathlib.Path(directory)
    path = directory / f"step_{step:06d}"
    try:
        processes.from_first(lambda: _remove_leftovers(directory, step))
        size = write(path, functools.partial(_write_manifest, step=step, config_hash=config_hash))
        manifest = processes.from_first(lambda: json.loads((path / MANIFEST).read_text()))
    except OSError as e:
        remedy = "free some space there, or name" if says_full(e) else "name"
        raise ExportError(
            f"{directory} does not take the weights of step {step} ({e.strerror or e}): {remedy} another folder by "
            "rollout.vllm.weights_directory."
        ) from e
    label = f"{step}-{manifest['xxh3_64']}"
    if base_directory:
        version = Version(f"{MODEL_NAME}-{label}", INITIAL_LABEL)
    else:
        version = Version(MODEL_NAME, label)
    seconds = time.perf_counter() - start
    return Published(path, step, size, seconds, version, _checksum_of(manifest["tensors"]), base_directory or path)


def check_sizes(path: str | os.PathLike[str]) -> dict:
    """The manifest of an export. Raises ExportError if it is damaged, or a file's size differs from it."""
    path = pathlib.Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        whole = manifest.pop("xxh3_64") == _checksum_of(manifest)
    except FileNotFoundError:
        raise ExportError(f"{path} has no {MANIFEST}: it is no complete export.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ExportError(f"{path / MANIFEST} is damaged: it does not match its own checksum.")
    for name, entry in manifest["files"].items():
        found = (path / name).stat().st_size if (path / name).exists() else None
        if found != entry["bytes"]:
            has = "does not exist" if found is None else f"has {found} bytes"
            raise ExportError(
                f"{path / name} {has}, but its manifest records {entry['bytes']} bytes: it was cut short or changed."
            )
    return manifest


def verify(path: str | os.PathLike[str]) -> dict:
    """Checks all checksums of an export; returns its manifest. Raises ExportError with the tensor or file."""
    path = pathlib.Path(path)
    manifest = check_sizes(path)

    def check(data: memoryview, first: int, last: int, checksum: str, what: object) -> None:
        with data[first:last] as part:
            if xxhash.xxh3_64_hexdigest(part) != checksum:
                raise ExportError(f"{what} does not match the checksum in its manifest: it was changed.")

    for name, entry in manifest["files"].items():
        if not entry["bytes"]:  # an empty file cannot be mapped
            continue
        with (
            open(path / name, "rb") as f,
            mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as data,
            concurrent.futures.ThreadPoolExecutor(weights.WRITERS) as pool,
        ):
            checks = [pool.submit(check, data, 0, entry["header_bytes"], entry["xxh3_64"], path / name)]
            for tensor, t in manifest["tensors"].items():
                if t["file"] == name:
                    last = t["offset"] + math.prod(t["shape"]) * jnp.dtype(t["dtype"]).itemsize
                    checks.append(pool.submit(check, data, t["offset"], last, t["xxh3_64"], f"{path}: {tensor}"))
            for done in checks:
                done.result()
    return manifest


def prune(directory: str | os.PathLike[str], keep: int) -> None:
    """Removes all but the newest `keep` exports. Servers that have read the newest do not need the others."""
    for _, path in sorted(_exports(directory))[:-keep]:
        shutil.rmtree(path)


def _exports(directory: str | os.PathLike[str]) -> list[tuple[int, pathlib.Path]]:
    """(step, path) of each path with the name of an export."""
    return [(int(path.name[5:]), path) for path in pathlib.Path(directory).glob("step_*") if path.name[5:].isdigit()]


def _write_manifest(folder: pathlib.Path, tensors: dict, *, step: int, config_hash: str) -> None:
    files = {}
    for file in sorted(folder.iterdir()):
        size = file.stat().st_size
        header = min((t["offset"] for t in tensors.values() if t["file"] == file.name), default=size)
        with open(file, "rb") as f:
            files[file.name] = {
                "bytes": size,
                "header_bytes": header,
                "xxh3_64": xxhash.xxh3_64_hexdigest(f.read(header)),
            }
    manifest = {"step": step, "config_hash": config_hash, "files": files, "tensors": tensors}
    manifest["xxh3_64"] = _checksum_of(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _checksum_of(manifest: dict) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(manifest, sort_keys=True).encode())


def _remove_leftovers(directory: pathlib.Path, step: int) -> None:
    for found, path in _exports(directory):
        if found > step:
            shutil.rmtree(path)
    remove_leftovers(directory)
