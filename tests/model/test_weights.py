"""Hugging Face directories in and out: round trips, shards, placement on a mesh, bad input, failing disks."""

import json
import os
import pathlib
import stat
import subprocess
import sys
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file as save_torch_file
from tiny_models import hf_logits, random_batch, save_model
from transformers import AutoModelForCausalLM

from srt_jax.errors import ModelError
from srt_jax.model import weights
from srt_jax.model.config import read_hf_config

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
MODELS = {
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "llama": ("llama", {}),
    "tied": ("qwen3", {"tie_word_embeddings": True}),
}


def parameters(directory):
    _, params, _ = weights.load(directory)
    return {path: np.asarray(leaf) for path, leaf in weights.flat_paths(params)}


def assert_equal(a: dict, b: dict):
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


def contents(directory):
    """The bytes of every file below a directory."""
    directory = pathlib.Path(directory)
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def export(source, target, dtype=np.float32, **more):
    _, params, _ = weights.load(source)
    return weights.save(target, params, read_hf_config(source), dtype, **more)


def reload(directory, dtype=torch.float32):
    """(model, the problems that transformers reports)."""
    model, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    return model, {k: v for k, v in report.items() if v}


# ---- round trips


@pytest.mark.parametrize("name", MODELS)
def test_transformers_reloads_an_export_with_identical_logits(name, tmp_path):
    family, changes = MODELS[name]
    original = save_model(tmp_path / "hf", family, **changes)
    size = export(tmp_path / "hf", tmp_path / "ours")
    assert size == sum(p.stat().st_size for p in (tmp_path / "ours").iterdir())

    again, complaints = reload(tmp_path / "ours")
    assert not complaints
    tokens, lengths = random_batch(original.config.vocab_size, (20, 9))
    np.testing.assert_array_equal(hf_logits(again, tokens, lengths), hf_logits(original, tokens, lengths))
    assert_equal(parameters(tmp_path / "ours"), parameters(tmp_path / "hf"))
    assert again.config.tie_word_embeddings == original.config.tie_word_embeddings == (name == "tied")


def test_a_tied_model_is_exported_with_an_explicit_head(tmp_path):
    save_model(tmp_path / "hf", "qwen2", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tmp_path / "hf" / FILE)
    export(tmp_path / "hf", tmp_path / "ours")
    tensors = load_file(tmp_path / "ours" / FILE)
    np.testing.assert_array_equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    model, _ = reload(tmp_path / "ours")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert_equal(parameters(tmp_path / "ours"), parameters(tmp_path / "hf"))


@pytest.mark.parametrize("name", MODELS)
def test_a_bfloat16_export_is_rounded_as_torch_rounds_and_then_stable(name, tmp_path):
    family, changes = MODELS[name]
    original = save_model(tmp_path / "hf", family, **changes)
    export(tmp_path / "hf", tmp_path / "ours", "bfloat16")
    written = load_torch_file(tmp_path / "ours" / FILE)
    want = {k: v.to(torch.bfloat16) for k, v in original.state_dict().items()}
    assert written.keys() == want.keys()
    for key, value in written.items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, want[key]), key

    model, complaints = reload(tmp_path / "ours", "auto")
    assert model.dtype == torch.bfloat16 and not complaints
    config = read_hf_config(tmp_path / "ours")
    assert config["dtype"] == "bfloat16" and "torch_dtype" not in config
    export(tmp_path / "ours", tmp_path / "again", "bfloat16")
    assert contents(tmp_path / "again") == contents(tmp_path / "ours")


def test_the_hub_spelling_of_the_dtype_does_not_survive_an_export(tmp_path):
    save_model(tmp_path / "hf", "qwen3")
    _, params, _ = weights.load(tmp_path / "hf")
    config = {**read_hf_config(tmp_path / "hf"), "torch_dtype": "float16"}
    weights.save(tmp_path / "ours", params, config, "bfloat16")
    assert "torch_dtype" not in read_hf_config(tmp_path / "ours")
    assert config["torch_dtype"] == "float16"  # the caller's is left alone


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints_are_read_exactly(dtype, tmp_path):
    model = save_model(tmp_path / "full", "qwen2").to(dtype)
    model.save_pretrained(tmp_path / "half")
    model.float().save_pretrained(tmp_path / "full")
    assert_equal(parameters(tmp_path / "half"), parameters(tmp_path / "full"))


