"""Import and export of Hugging Face directories, with one table of names.

Import reads one parameter at a time, and each process reads only the slices of its devices. Export gathers and writes a
few tensors at a time. Neither needs a second full copy of the model in host memory.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import math
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import xxhash
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from srt_jax.errors import ModelError
from srt_jax.files import read_json_object, replaced_folder
from srt_jax.model import decoder, lora, sharding
from srt_jax.model.config import ModelConfig, read_hf_config
from srt_jax.model.paths import flat_paths, map_with_path
from srt_jax.runtime import processes

# (Hugging Face name, our path, transposed); "{}" is the layer. Linear weights are [out, in] in files, [in, out] here.
TABLE = (
    ("model.embed_tokens.weight", "embedding", False),
    ("model.layers.{}.input_layernorm.weight", "layers.attention_norm.scale", False),
    ("model.layers.{}.self_attn.q_proj.weight", "layers.q.kernel", True),
    ("model.layers.{}.self_attn.q_proj.bias", "layers.q.bias", False),
    ("model.layers.{}.self_attn.k_proj.weight", "layers.k.kernel", True),
    ("model.layers.{}.self_attn.k_proj.bias", "layers.k.bias", False),
    ("model.layers.{}.self_attn.v_proj.weight", "layers.v.kernel", True),
    ("model.layers.{}.self_attn.v_proj.bias", "layers.v.bias", False),
    ("model.layers.{}.self_attn.q_norm.weight", "layers.q_norm.scale", False),
    ("model.layers.{}.self_attn.k_norm.weight", "layers.k_norm.scale", False),
    ("model.layers.{}.self_attn.o_proj.weight", "layers.o.kernel", True),
    ("model.layers.{}.self_attn.o_proj.bias", "layers.o.bias", False),
    ("model.layers.{}.post_attention_layernorm.weight", "layers.mlp_norm.scale", False),
    ("model.layers.{}.mlp.gate_proj.weight", "layers.gate.kernel", True),
    ("model.layers.{}.mlp.gate_proj.bias", "layers.gate.bias", False),
    ("model.layers.{}.mlp.up_proj.weight", "layers.up.kernel", True),
    ("model.layers.{}.mlp.up_proj.bias", "layers.up.bias", False),
    ("model.layers.{}.mlp.down_proj.weight", "layers.down.kernel", True),
    ("model.layers.{}.mlp.down_proj.bias", "layers.down.bias", False),
    ("model.norm.weight", "norm.scale", False),
    ("lm_head.weight", "head", False),
)
IGNORED = "rotary_emb.inv_freq"  # a buffer that old checkpoints carry
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 2 << 30
WRITERS = min(8, os.cpu_count() or 1)  # threads of an export
SAFETENSORS_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
READABLE_DTYPES = ("F64", *SAFETENSORS_DTYPES.values())


def load(
    directory: str | os.PathLike[str],
    dtype: DTypeLike = jnp.float32,
    remat: str = "none",
    kernel: str = "xla",
    mesh: Mesh | None = None,
    frozen: bool = False,
) -> tuple[nnx.GraphDef, nnx.State, ModelConfig]:
    """Reads a Hugging Face directory: (graphdef, float32 parameters, ModelConfig).

    dtype, remat and kernel are the decoder's. Parameters are placed on `mesh` (default: whole on the first device), and
    each process reads only the slices of its devices. frozen: stores parameters in their `frozen_dtype`, since
    nothing is added to them.
    Raises ModelError before anything is read if a tensor is missing, unknown, quantised or has the wrong shape, and
    while reading if a number is not finite. The message names the tensor.
    """
    directory = pathlib.Path(directory)
    config = ModelConfig.from_hf(read_hf_config(directory))
    graphdef, shapes = decoder.abstract(config, dtype, remat, kernel, mesh)
    on_first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with contextlib.ExitStack() as stack:
        tensors = _open(directory, stack)
        _check(tensors, shapes, config, directory)

        def read(path: str, shape: jax.ShapeDtypeStruct) -> jax.Array:
            where = sharding.parameter_sharding(mesh, path, shape.shape) if mesh else on_first
            stored = frozen_dtype(path, dtype) if frozen else shape.dtype
            read_already = {}  # devices with the same slice share one copy of it on the host

            def read_once(index: tuple[slice, ...]) -> np.ndarray:
                key = str(index)
                if key not in read_already:
                    read_already[key] = _read_slice(tensors, path, index, shape.shape).astype(stored, copy=False)
                return read_already[key]

            return jax.make_array_from_callback(shape.shape, where, read_once)

        params = map_with_path(read, shapes)
    return graphdef, params, config


def frozen_dtype(path: str, dtype: DTypeLike) -> np.dtype:
    """The dtype of a parameter that is not trained: the compute dtype, and float32 for the scales of norms."""
    return np.dtype(np.float32) if path.endswith("scale") else jnp.dtype(dtype)


def check(directory: str | os.PathLike[str]) -> None:
    """Raises ModelError unless the weight files contain exactly the tensors of the model in config.json."""
    directory = pathlib.Path(directory)
    config = ModelConfig.from_hf(read_hf_config(directory))
    with contextlib.ExitStack() as stack:
        _check(_open(directory, stack), decoder.abstract(config)[1], config, directory)


def save(
    directory: str | os.PathLike[str],
    params: nnx.State,
    hf_config: dict,
    dtype: DTypeLike = jnp.bfloat16,
    tokenizer_from: str | os.PathLike[str] | None = None,
    extra: dict[str, str] | None = None,
    before_naming: Callable[[pathlib.Path, dict], object] | None = None,
    adapter_scale: float | None = None,
) -> int:
    """Writes an ordinary Hugging Face directory, under a temporary name until it is complete. Returns its bytes.

    The head is always written, also if it is tied, because vLLM's CPU build otherwise keeps the old head after a
    reload. `tokenizer_from`: a directory from which the tokenizer and the generation config are copied. `extra`: more
    text files by name, which may replace copied ones. `before_naming(folder, tensors)` may add files to the complete
    folder; tensors = {name: {file, offset, dtype, shape, xxh3_64}}. Adapters in `params` are merged in float32, one
    tensor at a time; adapter_scale is their scale. All processes must call this; the first one writes. Raises OSError
    if the disk is full.
    """

    def complete(folder: pathlib.Path, tensors: dict) -> None:
        config = {**hf_config, "dtype": jnp.dtype(dtype).name}
        config.pop("torch_dtype", None)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name in TOKENIZER_FILES if tokenizer_from else ():
            if (pathlib.Path(tokenizer_from) / name).exists():
                shutil.copy(pathlib.Path(tokenizer_from) / name, folder / name)
        for name, text in (extra or {}).items():
            (folder / name).write_text(text)
        if before_naming:
            before_naming(folder, tensors)

    dtype = jnp.dtype(dtype)
    return write_folder(
        directory,
        _plan_shards(tensor_shapes(params), dtype.itemsize),
        lambda name: read_tensor(params, name, dtype, adapter_scale),
        dtype,
        complete,
    )


def write_folder(
    directory: str | os.PathLike[str],
    files: dict[str, dict[str, tuple[int, ...]]],
    read: Callable[[str], jax.Array],
    dtype: np.dtype,
    complete: Callable[[pathlib.Path, dict], None],
    metadata: dict[str, str] | None = None,
) -> int:
    """Writes a folder of safetensors files, under a temporary name until it is complete. Returns its bytes.

    files: file -> {tensor: shape}. read(tensor) returns its array, which several processes may share. metadata: more
    texts of the files' headers. complete(folder, tensors) writes the other files; tensors are those of `save`. All
    processes must call this; the first one writes. If it fails, all of them raise its exception.
    """
    directory, left = pathlib.Path(directory), [name for shapes in files.values() for name in shapes]

    def next_tensor(name: str) -> jax.Array:
        left.remove(name)
        return read(name)

    def write() -> int:
        try:
            with replaced_folder(directory) as folder:
                complete(folder, _write_files(folder, files, next_tensor, dtype, metadata or {}))
                for file in folder.iterdir():
                    file.chmod(0o644)
        finally:  # after an error the other processes still gather the other tensors
            for name in left if jax.process_count() > 1 else ():
                read(name)
        return sum(f.stat().st_size for f in directory.iterdir())

    for name in left if jax.process_index() else ():
        read(name)
    return processes.from_first(write)


def tensor_names(params: nnx.State) -> Iterator[str]:
    """The Hugging Face names of an export, in the order of the layers."""
    flat = dict(flat_paths(params))
    yield "model.embed_tokens.weight"
    for layer in range(flat["layers.q.kernel"].shape[0]):
        yield from (name.format(layer) for name, path, _ in TABLE if "{}" in name and path in flat)
    yield "model.norm.weight"
    yield "lm_head.weight"


def tensor_shapes(params: nnx.State) -> dict[str, tuple[int, ...]]:
    """Hugging Face name -> shape of every tensor of an export, in the order of the layers."""
    flat, shapes = dict(flat_paths(params)), {}
    for name in tensor_names(params):
        layer, path, transposed = locate(name)
        shape = (flat[path] if path in flat else flat["embedding"]).shape[layer is not None :]
        shapes[name] = shape[::-1] if transposed else shape
    return shapes


def read_tensor(params: nnx.State, name: str, dtype: DTypeLike, adapter_scale: float | None = None) -> jax.Array:
    """One tensor of an export in Hugging Face's layout, on the device; gathered if several processes share it.

    Adapters of the tensor are merged into it; adapter_scale is their scale. Raises ValueError if it is not given.
    """
    layer, path, transposed = locate(name)
    flat = dict(flat_paths(params))
    value = flat[path] if path in flat else flat["embedding"]  # a tied head
    linear = path.removesuffix("kernel")
    pair = tuple(flat[linear + part] for part in (lora.A, lora.B) if linear + part in flat)
    if pair and adapter_scale is None:
        raise ValueError(f"{path} has adapters: an export without them needs the scale to merge them.")
    # The index of the layer goes to the devices, implicitly: the training loop, which may export, disallows that.
    with jax.transfer_guard_host_to_device("allow"):
        value = stored(value, layer, jnp.dtype(dtype), transposed, pair, adapter_scale)
    return gathered(value)


def gathered(value: jax.Array) -> jax.Array:
    """The whole array on the devices of this process, if several processes share it. All of them must call this."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        # One gather at a time. With several at once, processes on CPUs may wait for different ones and never end.
        return jax.block_until_ready(_gather(cast(NamedSharding, value.sharding).mesh)(value))
    return value


