"""config.json -> ModelConfig: both spellings, errors that name the field, and the shipped configs."""

import json
import pathlib

import numpy as np
import pytest
from tiny_models import LLAMA3_ROPE, hf_config
from transformers import LlamaConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import srt_jax.model
from srt_jax.errors import ModelError, ModelNotHereError
from srt_jax.model.config import ModelConfig, inverse_frequencies, model_shape, read_hf_config

SHIPPED = sorted((pathlib.Path(srt_jax.model.__path__[0]) / "hf").glob("*.json"))
SHIPPED = {path.stem: path for path in SHIPPED if path.stem != "index"}

# Published parameter counts; a tied head counts once.
NUM_PARAMS = {
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen2.5-Math-1.5B": 1_543_714_304,
    "Qwen2.5-Math-7B": 7_615_616_512,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.2-1B": 1_235_814_400,
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "SmolLM2-1.7B": 1_711_376_384,
    "deepseek-math-7b": 6_910_365_696,
}


def config_dict(family, **changes):
    return {**hf_config(family).to_dict(), **changes}


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_both_spellings_give_the_same_config(family):
    new = config_dict(family)
    assert "rope_parameters" in new and "dtype" in new
    old = dict(new)
    rope = old.pop("rope_parameters")
    old["torch_dtype"] = old.pop("dtype")
    old["rope_theta"] = rope["rope_theta"]
    old["rope_scaling"] = None
    if family == "llama":
        old["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    assert ModelConfig.from_hf(old) == ModelConfig.from_hf(new)
    if family == "llama":  # older still
        old["rope_scaling"]["type"] = old["rope_scaling"].pop("rope_type")
        assert ModelConfig.from_hf(old) == ModelConfig.from_hf(new)
        assert ModelConfig.from_hf(new).rope_scaling is not None
    assert ModelConfig.from_hf(old).rope_theta == rope["rope_theta"]


@pytest.mark.parametrize("kind", [Qwen2Config, Qwen3Config, LlamaConfig])
def test_missing_fields_have_the_defaults_of_transformers(kind):
    required = {
        "model_type": kind.model_type,
        "vocab_size": 1000,
        "hidden_size": 2048,
        "intermediate_size": 300,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
    }
    assert ModelConfig.from_hf(required) == ModelConfig.from_hf(kind(**required).to_dict())


REFUSED = {
    "use_sliding_window": ("qwen2", {"use_sliding_window": True, "sliding_window": 128}),
    "layer_types": ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}),
    "hidden_act": ("llama", {"hidden_act": "gelu"}),
    "quantization_config": ("qwen2", {"quantization_config": {"quant_method": "fp8"}}),
    "num_experts": ("qwen3", {"num_experts": 8}),
    "model_type": ("qwen3", {"model_type": "qwen3_moe"}),
    "partial_rotary_factor": ("llama", {"partial_rotary_factor": 0.5}),
    "attention_dropout": ("llama", {"attention_dropout": 0.1}),
    "pretraining_tp": ("llama", {"pretraining_tp": 2}),
    "yarn": ("qwen3", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
    "linear": ("qwen2", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    "'factor'": ("llama", {"rope_parameters": {k: v for k, v in LLAMA3_ROPE.items() if k != "factor"}}),
    "num_key_value_heads": ("qwen3", {"num_key_value_heads": 3}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unsupported_feature_is_refused_by_name(name):
    family, changes = REFUSED[name]
    ModelConfig.from_hf(config_dict(family))
    with pytest.raises(ModelError, match=name) as error:
        ModelConfig.from_hf(config_dict(family, **changes))
    assert_one_sentence(error)


def test_partial_rotary_inside_rope_parameters_is_refused():
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
    with pytest.raises(ModelError, match=r"partial_rotary_factor=0\.25"):
        ModelConfig.from_hf(config_dict("qwen3", rope_parameters=rope))


def test_a_setting_that_is_off_is_not_refused():
    off = {
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "attention_dropout": 0.0,
        "rope_scaling": None,
        "quantization_config": None,
        "layer_types": ["full_attention"] * 2,
    }
    assert ModelConfig.from_hf(config_dict("qwen3", **off)) == ModelConfig.from_hf(config_dict("qwen3"))


@pytest.mark.parametrize(
    "field", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
)
def test_a_missing_field_is_named(field):
    fields = config_dict("qwen2")
    del fields[field]
    with pytest.raises(ModelError, match=field) as error:
        ModelConfig.from_hf(fields)
    assert_one_sentence(error)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "64"),
        ("hidden_size", 64.0),
        ("num_attention_heads", 0),
        ("num_hidden_layers", -1),
        ("num_key_value_heads", "2"),
        ("vocab_size", True),
        ("rms_norm_eps", "1e-6"),
        ("rms_norm_eps", -1e-6),
        ("head_dim", 15),
        ("rope_theta", "1e4"),
        ("rope_parameters", "llama3"),
        ("factor", "8"),
        ("rope_parameters", {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}),
    ],
)
def test_a_senseless_value_is_named(field, value):
    fields = config_dict("qwen3", **{field: value})
    if field == "rope_theta":
        del fields["rope_parameters"]
    if field == "factor":
        fields["rope_parameters"] = {**LLAMA3_ROPE, field: value}
    with pytest.raises(ModelError, match=field) as error:
        ModelConfig.from_hf(fields)
    assert_one_sentence(error)