def test_tokenizer_and_generation_config_travel_with_an_export(tmp_path):
    save_model(tmp_path / "hf", "qwen2")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "notes.txt"):
        (tmp_path / "hf" / file).write_text(file)
    export(tmp_path / "hf", tmp_path / "with", tokenizer_from=tmp_path / "hf")
    assert set(contents(tmp_path / "with")) == {
        FILE,
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert (tmp_path / "with" / "tokenizer.json").read_text() == "tokenizer.json"
    export(tmp_path / "hf", tmp_path / "own", tokenizer_from=tmp_path / "hf", extra={"generation_config.json": "{}"})
    assert (tmp_path / "own" / "generation_config.json").read_text() == "{}"
    export(tmp_path / "hf", tmp_path / "without")
    assert set(contents(tmp_path / "without")) == {FILE, "config.json"}


def test_other_users_may_read_an_export(tmp_path):
    save_model(tmp_path / "hf", "qwen2")
    export(tmp_path / "hf", tmp_path / "ours")
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "ours").iterdir()} == {0o644}


# ---- shards


def test_shards_of_transformers_are_read(tmp_path):
    model = save_model(tmp_path / "one", "llama")
    model.save_pretrained(tmp_path / "many", max_shard_size="40KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 4
    assert_equal(parameters(tmp_path / "many"), parameters(tmp_path / "one"))


def test_shards_are_written_as_transformers_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SHARD_BYTES", 40_000)
    original = save_model(tmp_path / "hf", "qwen3", tie_word_embeddings=True)
    export(tmp_path / "hf", tmp_path / "ours")
    files = sorted((tmp_path / "ours").glob("*.safetensors"))
    assert len(files) > 4
    assert [f.name for f in files] == [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    index = json.loads((tmp_path / "ours" / INDEX).read_text())
    total = 0
    for file in files:
        tensors = load_file(file)
        assert {index["weight_map"].pop(name) for name in tensors} == {file.name}
        with safe_open(file, framework="numpy") as f:
            assert f.metadata() == {"format": "pt"}  # readers older than transformers 5 insist on it
        size = sum(t.nbytes for t in tensors.values())
        assert size <= 40_000
        total += size
    assert not index["weight_map"]
    assert index["metadata"]["total_size"] == total

    again, complaints = reload(tmp_path / "ours")
    assert not complaints
    tokens, lengths = random_batch(original.config.vocab_size, (20,))
    np.testing.assert_array_equal(hf_logits(again, tokens, lengths), hf_logits(original, tokens, lengths))
    assert_equal(parameters(tmp_path / "ours"), parameters(tmp_path / "hf"))


def test_a_tensor_larger_than_a_shard_has_a_shard_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SHARD_BYTES", 1)
    save_model(tmp_path / "hf", "qwen3")
    export(tmp_path / "hf", tmp_path / "ours")
    assert all(len(load_file(f)) == 1 for f in (tmp_path / "ours").glob("*.safetensors"))
    assert_equal(parameters(tmp_path / "ours"), parameters(tmp_path / "hf"))


@pytest.fixture
def larger_directory(tmp_path):
    save_model(tmp_path / "hf", "qwen2", num_hidden_layers=8, hidden_size=128, intermediate_size=256, vocab_size=499)
    return tmp_path / "hf"


def test_loading_never_holds_a_second_copy_of_the_model(larger_directory):
    """tracemalloc counts allocations of NumPy and Python, which include slices and conversions."""
    weights.load(larger_directory)  # imports and caches
    tracemalloc.start()
    try:
        weights.load(larger_directory)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * (larger_directory / FILE).stat().st_size  # the parameters themselves may be numpy's


def test_saving_never_holds_more_than_a_few_tensors(larger_directory, tmp_path, monkeypatch):
    held, peak, largest = 0, 0, 0
    read_tensor = weights.read_tensor

    def release(size):
        nonlocal held
        held -= size

    def counted(*args):
        nonlocal held, peak, largest
        tensor = read_tensor(*args)
        held += tensor.nbytes
        peak, largest = max(peak, held), max(largest, tensor.nbytes)
        weakref.finalize(tensor, release, tensor.nbytes)
        return tensor

    monkeypatch.setattr(weights, "read_tensor", counted)
    monkeypatch.setattr(weights, "SHARD_BYTES", 2**19)
    monkeypatch.setattr(weights, "WRITERS", 1)
    size = export(larger_directory, tmp_path / "ours")
    assert 0 < peak <= 3 * largest < size / 4


# ---- placement

PLACED = """
import json, sys
import jax, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from srt_jax.model import weights
from srt_jax.model.config import read_hf_config

source, target = sys.argv[1:]
devices = np.asarray(jax.devices())
assert devices.size == 8
_, params, _ = weights.load(source)
want = {path: np.asarray(leaf) for path, leaf in weights.flat_paths(params)}
reads = []
read_slice = weights._read_slice
weights._read_slice = lambda tensors, path, *rest: (reads.append(path), read_slice(tensors, path, *rest))[1]

def spec_rows(shape): return P(*(["fsdp", "tensor"] + [None] * 9)[:len(shape)])
def spec_last(shape): return P(*[None] * (len(shape) - 1), ("fsdp", "tensor"))
def spec_both(shape): return P(*[None] * (len(shape) - 2), *["tensor", "fsdp"][-len(shape):])
def spec_layers(shape): return P("tensor") if len(shape) > 1 else P()
def spec_nowhere(shape): return P()

for fsdp, tensor in ((4, 2), (2, 4), (2, 2)):  # the last leaves a third axis, over which everything is copied
    mesh = Mesh(devices.reshape(-1, fsdp, tensor), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    for spec in (spec_rows, spec_last, spec_both, spec_layers, spec_nowhere):
        def sharding_of(path, shape):
            fits = [axis if axis is None or size % np.prod([mesh.shape[a] for a in np.atleast_1d(axis)]) == 0 else None
                    for axis, size in zip(spec(shape), shape)]
            return NamedSharding(mesh, P(*fits))
        reads.clear()
        weights.sharding.parameter_sharding = lambda mesh, path, shape: sharding_of(path, shape)
        _, placed, _ = weights.load(source, mesh=mesh)
        slices = 0
        for path, leaf in weights.flat_paths(placed):
            assert leaf.sharding == sharding_of(path, leaf.shape), path
            np.testing.assert_array_equal(np.asarray(leaf), want[path], err_msg=path)
            for shard in leaf.addressable_shards:
                np.testing.assert_array_equal(np.asarray(shard.data), want[path][shard.index], err_msg=path)
            slices += len({str(shard.index) for shard in leaf.addressable_shards})
        assert len(reads) == slices, (len(reads), slices)  # no slice is read twice
    weights.save(target, placed, read_hf_config(source), "float32")
print("placed")
"""


def test_arrays_placed_on_a_mesh_equal_the_unplaced_ones_and_export_the_same_bytes(tmp_path):
    save_model(tmp_path / "hf", "llama", num_hidden_layers=4, vocab_size=96)
    export(tmp_path / "hf", tmp_path / "from_one_device")
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PLACED, tmp_path / "hf", tmp_path / "from_eight"],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=pathlib.Path(weights.__file__).parents[2],
    )
    assert done.stdout.strip() == "placed", done.stderr
    assert contents(tmp_path / "from_eight") == contents(tmp_path / "from_one_device")