@functools.cache
def _gather(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """One jitted function for all tensors, so that each shape compiles once in a process."""
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnames=("dtype", "transposed", "scale"))
def stored(
    value: jax.Array,
    layer: int | None,
    dtype: np.dtype,
    transposed: bool,
    adapters: tuple[jax.Array, ...] = (),
    scale: float | None = None,
) -> jax.Array:
    """One layer, with its adapters merged, cast and transposed. Compiles once per shape, not per layer."""
    if layer is not None:
        value, *adapters = (jax.lax.dynamic_index_in_dim(x, layer, 0, keepdims=False) for x in (value, *adapters))
    if adapters:
        a, b = adapters
        value = lora.merged(value, a, b, scale)
    return (value.T if transposed else value).astype(dtype)


def locate(name: str) -> tuple[int | None, str, bool]:
    """Hugging Face name -> (layer or None, our path, transposed). Raises KeyError for a name outside the table."""
    parts = name.split(".")
    layer = int(parts[2]) if name.startswith("model.layers.") else None
    generic = ".".join([*parts[:2], "{}", *parts[3:]]) if layer is not None else name
    for hf_name, path, transposed in TABLE:
        if hf_name == generic:
            return layer, path, transposed
    raise KeyError(name)


def weight_files(directory: pathlib.Path) -> list[pathlib.Path]:
    """The weight files of a Hugging Face directory, with the index if there is one. Raises ModelError."""
    index = directory / INDEX
    names = sorted({INDEX, *_weight_map(index).values()}) if index.exists() else [WEIGHTS]
    return [directory / name for name in names]


