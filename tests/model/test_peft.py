"""PEFT directories: the package `peft` computes the same from ours, we compute the same from its, and wrong ones."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from tiny_models import FAMILIES, hf_logits, max_difference, random_batch, save_model

from srt_jax.errors import ModelError
from srt_jax.model import lora, peft, weights
from srt_jax.model.lora import LoRA
from tests.tiny_decoder import flat, mesh_of

SETTINGS = LoRA(4, 6.0, rslora=True, targets=("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"))


def random_adapters(directory, settings=SETTINGS, seed=0):
    """(graphdef, base, random adapters) of the base in a directory."""
    graphdef, params, _ = weights.load(directory)
    graphdef, shapes = lora.attach(graphdef, params, settings)
    rng = np.random.default_rng(seed)
    return graphdef, params, weights.map_with_path(lambda _, x: 0.2 * rng.standard_normal(x.shape, np.float32), shapes)


def our_logits(graphdef, params, tokens):
    model = nnx.merge(graphdef, params)
    return np.asarray(jax.jit(lambda: model.logits(model(tokens)))())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_package_peft_and_this_one_read_each_other(family, tmp_path):
    theirs = pytest.importorskip("peft", reason="the package peft is not installed: it writes and reads these files")
    model = save_model(tmp_path / "base", family)
    tokens, lengths = random_batch(97, (20, 7), seed=1)
    graphdef, params, adapters = random_adapters(tmp_path / "base")
    before = hf_logits(model, tokens, lengths)
    # Ours, read by peft.
    peft.write_adapter(tmp_path / "ours", adapters, SETTINGS, str(tmp_path / "base"))
    read = theirs.PeftModel.from_pretrained(model, tmp_path / "ours").eval()
    expected = hf_logits(read, tokens, lengths)
    assert max_difference(before, expected, lengths) > 0.05
    assert max_difference(our_logits(graphdef, lora.join(adapters, params), tokens), expected, lengths) <= 1e-5
    # Theirs, read by us. Their own initial B is 0, so the numbers are set.
    model = save_model(tmp_path / "base", family)
    settings = theirs.LoraConfig(r=3, lora_alpha=5, target_modules=["k_proj", "up_proj"], task_type="CAUSAL_LM")
    written = theirs.get_peft_model(model, settings)
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, parameter in written.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    written.save_pretrained(tmp_path / "theirs")
    adapter = peft.read_adapter(tmp_path / "theirs")
    assert adapter.settings == LoRA(3, 5.0, False, ("k_proj", "up_proj"))
    graphdef, shapes = lora.attach(*weights.load(tmp_path / "base")[:2], adapter.settings)
    peft.check_base(adapter, "theirs", shapes, str(tmp_path / "base"), "")
    adapters = peft.place(adapter, shapes, mesh_of())
    found = our_logits(graphdef, lora.join(adapters, params), tokens)
    assert max_difference(found, hf_logits(written.eval(), tokens, lengths), lengths) <= 1e-5
    assert max_difference(found, before, lengths) > 0.05


def test_an_adapter_is_read_as_it_was_written_from_any_mesh(tmp_path):
    save_model(tmp_path / "base", "qwen2")
    _, _, adapters = random_adapters(tmp_path / "base")
    seen = []
    placed = jax.tree.map(
        lambda x: x, peft.place(peft.Adapter(SETTINGS, "", "", flat(adapters)), adapters, mesh_of(1, 2, 2))
    )
    size = peft.write_adapter(
        tmp_path / "a", placed, SETTINGS, "Qwen/base", "mark", lambda folder, tensors: seen.append((folder, tensors))
    )
    found = peft.read_adapter(tmp_path / "a")
    assert (found.settings, found.base_id, found.base_fingerprint) == (SETTINGS, "Qwen/base", "mark")
    assert {path: x.tobytes() for path, x in found.tensors.items()} == {
        p: x.tobytes() for p, x in flat(adapters).items()
    }
    assert size == sum(f.stat().st_size for f in (tmp_path / "a").iterdir())
    assert [f.name for f in sorted((tmp_path / "a").iterdir())] == [peft.CONFIG, peft.WEIGHTS]
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert load_file(tmp_path / "a" / peft.WEIGHTS)[name].shape == (4, 64)
    assert seen[0][1][name]["shape"] == [4, 64] and len(seen[0][1]) == 2 * 5 * 3
    assert peft.fingerprint(found) == peft.fingerprint(peft.read_adapter(tmp_path / "a"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a base and an adapter of it."""
    folder = tmp_path_factory.mktemp("peft")
    save_model(folder / "base", "qwen3")
    _, _, adapters = random_adapters(folder / "base")
    peft.write_adapter(folder / "adapter", adapters, SETTINGS, "Qwen/Base", "mark")
    return folder, adapters


