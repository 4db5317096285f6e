"""Hugging Face directories <-> parameters. One table of names serves import and export.

Import reads only the slices each process holds, one parameter at a time; export writes shard by shard. Neither ever
holds a second full copy of the model in host memory.
"""
import contextlib
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from srt_jax.model import decoder
from srt_jax.model.config import ModelConfig, ModelError, read_hf_config

# (Hugging Face name, our path, transposed); "{}" is the layer. Linear weights are [out, in] there and [in, out] here.
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
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                   "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "generation_config.json")
SHARD_BYTES = 2 << 30


def load(directory, dtype=jnp.float32, remat: bool = False, sharding_of=None):
    """Reads a Hugging Face directory: (graphdef, float32 parameters, ModelConfig).

    sharding_of(path, shape) -> jax.sharding.Sharding places each parameter; default: the first device.
    Raises ModelError that names the tensor for one that is missing, unknown or of the wrong shape, before any is read.
    """
    directory = pathlib.Path(directory)
    config = ModelConfig.from_hf(read_hf_config(directory))
    graphdef, shapes = decoder.abstract(config, dtype, remat)
    on_first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with contextlib.ExitStack() as stack:
        tensors = _open(directory, stack)
        _check(tensors, shapes, config, directory)

        def read(path, shape):
            sharding = sharding_of(path, shape.shape) if sharding_of else on_first
            read_already = {}  # devices that hold the same slice share one copy of it on the host

            def read_once(index):
                key = str(index)
                if key not in read_already:
                    read_already[key] = _read_slice(tensors, path, index, shape.shape)
                return read_already[key]

            return jax.make_array_from_callback(shape.shape, sharding, read_once)

        params = map_with_path(read, shapes)
    return graphdef, params, config


def check(directory) -> None:
    """Raises ModelError unless the weight files hold just the tensors that config.json calls for."""
    directory = pathlib.Path(directory)
    config = ModelConfig.from_hf(read_hf_config(directory))
    with contextlib.ExitStack() as stack:
        _check(_open(directory, stack), decoder.abstract(config)[1], config, directory)


def save(directory, params, hf_config: dict, dtype=jnp.bfloat16, tokenizer_from=None,
         extra: dict[str, str] | None = None) -> int:
    """Writes an ordinary Hugging Face directory, under a temporary name until it is complete. Returns its bytes.

    The head is always written, even when tied: vLLM's CPU build keeps a stale one otherwise. `tokenizer_from` is a
    directory whose tokenizer and generation config are copied along, `extra` more text files by name.
    Raises OSError where the disk is full.
    """
    directory = pathlib.Path(directory)
    partial = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        names = list(tensor_names(params))
        _write_shards(partial, ((name, read_tensor(params, name, dtype)) for name in names))
        config = {**hf_config, "dtype": jnp.dtype(dtype).name}
        config.pop("torch_dtype", None)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name, text in (extra or {}).items():
            (partial / name).write_text(text)
        for name in TOKENIZER_FILES if tokenizer_from else ():
            if (pathlib.Path(tokenizer_from) / name).exists():
                shutil.copy(pathlib.Path(tokenizer_from) / name, partial / name)
        replace_directory(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sum(f.stat().st_size for f in directory.iterdir())


def tensor_names(params):
    """The Hugging Face names of an export, in the order of the layers."""
    flat = dict(flat_paths(params))
    yield "model.embed_tokens.weight"
    for layer in range(flat["layers.q.kernel"].shape[0]):
        yield from (name.format(layer) for name, path, _ in TABLE if "{}" in name and path in flat)
    yield "model.norm.weight"
    yield "lm_head.weight"


def read_tensor(params, name: str, dtype) -> np.ndarray:
    """One tensor of an export, as Hugging Face stores it, on the host."""
    layer, path, transposed = locate(name)
    flat = dict(flat_paths(params))
    value = flat[path] if path in flat else flat["embedding"]  # a tied head
    value = (value if layer is None else value[layer]).astype(dtype)
    return np.asarray(value.T if transposed else value, order="C")


def locate(name: str):
    """Hugging Face name -> (layer or None, our path, transposed). Raises KeyError for a name the table lacks."""
    parts = name.split(".")
    layer = int(parts[2]) if name.startswith("model.layers.") else None
    generic = ".".join([*parts[:2], "{}", *parts[3:]]) if layer is not None else name
    for hf_name, path, transposed in TABLE:
        if hf_name == generic:
            return layer, path, transposed
    raise KeyError(name)


def flat_paths(tree):
    """(dotted path, leaf) of every parameter."""
    pure = nnx.to_pure_dict(tree) if isinstance(tree, nnx.State) else tree
    for path, leaf in jax.tree_util.tree_leaves_with_path(pure):
        yield ".".join(str(p.key) for p in path), leaf


def map_with_path(function, tree: nnx.State) -> nnx.State:
    """function(dotted path, leaf) over the parameters."""
    pure = jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(".".join(str(p.key) for p in path), leaf), nnx.to_pure_dict(tree))
    result = jax.tree.map(lambda x: x, tree)
    nnx.replace_by_pure_dict(result, pure)
    return result