def blocks(directory: pathlib.Path) -> Iterator[bytes]:
    """The first and the last megabyte of each weight file, and its size. They differ between models."""
    for file in weight_files(directory):
        with open(file, "rb") as f:
            start = f.read(1 << 20)
            f.seek(max(0, file.stat().st_size - (1 << 20)))
            yield start + f.read() + str(file.stat().st_size).encode()


def fingerprint(directory: pathlib.Path) -> str:
    """sha256 over `blocks`, to recognise the base model of an adapter."""
    digest = hashlib.sha256()
    for block in blocks(directory):
        digest.update(block)
    return digest.hexdigest()


def _weight_map(index: pathlib.Path) -> dict[str, str]:
    """Tensor -> file, from the index of a model in several files."""
    try:
        found = read_json_object(index).get("weight_map")
    except (ValueError, OSError) as e:
        raise ModelError(f"{index} is damaged ({e}): copy it again.") from None
    if (
        not isinstance(found, dict)
        or not found
        or not all(
            isinstance(file, str) and file == pathlib.Path(file).name and file.endswith(".safetensors")
            for file in found.values()
        )
    ):
        raise ModelError(f"{index} is damaged (its weight_map does not name a file for each tensor): copy it again.")
    if (index.parent / WEIGHTS).exists() and WEIGHTS not in found.values():
        raise ModelError(
            f"{index.parent} contains {WEIGHTS} and {INDEX}, which does not list it, so programs may load "
            "different weights: remove one of the two."
        )
    return found


