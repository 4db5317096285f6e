"""Exports for rollout servers: complete or not there, and every kind of damage is noticed."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from srt_jax.errors import ExportError
from srt_jax.model import weights
from srt_jax.rollout.vllm import export as vllm_export
from tests.tiny_decoder import HF_CONFIG, decoder


def export(directory, step, dtype="float32", seed=0):
    params = jax.device_put(decoder(seed=seed)[1])
    return vllm_export.publish(params, step, directory, HF_CONFIG, dtype, None, "hash")


def flip(path, offset):
    """Changes one bit."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_holds_the_weights_and_its_manifest_tells_all_of_them(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SHARD_BYTES", 10_000)
    done = export(tmp_path, 7, dtype)
    assert done.path == tmp_path / "step_000007" and done.step == 7
    assert done.bytes == sum(f.stat().st_size for f in done.path.iterdir())
    manifest = vllm_export.verify(done.path)
    assert manifest["step"] == 7 and manifest["config_hash"] == "hash"
    files = sorted(done.path.glob("*.safetensors"))
    assert len(files) > 2
    written = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert written.keys() == manifest["tensors"].keys()
    params = decoder()[1]
    for name, tensor in written.items():
        want = np.asarray(weights.read_tensor(params, name, tensor.dtype))
        np.testing.assert_array_equal(tensor, want, err_msg=name)
        assert manifest["tensors"][name]["shape"] == list(tensor.shape)
        assert manifest["tensors"][name]["dtype"] == dtype == tensor.dtype.name
    np.testing.assert_array_equal(written["lm_head.weight"], written["model.embed_tokens.weight"])
    _, loaded, _ = weights.load(done.path)
    assert jax.tree.structure(loaded) == jax.tree.structure(jax.device_put(params))


def test_a_bit_changed_anywhere_in_any_file_is_noticed(tmp_path):
    path = export(tmp_path, 1).path
    (path / "model.safetensors").chmod(0o644)
    sizes = {file: file.stat().st_size for file in path.iterdir()}
    rng = np.random.default_rng(0)
    assert len(sizes) == 3
    for file, size in sizes.items():
        for offset in [0, size // 2, size - 2, *rng.integers(0, size, 40)]:
            before = file.read_bytes()
            flip(file, offset)
            try:
                manifest = vllm_export.verify(path)
            except ExportError as error:
                assert str(path) in str(error) and str(error).endswith(".") and "\n" not in str(error)
            else:  # white space of the manifest
                assert file.name == vllm_export.MANIFEST
                assert {**json.loads(before), "xxh3_64": 0} == {**manifest, "xxh3_64": 0}
            file.write_bytes(before)
    vllm_export.verify(path)


def test_a_file_cut_short_or_missing_is_named(tmp_path):
    path = export(tmp_path, 1).path
    file = path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    for check in (vllm_export.check_sizes, vllm_export.verify):
        with pytest.raises(ExportError, match=rf"model.safetensors has {len(whole) - 1} bytes, but its manifest"):
            check(path)
    file.unlink()
    with pytest.raises(ExportError, match=r"model.safetensors does not exist"):
        vllm_export.verify(path)
    file.write_bytes(whole)
    vllm_export.verify(path)
    (path / vllm_export.MANIFEST).unlink()
    with pytest.raises(ExportError, match="no complete export"):
        vllm_export.verify(path)


def test_two_tensors_that_change_places_are_noticed(tmp_path):
    path = export(tmp_path, 1).path
    file = path / "model.safetensors"
    text = file.read_bytes()
    a, b = b"layers.0.mlp.gate_proj", b"layers.1.mlp.gate_proj"
    file.write_bytes(text.replace(a, b"X" * len(a)).replace(b, a).replace(b"X" * len(a), b))
    assert vllm_export.check_sizes(path)
    with pytest.raises(ExportError, match=r"model.safetensors does not match the checksum in its manifest"):
        vllm_export.verify(path)


def test_a_label_names_the_step_and_the_weights(tmp_path):
    first, other_step, other_weights = export(tmp_path, 1), export(tmp_path, 2), export(tmp_path / "b", 1, seed=1)
    assert first.version.label.startswith("1-") and other_step.version.label.startswith("2-")
    assert first.version.label != other_weights.version.label
    assert first.tensors == other_step.tensors != other_weights.tensors


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"file does not take the weights of step 1 \(.+\): name another folder"):
        export(tmp_path / "file", 1)


def test_old_exports_go(tmp_path):
    for step in (1, 2, 3, 10):
        export(tmp_path, step)
    vllm_export.prune(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000003", "step_000010"]


def test_exports_of_a_cut_off_run_go(tmp_path):
    """Killed after step 3 and in the middle of the export of step 4, it resumes from its checkpoint of step 1."""
    for step in (1, 2, 3):
        export(tmp_path, step, seed=step)
    (tmp_path / ".step_000004.partial-99999999").mkdir()
    (tmp_path / ".step_000004.partial-99999999" / "model.safetensors").write_bytes(b"half")
    path = export(tmp_path, 1, seed=9).path
    assert [p.name for p in tmp_path.iterdir()] == ["step_000001"]
    _, params, _ = weights.load(path)
    np.testing.assert_array_equal(
        dict(weights.flat_paths(params))["embedding"], dict(weights.flat_paths(decoder(seed=9)[1]))["embedding"]
    )