def replace_directory(partial: pathlib.Path, final: pathlib.Path) -> None:
    """Gives a complete, flushed directory its final name; one that stood there gives way only now."""
    for file in partial.iterdir():
        file.chmod(0o644)  # safetensors creates files that only their owner may read
        with open(file, "rb") as f:
            os.fsync(f.fileno())
    old = final.with_name(f".{final.name}.old-{os.getpid()}")
    if final.exists():
        final.rename(old)
    try:
        partial.rename(final)
    except OSError:
        if old.exists():
            old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _open(directory: pathlib.Path, stack) -> dict:
    """Name -> lazily read slice, over one or several safetensors files."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        try:
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ModelError(f"{index} is damaged: copy it again.") from None
    else:
        files = ["model.safetensors"]
    tensors = {}
    for file in files:
        try:
            handle = stack.enter_context(safe_open(directory / file, framework="numpy"))
        except FileNotFoundError:
            raise ModelError(f"{directory / file} does not exist: copy the model directory again.") from None
        except SafetensorError as e:
            raise ModelError(f"{directory / file} is damaged ({e}): copy it again.") from None
        names = handle.keys()
        tensors.update({name: handle.get_slice(name) for name in names})
    return tensors


def _check(tensors, shapes, config: ModelConfig, directory) -> None:
    expected = {}
    for name in tensor_names(shapes):
        layer, path, transposed = locate(name)
        leaf = dict(flat_paths(shapes)).get(path)
        if leaf is None:  # a tied head may be absent
            continue
        shape = leaf.shape if layer is None else leaf.shape[1:]
        expected[name] = shape[::-1] if transposed else shape
    for name, shape in expected.items():
        if name not in tensors:
            raise ModelError(f"{directory} has no tensor {name!r}, which its config.json calls for.")
        found = tuple(tensors[name].get_shape())
        if found != shape:
            raise ModelError(f"{directory}: tensor {name!r} has shape {found}, its config.json calls for {shape}.")
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()  # may be there, may be absent
    for name in sorted(tensors.keys() - expected.keys() - tied):
        if IGNORED not in name:
            raise ModelError(f"{directory} has a tensor {name!r} that a {config.family} decoder does not use.")
    if config.tie_word_embeddings and "lm_head.weight" in tensors and not _equal(
            tensors["lm_head.weight"], tensors["model.embed_tokens.weight"]):  # transformers would use it as it is
        raise ModelError(f"{directory} has a 'lm_head.weight' unlike its embedding: set tie_word_embeddings to false.")


def _equal(a, b, rows: int = 4096) -> bool:
    """Whether two lazily read matrices hold the same numbers, a few rows at a time."""
    size = a.get_shape()[0]
    return a.get_shape() == b.get_shape() and all(
        np.array_equal(a[i:min(i + rows, size)], b[i:min(i + rows, size)]) for i in range(0, size, rows))


def _read_slice(tensors, path: str, index, shape) -> np.ndarray:
    """The slice `index` of a parameter, float32, layer by layer."""
    hf_name, transposed = next((name, t) for name, p, t in TABLE if p == path)

    def one(name, at):
        at = at[::-1] if transposed else at
        value = np.asarray(tensors[name][at], np.float32)
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


def _write_shards(directory: pathlib.Path, named_tensors) -> None:
    shards, current, size = [], {}, 0
    weight_map, total = {}, 0

    def flush():
        nonlocal current, size
        shards.append(f"model-{len(shards) + 1:05d}.safetensors")
        save_file(current, directory / shards[-1], metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(current, shards[-1]))
        current, size = {}, 0

    for name, tensor in named_tensors:
        if current and size + tensor.nbytes > SHARD_BYTES:
            flush()
        current[name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
    flush()
    if len(shards) == 1:
        (directory / shards[0]).rename(directory / "model.safetensors")
        return
    names = {old: f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i, old in enumerate(shards)}
    for old, new in names.items():
        (directory / old).rename(directory / new)
    index = {"metadata": {"total_size": total}, "weight_map": {k: names[v] for k, v in weight_map.items()}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