def _open(directory: pathlib.Path, stack: contextlib.ExitStack) -> dict:
    """Tensor name -> lazily read slice. If there is an index, only the files that it lists are read."""
    index = directory / INDEX
    weight_map = _weight_map(index) if index.exists() else None
    handles = {}
    for file in sorted(set(weight_map.values())) if weight_map else [WEIGHTS]:
        try:
            handles[file] = stack.enter_context(safe_open(directory / file, framework="numpy"))
        except FileNotFoundError:
            raise ModelError(_missing(directory, file, bool(weight_map))) from None
        except (SafetensorError, OSError) as e:
            raise ModelError(f"{directory / file} is damaged ({e}): copy it again.") from None
    names = {file: set(handle.keys()) for file, handle in handles.items()}
    for name, file in (weight_map or {}).items():
        if name not in names[file]:
            raise ModelError(
                f"{directory / file} has no tensor {name!r}, which {INDEX} places there: copy the model "
                "directory again."
            )
    weight_map = weight_map or dict.fromkeys(sorted(names[WEIGHTS]), WEIGHTS)
    return {name: handles[file].get_slice(name) for name, file in weight_map.items()}


def _missing(directory: pathlib.Path, file: str, named: bool) -> str:
    """The error message for a missing weight file."""
    if named:
        return f"{directory / file}, which {INDEX} names, does not exist: copy the model directory again."
    if others := sorted(path.name for ending in ("bin", "pth", "gguf") for path in directory.glob(f"*.{ending}")):
        return (
            f"{directory} has its weights as {others[0]}, and {file} does not exist: save the model with "
            "transformers' save_pretrained, which writes safetensors."
        )
    return f"{directory / file} does not exist: copy the model directory again."


def _check(tensors: dict[str, Any], shapes: nnx.State, config: ModelConfig, directory: str | os.PathLike[str]) -> None:
    for name, tensor in tensors.items():
        if tensor.get_dtype() not in READABLE_DTYPES and IGNORED not in name:
            raise ModelError(
                f"{directory}: tensor {name!r} has dtype {tensor.get_dtype()}, so the weights are "
                "quantised or packed: give the model in float32, bfloat16 or float16."
            )
    expected = tensor_shapes(shapes)
    if config.tie_word_embeddings:  # a tied head may be absent
        del expected["lm_head.weight"]
    for name, shape in expected.items():
        if name not in tensors:
            raise ModelError(f"{directory} has no tensor {name!r}, which its config.json requires.")
        found = tuple(tensors[name].get_shape())
        if found != shape:
            raise ModelError(f"{directory}: tensor {name!r} has shape {found}, its config.json requires {shape}.")
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()  # this tensor is optional
    for name in sorted(tensors.keys() - expected.keys() - tied):
        if IGNORED not in name:
            raise ModelError(f"{directory} has a tensor {name!r} that a {config.family} decoder does not use.")
    if (
        config.tie_word_embeddings
        and "lm_head.weight" in tensors
        and not _equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    ):  # transformers would use this head
        raise ModelError(
            f"{directory} has a 'lm_head.weight' that differs from its embedding: set tie_word_embeddings to false."
        )


