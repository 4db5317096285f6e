"""Tiny random Hugging Face models in which no parameter and hardly any config field has its default value."""

import functools
import json

import jax
import numpy as np
import torch
from flax import nnx
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from srt_jax.model import weights

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# Wavelengths at head_dim 16 and theta 10000 are 6, 20, 63, 199, ... tokens: LLAMA3_ROPE keeps the first, interpolates
# the next two and slows the rest, so 96 tokens see all three bands.
COMMON = {
    "vocab_size": 97,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "initializer_range": 0.03,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
}
FAMILIES = {
    "qwen2": (Qwen2Config, {**COMMON, "hidden_size": 64, "num_hidden_layers": 3}),
    "qwen3": (Qwen3Config, {**COMMON, "hidden_size": 48, "head_dim": 20, "num_hidden_layers": 2}),
    "llama": (
        LlamaConfig,
        {
            **COMMON,
            "hidden_size": 64,
            "head_dim": 16,
            "num_hidden_layers": 2,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": LLAMA3_ROPE,
        },
    ),
}


def hf_config(family, **changes):
    """A transformers config of `family`; `changes` override the table above."""
    kind, fields = FAMILIES[family]
    fields = {**fields, **changes}
    return kind(**json.loads(json.dumps(fields)))  # transformers writes into the dictionaries it is given


def random_model(config, seed=0):
    """A float32 model: matrices that keep activations near 1, biases that are not 0, norm scales that are not 1."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith(".bias"):
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise * parameter.shape[1] ** -0.5)
    return model


def save_model(directory, family, seed=0, **changes):
    """Writes a random model to `directory`, as transformers writes it, and returns it."""
    model = random_model(hf_config(family, **changes), seed)
    model.save_pretrained(directory)
    return model


def random_batch(vocab_size, lengths, width=None, seed=0):
    """(tokens [B, S], lengths [B]): right-padded rows; the padding is random tokens too, so that a leak shows."""
    width = width or max(lengths)
    tokens = np.random.default_rng(seed).integers(0, vocab_size, (len(lengths), width), dtype=np.int32)
    return tokens, np.asarray(lengths, np.int32)


def hf_logits(model, tokens, lengths):
    """[B, S, V] float32 by transformers."""
    mask = torch.tensor(np.arange(tokens.shape[1]) < lengths[:, None], dtype=torch.long)
    with torch.no_grad():
        out = model(input_ids=torch.tensor(tokens, dtype=torch.long), attention_mask=mask)
    return out.logits.float().numpy()


@functools.partial(jax.jit, static_argnums=0)
def _forward(graphdef, params, tokens):
    model = nnx.merge(graphdef, params)
    return model.logits(model(tokens))


def our_logits(directory, tokens, dtype=np.float32):
    """[B, S, V] float32 by our decoder, from a Hugging Face directory. One compilation per config and shape."""
    graphdef, params, _ = weights.load(directory, dtype)
    return np.asarray(_forward(graphdef, params, tokens))


def real(logits, lengths):
    """The logits of the real positions, [sum of lengths, V]."""
    return logits[np.arange(logits.shape[1]) < lengths[:, None]]


def max_difference(ours, theirs, lengths):
    """Largest |difference| over the real positions."""
    assert ours.shape == theirs.shape
    return float(np.abs(real(ours, lengths) - real(theirs, lengths)).max())