def copy_of(written, tmp_path, change_config=None, change_tensors=None):
    source = written[0] / "adapter"
    config, tensors = json.loads((source / peft.CONFIG).read_text()), load_file(source / peft.WEIGHTS)
    (change_config or (lambda _: None))(config)
    (change_tensors or (lambda _: None))(tensors)
    (tmp_path / peft.CONFIG).write_text(json.dumps(config))
    save_file(tensors, tmp_path / peft.WEIGHTS)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3': only plain LoRA"),
        ({"use_dora": True}, "use_dora=True: only plain LoRA"),
        ({"bias": "all"}, "bias='all': only plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save="),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern="),
        ({"r": 0}, "r=0: it must be a whole number from 1"),
        ({"r": "x"}, "r='x': it must be a whole number"),
        ({"lora_alpha": None}, "lora_alpha=None: it must be a positive number"),
        (
            {"target_modules": ["q_proj", "lm_head"]},
            r"target_modules=\['q_proj', 'lm_head'\]: this decoder can adapt q_proj",
        ),
        ({"target_modules": "all-linear"}, "target_modules='all-linear': this decoder can adapt"),
        ({"r": 5}, r"has no tensor '.*lora_A\.weight' of rank 5 for each layer"),
        ({"target_modules": ["q_proj", "k_proj"]}, r"has no tensor '.*k_proj\.lora_A\.weight' of rank 4"),
        ({"target_modules": ["q_proj"]}, r"has a tensor '.*' that a linear layer's adapter does not use"),
    ],
)
def test_another_kind_of_adapter_is_refused(change, message, written, tmp_path):
    with pytest.raises(ModelError, match=message):
        peft.read_adapter(copy_of(written, tmp_path, lambda config: config.update(change)))


def test_a_damaged_adapter_is_refused(written, tmp_path):
    with pytest.raises(ModelError, match=r"adapter_config\.json does not exist: model\.lora\.path must be"):
        peft.read_adapter(tmp_path)
    folder = copy_of(written, tmp_path, None, lambda tensors: next(iter(tensors.values())).fill(np.nan))
    with pytest.raises(ModelError, match="numbers that are not finite"):
        peft.read_adapter(folder)
    data = (folder / peft.WEIGHTS).read_bytes()
    (folder / peft.WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is damaged"):
        peft.read_adapter(folder)
    (folder / peft.WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors does not exist"):
        peft.read_adapter(folder)
    (folder / peft.CONFIG).write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json is not valid JSON"):
        peft.read_adapter(folder)


def test_an_adapter_of_another_base_is_refused_with_both_names(written, tmp_path):
    folder, adapters = written
    adapter = peft.read_adapter(folder / "adapter")
    peft.check_base(adapter, "a", adapters, "/models/renamed", "mark")
    with pytest.raises(
        ModelError, match=r"a belongs to the base 'Qwen/Base', but model\.path is 'B', which has other wei"
    ):
        peft.check_base(adapter, "a", adapters, "B", "other mark")
    unmarked = peft.read_adapter(copy_of(written, tmp_path))  # written without our mark, like peft's own
    peft.check_base(unmarked, "a", adapters, "/models/base/", "any")
    with pytest.raises(
        ModelError, match=r"'Qwen/Base', but model\.path is 'Qwen/Other', .* or correct base_model_name_or_p"
    ):
        peft.check_base(unmarked, "a", adapters, "Qwen/Other", "any")
    save_model(tmp_path / "wider", "qwen3", hidden_size=64)
    _, shapes = lora.attach(*weights.load(tmp_path / "wider")[:2], SETTINGS)
    with pytest.raises(ModelError, match=r"model.path is 'Base', whose layers\.\w+\.lora_\w has the shape"):
        peft.check_base(adapter, "a", shapes, "Base", "mark")