def _equal(a: Any, b: Any, rows: int = 4096) -> bool:
    """Tells whether two lazily read matrices are equal; reads a few rows at a time."""
    size = a.get_shape()[0]
    parts = [slice(i, min(i + rows, size)) for i in range(0, size, rows)]
    return a.get_shape() == b.get_shape() and all(np.array_equal(a[part], b[part], equal_nan=True) for part in parts)


def _read_slice(tensors: dict[str, Any], path: str, index: tuple[slice, ...], shape: Sequence[int]) -> np.ndarray:
    """Reads the slice `index` of a parameter, layer by layer, as float32."""
    hf_name, transposed = next((name, t) for name, p, t in TABLE if p == path)

    def one(name: str, at: tuple[slice, ...]) -> np.ndarray:
        at = at[::-1] if transposed else at
        value = np.asarray(tensors[name][at], np.float32)
        if not np.isfinite(value).all():
            raise ModelError(
                f"tensor {name!r} of the weights contains {value[~np.isfinite(value)][0]}: copy the model "
                "again, or give weights from before the training diverged."
            )
        return value.T if transposed else value

    if "{}" not in hf_name:
        return one(hf_name, index)
    layers = range(*index[0].indices(shape[0]))
    first = one(hf_name.format(layers[0]), index[1:])
    out = np.empty((len(layers), *first.shape), np.float32)
    out[0] = first
    for i, layer in enumerate(layers[1:], 1):
        out[i] = one(hf_name.format(layer), index[1:])
    return out


def _write_files(
    directory: pathlib.Path, shards: dict, read: Callable[[str], jax.Array], dtype: np.dtype, metadata: dict[str, str]
) -> dict[str, dict]:
    """Writes all tensors at their final offsets, WRITERS at a time. Returns the `tensors` of `save`."""
    descriptors, tensors = {}, {}
    slots = threading.Semaphore(2 * WRITERS)  # limits the copies of tensors in memory
    with contextlib.ExitStack() as stack:
        for file, shapes in shards.items():
            handle = stack.enter_context(open(directory / file, "wb"))
            header, ends = _header(shapes, dtype, metadata)
            handle.write(header)
            handle.flush()
            descriptors[file] = handle.fileno()
            for (name, shape), end in zip(shapes.items(), ends):
                offset = len(header) + end - math.prod(shape) * dtype.itemsize
                tensors[name] = {"file": file, "offset": offset, "dtype": dtype.name, "shape": list(shape)}
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(WRITERS))

        def write(name: str, value: jax.Array) -> None:
            try:
                data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
                _write_at(descriptors[tensors[name]["file"]], tensors[name]["offset"], data)
                tensors[name]["xxh3_64"] = xxhash.xxh3_64_hexdigest(data.data)
            finally:
                slots.release()

        # The gathers run in this thread, because several processes must make them in the same order.
        writes = []
        for name in tensors:
            slots.acquire()
            writes.append(pool.submit(write, name, read(name)))
        for done in writes:
            done.result()
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(math.prod(t["shape"]) for t in tensors.values()) * dtype.itemsize},
            "weight_map": {name: entry["file"] for name, entry in tensors.items()},
        }
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return tensors


def _plan_shards(shapes: dict, itemsize: int) -> dict[str, dict]:
    """File -> {name: shape}. A file has at most SHARD_BYTES; a larger tensor has its own file."""
    shards, size = [{}], 0
    for name, shape in shapes.items():
        num_bytes = math.prod(shape) * itemsize
        if shards[-1] and size + num_bytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += num_bytes
    if len(shards) == 1:
        return {WEIGHTS: shards[0]}
    return {f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards)}


def _header(shapes: dict, dtype: np.dtype, metadata: dict[str, str]) -> tuple[bytes, list[int]]:
    """(header of a safetensors file, end of each tensor in bytes after the header)."""
    entries: dict[str, dict] = {"__metadata__": {"format": "pt", **metadata}}
    ends, end = [], 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": SAFETENSORS_DTYPES[dtype.name], "shape": shape, "data_offsets": [start, end]}
        ends.append(end)
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, ends


def _write_at(descriptor: int, offset: int, data: np.ndarray) -> None:
    while len(data):
        written = os.pwrite(descriptor, data.data, offset)
        offset, data = offset + written, data[written:]