# ---- bad input


@pytest.fixture
def model_directory(tmp_path):
    save_model(tmp_path / "hf", "qwen2")
    return tmp_path / "hf"


def refuse(directory, *words):
    """load() raises a ModelError of one sentence that contains these words."""
    with pytest.raises(ModelError) as error:
        weights.load(directory)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert message.endswith(".") and "\n" not in message


def rewrite(directory, change):
    tensors = load_file(directory / FILE)
    change(tensors)
    save_file(tensors, directory / FILE, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.self_attn.k_proj.bias",
        "model.layers.2.mlp.down_proj.weight",
        "model.norm.weight",
        "model.embed_tokens.weight",
        "lm_head.weight",
    ],
)
def test_a_missing_tensor_is_named(name, model_directory):
    rewrite(model_directory, lambda tensors: tensors.pop(name))
    refuse(model_directory, name, str(model_directory))


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.2.self_attn.q_proj.weight",
        "model.layers.0.input_layernorm.weight",
        "lm_head.weight",
        "model.layers.0.mlp.up_proj.weight",
    ],
)
def test_a_wrong_shape_is_named_with_both_shapes(name, model_directory):
    shape = load_file(model_directory / FILE)[name].shape
    wrong = (shape[0] + 1, *shape[1:])
    rewrite(model_directory, lambda tensors: tensors.update({name: np.zeros(wrong, np.float32)}))
    refuse(model_directory, name, str(wrong), str(shape))


def test_a_transposed_matrix_is_a_wrong_shape(model_directory):
    name = "model.layers.0.mlp.gate_proj.weight"
    rewrite(model_directory, lambda tensors: tensors.update({name: np.ascontiguousarray(tensors[name].T)}))
    refuse(model_directory, name)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.3.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "score.weight",
    ],
)
def test_an_unknown_tensor_is_named(name, model_directory):
    rewrite(model_directory, lambda tensors: tensors.update({name: np.zeros((2, 2), np.float32)}))
    refuse(model_directory, name)