@pytest.mark.parametrize("content", [None, b"", b'{"model_type": "qw', b"[1, 2]", b"\xff\xfe\x00"])
def test_an_unreadable_config_file_is_one_sentence(content, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json") as error:
        read_hf_config(tmp_path)
    assert_one_sentence(error)


def test_a_file_given_as_model_directory_is_one_sentence(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="must be a Hugging Face model directory"):
        read_hf_config(tmp_path / "model.safetensors")


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("kind", ["default", "llama3"])
def test_rotary_frequencies_equal_transformers_to_the_last_bit(kind, head_dim):
    rope = {"rope_type": kind, "rope_theta": 500000.0}
    if kind == "llama3":
        rope = {**LLAMA3_ROPE, **rope, "factor": 32.0, "original_max_position_embeddings": 8192}
    config = hf_config(
        "llama",
        hidden_size=8 * head_dim,
        num_attention_heads=8,
        head_dim=head_dim,
        max_position_embeddings=131072,
        rope_parameters=rope,
    )
    theirs = LlamaRotaryEmbedding(config).inv_freq.numpy()
    ours = inverse_frequencies(ModelConfig.from_hf(config.to_dict()))
    np.testing.assert_allclose(ours, theirs, rtol=1.2e-7)
    assert (ours != theirs).sum() <= 2  # the power is rounded by two libraries


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_is_read_and_has_the_published_number_of_parameters(name):
    ours = ModelConfig.from_hf(json.loads(SHIPPED[name].read_text()))
    base = name.removesuffix("-Base").removesuffix("-Instruct").removesuffix("-instruct")
    assert ours.num_params == NUM_PARAMS[base]


def test_the_shipped_configs_are_there():
    """Without this test the one above would pass on an empty folder."""
    assert len(SHIPPED) >= 20
    assert {"Qwen2.5-Math-7B", "Qwen3-0.6B-Base", "Llama-3.1-8B-Instruct"} <= set(SHIPPED)


def assert_one_sentence(error):
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message


def test_a_path_gives_a_shape_for_plans_dry_runs_and_benchmarks(tmp_path):
    config = config_dict("qwen3")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_shape(str(tmp_path)) == ModelConfig.from_hf(config)
    assert model_shape("Qwen/Qwen2.5-Math-7B") == model_shape("Qwen2.5-Math-7B")
    assert model_shape("Qwen2.5-Math-7B").num_params == 7_615_616_512
    for unknown in ("no/such-model", "someone/Qwen2.5-Math-7B", "/gone/Qwen2.5-Math-7B", "Qwen/index", "index"):
        with pytest.raises(ModelNotHereError, match=f"'{unknown}', whose shape is not known"):
            model_shape(unknown)
    with pytest.raises(ModelError, match=r"config\.json does not exist"):
        model_shape(str(tmp_path.parent))
