"""Compares the decoder with transformers on tiny random models of every family, each config field at two values."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from flax import nnx
from tiny_models import (
    LLAMA3_ROPE,
    hf_config,
    hf_logits,
    max_difference,
    our_logits,
    random_batch,
    random_model,
    real,
    save_model,
)
from transformers import AutoModelForCausalLM

from srt_jax.model import decoder, weights
from srt_jax.model.config import ModelConfig

TOLERANCE = 1e-5  # of logits whose standard deviation is 1

VARIANTS = {
    "qwen2-gqa": ("qwen2", {}),
    "qwen2-mha-tied": ("qwen2", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "qwen3-gqa": ("qwen3", {}),
    "qwen3-one-kv-head-bias": ("qwen3", {"num_key_value_heads": 1, "attention_bias": True}),
    "qwen3-mha-tied": ("qwen3", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama3-gqa-biases": ("llama", {}),
    "llama3-mha-tied": (
        "llama",
        {"num_key_value_heads": 4, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False},
    ),
    "llama2": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}, "mlp_bias": False}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers_on_a_right_padded_batch(variant, tmp_path):
    family, changes = VARIANTS[variant]
    model = save_model(tmp_path, family, **changes)
    tokens, lengths = random_batch(model.config.vocab_size, (96, 1, 41, 95), seed=1)
    theirs = hf_logits(model, tokens, lengths)
    assert 0.5 < real(theirs, lengths).std() < 2  # the tolerance means what it says
    assert max_difference(our_logits(tmp_path, tokens), theirs, lengths) <= TOLERANCE


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_logits_equal_transformers_at_long_positions(family, tmp_path):
    """A last-bit difference in a rotary frequency grows with the position. It is visible here, not in 96 tokens."""
    model = save_model(tmp_path, family)
    tokens, lengths = random_batch(model.config.vocab_size, (2048,))
    theirs = hf_logits(model, tokens, lengths)
    assert max_difference(our_logits(tmp_path, tokens), theirs, lengths) <= TOLERANCE


def test_scanned_layers_equal_transformers_too(tmp_path, monkeypatch):
    """Small models unroll their layers. Models of real size run them in a loop."""
    monkeypatch.setattr(decoder, "UNROLL_BELOW", 0)
    model = save_model(tmp_path, "llama", num_hidden_layers=3)
    tokens, lengths = random_batch(model.config.vocab_size, (53, 17))  # a shape of its own, so that it is compiled anew
    theirs = hf_logits(model, tokens, lengths)
    assert max_difference(our_logits(tmp_path, tokens), theirs, lengths) <= TOLERANCE


def test_padding_tokens_and_neighbours_change_nothing(tmp_path):
    model = save_model(tmp_path, "qwen3")
    tokens, lengths = random_batch(model.config.vocab_size, (30, 12, 21))
    other = np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, 0)
    other[2] = tokens[0]
    logits = our_logits(tmp_path, np.concatenate([tokens, other]))
    a, b = logits[:3], logits[3:]
    assert (a[0] == b[0]).all()
    assert (a[1, :12] == b[1, :12]).all()
    assert (a[1, 12:] != b[1, 12:]).any()  # the padding did differ


def llama_rope(**changes):
    return {"rope_parameters": {**LLAMA3_ROPE, **changes}}


PLAIN = {"hidden_size": 64, "num_hidden_layers": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 3000.0}}
BIAS_FREE = {"attention_bias": False, "mlp_bias": False}
# Every field of ModelConfig: two transformers configs that differ in it. The second model gets the first one's
# parameters wherever their shapes agree, so the outputs differ by the field's own doing.
FIELDS = {
    "family": (("llama", {**PLAIN, **BIAS_FREE}), ("qwen2", PLAIN)),
    "vocab_size": (("qwen2", {}), ("qwen2", {"vocab_size": 113})),
    "hidden_size": (("qwen2", {}), ("qwen2", {"hidden_size": 48})),
    "intermediate_size": (("llama", {}), ("llama", {"intermediate_size": 112})),
    "num_layers": (("qwen3", {}), ("qwen3", {"num_hidden_layers": 3})),
    "num_heads": (("llama", {}), ("llama", {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32})),
    "num_kv_heads": (("qwen3", {}), ("qwen3", {"num_key_value_heads": 4})),
    "head_dim": (("qwen3", {}), ("qwen3", {"head_dim": 28})),
    "rope_theta": (("qwen2", {}), ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 2000.0}})),
    "rope_scaling": (("llama", {}), ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}})),
    "rope_scaling.factor": (("llama", {}), ("llama", llama_rope(factor=2.0))),
    "rope_scaling.low_freq_factor": (("llama", {}), ("llama", llama_rope(low_freq_factor=2.0))),
    "rope_scaling.high_freq_factor": (("llama", {}), ("llama", llama_rope(high_freq_factor=2.0))),
    "rope_scaling.original_max_position_embeddings": (
        ("llama", {}),
        ("llama", llama_rope(original_max_position_embeddings=128)),
    ),
    "rms_norm_eps": (("qwen3", {}), ("qwen3", {"rms_norm_eps": 1e-2})),
    "tie_word_embeddings": (("qwen2", {}), ("qwen2", {"tie_word_embeddings": True})),
    "qkv_bias": (("qwen3", {"attention_bias": True}), ("qwen3", {})),
    "output_bias": (("llama", {"mlp_bias": False}), ("llama", BIAS_FREE)),
    "mlp_bias": (("llama", {}), ("llama", {"mlp_bias": False})),
    "qk_norm": (("qwen3", {**PLAIN, "head_dim": 16}), ("llama", {**PLAIN, **BIAS_FREE})),
}
# These two shape nothing in a forward pass: the longest sequence that is allowed, and the spread of fresh parameters.
NO_EFFECT_ON_LOADED_MODELS = {"max_position_embeddings", "initializer_range"}


def value_of(config: ModelConfig, field: str):
    for part in field.split("."):
        config = getattr(config, part)
    return config


def test_every_field_of_the_config_is_proven_below():
    proven = {field.split(".")[0] for field in FIELDS}
    assert proven | NO_EFFECT_ON_LOADED_MODELS == {f.name for f in dataclasses.fields(ModelConfig)}
    scaling = {field.split(".")[1] for field in FIELDS if "." in field}
    assert scaling == set(LLAMA3_ROPE) - {"rope_type", "rope_theta"}


@pytest.mark.parametrize("field", FIELDS)
def test_field_changes_our_output_as_it_changes_theirs(field, tmp_path):
    models = [random_model(hf_config(family, **changes), seed) for seed, (family, changes) in enumerate(FIELDS[field])]
    first, second = (model.state_dict() for model in models)
    fitting = {k: v for k, v in first.items() if k in second and v.shape == second[k].shape}
    models[1].load_state_dict(fitting, strict=False)
    if models[1].config.tie_word_embeddings:  # the head that was just loaded is the first model's
        models[1].get_input_embeddings().weight.data.copy_(first["model.embed_tokens.weight"])

    tokens, lengths = random_batch(97, (80, 33))
    ours, configs = [], []
    for i, model in enumerate(models):
        model.save_pretrained(tmp_path / str(i))
        ours.append(our_logits(tmp_path / str(i), tokens))
        assert max_difference(ours[i], hf_logits(model, tokens, lengths), lengths) <= TOLERANCE
        configs.append(ModelConfig.from_hf(json.loads((tmp_path / str(i) / "config.json").read_text())))
    assert value_of(configs[0], field) != value_of(configs[1], field)
    shared = min(logits.shape[-1] for logits in ours)
    assert max_difference(ours[0][..., :shared], ours[1][..., :shared], lengths) > 100 * TOLERANCE


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_bfloat16_is_no_further_from_the_truth_than_transformers_bfloat16(family, tmp_path):
    """Truth is the float32 model. Both round the same weights and most of the same activations, so the root-mean-square
    errors are nearly equal; ours may be 10% larger, and is usually smaller because norms and rotations stay in float32.
    """
    truth = save_model(tmp_path, family)
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    tokens, lengths = random_batch(truth.config.vocab_size, (96, 60, 96, 31))
    want = real(hf_logits(truth, tokens, lengths), lengths)
    ours = real(our_logits(tmp_path, tokens, "bfloat16"), lengths)
    theirs = real(hf_logits(rounded, tokens, lengths), lengths)

    def error(logits):
        return np.sqrt(np.mean((logits - want) ** 2) / np.mean(want**2))

    assert error(ours) <= 1.1 * error(theirs)
    assert np.abs(ours - want).max() <= 1.5 * np.abs(theirs - want).max()
    assert error(ours) > 0.5 * error(theirs)  # it did run in bfloat16
    graphdef, params, _ = weights.load(tmp_path, "bfloat16")
    assert nnx.merge(graphdef, params)(tokens[:1, :8]).dtype == "bfloat16"
    assert {str(leaf.dtype) for _, leaf in weights.flat_paths(params)} == {"float32"}  # the master copy