def test_rotary_buffers_of_old_checkpoints_are_ignored(model_directory):
    before = parameters(model_directory)
    rewrite(
        model_directory,
        lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(8, np.float32)}),
    )
    assert_equal(parameters(model_directory), before)


def test_a_head_that_contradicts_its_tie_is_refused(tmp_path):
    """transformers 5 would use this head, and vLLM the embedding."""
    save_model(tmp_path / "hf", "qwen2", tie_word_embeddings=True)
    rewrite(tmp_path / "hf", lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}))
    weights.load(tmp_path / "hf")

    def disagree(tensors):
        tensors["lm_head.weight"][-1, -1] += 1

    rewrite(tmp_path / "hf", disagree)
    refuse(tmp_path / "hf", "lm_head.weight", "tie_word_embeddings")


@pytest.mark.parametrize("keep", [0, 5, 300, 0.5, 0.999])
def test_a_half_copied_file_is_named(keep, model_directory):
    file = model_directory / FILE
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    refuse(model_directory, FILE, "damaged")


@pytest.mark.parametrize("file", ["config.json", FILE])
def test_a_missing_file_is_named(file, model_directory):
    (model_directory / file).unlink()
    refuse(model_directory, file, "does not exist")


def test_a_missing_or_damaged_shard_is_named(tmp_path):
    save_model(tmp_path, "qwen2").save_pretrained(tmp_path / "hf", max_shard_size="40KB")
    files = sorted((tmp_path / "hf").glob("*.safetensors"))
    files[2].write_bytes(files[2].read_bytes()[:-1])
    refuse(tmp_path / "hf", files[2].name, "damaged")
    files[2].unlink()
    refuse(tmp_path / "hf", files[2].name, "does not exist")


@pytest.mark.parametrize("text", ["", '{"weight_map": {"model.no', "{}", "[]", '{"weight_map": null}'])
def test_a_damaged_index_is_named(text, model_directory):
    (model_directory / INDEX).write_text(text)
    refuse(model_directory, INDEX, "damaged")


def test_a_tensor_that_only_the_index_has_is_named(tmp_path):
    save_model(tmp_path, "qwen2").save_pretrained(tmp_path / "hf", max_shard_size="40KB")
    index = json.loads((tmp_path / "hf" / INDEX).read_text())
    name = "model.layers.1.mlp.up_proj.weight"
    file = tmp_path / "hf" / index["weight_map"][name]
    save_file({k: v for k, v in load_file(file).items() if k != name}, file, metadata={"format": "pt"})
    refuse(tmp_path / "hf", name)


def sharded(tmp_path):
    """A model in several files: (directory, index)."""
    save_model(tmp_path, "qwen2").save_pretrained(tmp_path / "hf", max_shard_size="40KB")
    return tmp_path / "hf", json.loads((tmp_path / "hf" / INDEX).read_text())


def test_an_index_decides_between_copies_of_a_tensor_and_unnamed_files_are_not_read(tmp_path):
    directory, index = sharded(tmp_path)
    before, name = parameters(directory), "model.layers.1.mlp.up_proj.weight"
    shape = load_file(directory / index["weight_map"][name])[name].shape
    for file in set(index["weight_map"].values()) - {index["weight_map"][name]}:  # before and after the right one
        save_file({**load_file(directory / file), name: np.full(shape, 7, np.float32)}, directory / file)
    save_file(
        {"model.norm.weight": np.zeros(1, np.float32), "unknown": np.zeros(1, np.int8)},
        directory / "model-00099-of-00099.safetensors",
    )
    (directory / "consolidated.safetensors").write_text("not read")
    assert_equal(parameters(directory), before)
    weights.check(directory)


def test_an_index_beside_a_single_file_that_it_does_not_name_is_refused(tmp_path):
    directory, index = sharded(tmp_path)
    save_file({"model.norm.weight": np.zeros(1, np.float32)}, directory / FILE)
    refuse(directory, FILE, INDEX, "remove one of the two")
    (directory / FILE).unlink()
    save_model(tmp_path / "single", "qwen2")
    before = parameters(tmp_path / "single")
    (tmp_path / "single" / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(index["weight_map"], FILE)}))
    assert_equal(parameters(tmp_path / "single"), before)


@pytest.mark.parametrize("file", [5, None, "../model.safetensors", "a/b.safetensors", "", ["x"]])
def test_an_index_must_name_files_of_its_folder(file, tmp_path):
    directory, index = sharded(tmp_path)
    index["weight_map"]["model.norm.weight"] = file
    (directory / INDEX).write_text(json.dumps(index))
    refuse(directory, INDEX, "weight_map")


def test_the_message_names_weights_in_another_format(model_directory):
    (model_directory / FILE).rename(model_directory / "pytorch_model.bin")
    refuse(model_directory, "pytorch_model.bin", FILE, "safetensors")


@pytest.mark.parametrize("dtype", ["I8", "U8", "I32", "I64", "BOOL", "F8_E4M3", "F8_E5M2"])
def test_packed_or_quantised_weights_are_refused_with_tensor_and_dtype(dtype, model_directory):
    name, size = "model.layers.1.mlp.down_proj.weight", {"I32": 4, "I64": 8}.get(dtype, 1)
    tensors = load_file(model_directory / FILE)
    shapes = {key: (dtype if key == name else "F32", value.shape) for key, value in tensors.items()}
    raw_safetensors(model_directory / FILE, shapes, lambda key, shape: size if key == name else 4)
    refuse(model_directory, name, dtype, "quantised")


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.qweight", "model.layers.0.mlp.up_proj.packed"])
def test_the_message_calls_packed_tensors_quantised(name, model_directory):
    rewrite(model_directory, lambda tensors: tensors.update({name: np.zeros((2, 2), np.int32)}))
    refuse(model_directory, name, "I32", "quantised")


def raw_safetensors(path, shapes, itemsize):
    """A safetensors file of zeros; {name: (dtype, shape)}: NumPy does not know all of its dtypes."""
    header, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + itemsize(name, shape) * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


@pytest.mark.parametrize("field", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("settings", [{"quant_method": "gptq", "bits": 4}, {"bits": 4}, "fp8"])
def test_a_config_of_quantised_weights_is_refused(field, settings, model_directory):
    config = read_hf_config(model_directory)
    (model_directory / "config.json").write_text(json.dumps({**config, field: settings}))
    refuse(model_directory, field, "quantised")


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.k_proj.bias",
        "model.layers.2.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ],
)
@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, torch.float32), (-np.inf, torch.bfloat16), (np.inf, torch.float16)]
)
def test_weights_that_are_not_finite_are_refused_with_the_tensor_named(name, value, dtype, model_directory):
    tensors = load_torch_file(model_directory / FILE)
    tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    tensors[name].view(-1)[-1] = value
    save_torch_file(tensors, model_directory / FILE)
    refuse(model_directory, name, str(value))


# ---- a disk that fails


def fail_on_call(monkeypatch, owner, name, number):
    """The `number`-th call of owner.name fails as on a full disk."""
    function, calls = getattr(owner, name), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise OSError(28, "No space left on device")
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)
    return calls


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (weights, "_write_at", 1),
        (weights, "_write_at", 30),
        (weights.pathlib.Path, "write_text", 1),
        (weights.os, "fsync", 2),
        (weights.shutil, "copy", 1),
        (weights.pathlib.Path, "rename", 1),
        (weights.pathlib.Path, "rename", -2),
        (weights.pathlib.Path, "rename", -1),
    ],
)
def test_a_failing_save_leaves_the_previous_directory_and_nothing_else(owner, name, number, tmp_path, monkeypatch):
    save_model(tmp_path / "hf", "qwen2")
    monkeypatch.setattr(weights, "SHARD_BYTES", 100_000)
    runs = tmp_path / "runs"
    export(tmp_path / "hf", runs / "final")
    if number < 0:  # counted from the end: the renames that give the directory its name
        with monkeypatch.context() as patch:
            calls = fail_on_call(patch, owner, name, 0)
            export(tmp_path / "hf", runs / "final")
        number += 1 + len(calls)
    before = contents(runs)
    _, params, _ = weights.load(tmp_path / "hf")
    config = {**read_hf_config(tmp_path / "hf"), "another": "one"}
    with monkeypatch.context() as patch:
        fail_on_call(patch, owner, name, number)
        with pytest.raises(OSError, match="No space left"):
            weights.save(runs / "final", params, config, np.float32, tokenizer_from=tmp_path / "hf")
    assert contents(runs) == before
    assert [p.name for p in runs.iterdir()] == ["final"]
    weights.save(runs / "final", params, config, np.float32)
    assert contents(runs) != before
    assert [p.name for p in runs.iterdir()] == ["final"]


def test_an_export_replaces_a_directory_as_a_whole(tmp_path, monkeypatch):
    save_model(tmp_path / "hf", "qwen2")
    with monkeypatch.context() as patch:
        patch.setattr(weights, "SHARD_BYTES", 40_000)
        export(tmp_path / "hf", tmp_path / "runs" / "final")
    export(tmp_path / "hf", tmp_path / "runs" / "final")
    assert set(contents(tmp_path / "runs")) == {f"final/{FILE}", "final/config.json"}
