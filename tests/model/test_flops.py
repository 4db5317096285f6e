"""Compares FLOPs with numbers computed by hand, with XLA's count of an unrolled model, and with loops over tokens."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srt_jax.model import flops
from srt_jax.model.config import ModelConfig
from srt_jax.model.decoder import abstract
from tests.tiny_decoder import HF_CONFIG

TINY = ModelConfig.from_hf(HF_CONFIG)  # V 32, D 32, F 48, L 2, N 4, K 2, H 8


def test_forward_by_hand():
    # Per layer and token: q 32x32, k and v 32x16 each, o 32x32, gate, up and down 32x48 each = 7680 weights.
    assert flops.layer_weights(TINY) == 7680
    # Lengths 3 and 1: 4 tokens; 6 + 1 attended pairs of 4 x 4 heads x 8.
    layers = 2 * (2 * 7680 * 4 + 4 * 32 * (6 + 1))
    assert flops.forward(TINY, [3, 1]) == layers + 2 * 32 * 32 * 4


def test_a_7b_model_costs_two_flops_per_weight_and_token():
    hf = {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    }
    config = ModelConfig.from_hf(hf)
    weights = config.num_params - config.vocab_size * config.hidden_size  # the embedding is looked up
    attention = 28 * 2 * 28 * 128 * 4097  # per token of a sequence of 4096
    assert flops.forward(config, [4096]) / 4096 == pytest.approx(2 * weights + attention, rel=1e-4)  # norms, biases


def test_forward_equals_what_xla_counts():
    """XLA also counts the masked half of the scores, which the test adds, and elementwise operations."""
    hf = {
        **HF_CONFIG,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_attention_heads": 4,
        "head_dim": 32,
        "vocab_size": 512,
    }
    config, length = ModelConfig.from_hf(hf), 64
    graphdef, params = abstract(config)

    def logits(params, tokens):
        model = nnx.merge(graphdef, params)
        return model.logits(model(tokens))

    counted = jax.jit(logits).lower(params, jax.ShapeDtypeStruct((2, length), jnp.int32)).compile().cost_analysis()
    masked = config.num_layers * 4 * 4 * 32 * (length * (length - 1) // 2) * 2
    expected = flops.forward(config, [length, length]) + masked
    assert expected < counted["flops"] < 1.1 * expected


def test_update_adds_up_its_passes():
    once = flops.forward(TINY, [5, 9])
    assert flops.update(TINY, [5, 9], old=False, reference=True) == {"old": 0, "reference": once, "gradient": 3 * once}
    assert flops.update(TINY, [5, 9], old=True, reference=False, epochs=2) == {
        "old": once,
        "reference": 0,
        "gradient": 6 * once,
    }


def test_recomputed_by_hand():
    head, attention = 2 * 32 * 32 * 4, 2 * 4 * 32 * (6 + 1)
    assert flops.recomputed(TINY, [3, 1], "none", "xla", False) == head
    assert flops.recomputed(TINY, [3, 1], "none", "xla", True) == 0
    assert flops.recomputed(TINY, [3, 1], "attention", "cudnn", False) == head
    assert flops.recomputed(TINY, [3, 1], "attention", "xla", False) == head + attention
    assert flops.recomputed(TINY, [3, 1], "dots", "cudnn", True) == attention
    assert flops.recomputed(TINY, [3, 1], "full", "cudnn", False) == flops.forward(TINY, [3, 1])


def test_sampling_equals_a_loop_over_tokens():
    prompts, responses = [4, 2], [[3, 1], [2, 5]]
    total = 0
    for prompt, lengths in zip(prompts, responses):
        fed = [list(range(1, prompt + 1))] + [list(range(prompt + 1, prompt + n)) for n in lengths]  # attended tokens
        total += sum(2 * (2 * 7680 + 4 * 32 * seen) for row in fed for seen in row)
        total += 2 * 32 * 32 * (1 + sum(n - 1 for n in lengths))
    assert flops.sampling(TINY, np.array(prompts), np.array(responses)) == total


@pytest.mark.parametrize("shared", [False, True])
def test_decoding_bytes_equals_a_loop_over_steps(shared):
    prompts, responses = [4, 2], [[3, 1], [2, 5]]
    token = 2 * 2 * 2 * 8  # key and value, layers, kv heads, head dim
    moved = 0
    for step in range(1, 5):  # the longest response has 5 tokens, of which 4 are fed
        moved += 2 * 7680 + 32 * 32  # layers and head
        for prompt, lengths in zip(prompts, responses):
            decoding = [n for n in lengths if n > step]
            moved += token * step * len(decoding)  # the response so far, with the token that is fed
            moved += token * prompt * (bool(decoding) if shared else len(decoding))
    assert flops.decoding_bytes(TINY, prompts, responses, steps=4, shared=shared, itemsize=4) == 4 * moved


def test_decoding_bytes_of_a_known_model_by_hand():
    """Qwen2.5-0.5B, 512 x (256 + 1,024): a gigabyte of weights and a cache of 12 KB per token."""
    config = ModelConfig.from_hf(
        {
            "model_type": "qwen2",
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        }
    )
    weights = 24 * (896 * 896 * 2 + 2 * 896 * 128 + 3 * 896 * 4864) + 151936 * 896  # 493,961,216 but norms and biases
    cache = 24 * 2 * 2 * 64 * 2  # bytes: layers, key and value, kv heads, head dim, bfloat16
    tokens = 512 * (1023 * 256 + 1023 * 1024 // 2)
    found = flops.decoding_bytes(config, [256] * 16, [[1024] * 32] * 16, steps=1023, shared=False)
    assert found == 1023 * 2 * weights + cache * tokens
    assert 2 * weights == pytest.approx(0.988e9, rel=1e-3)
    assert found / 3350e9 == pytest.approx(1.777, rel=1e-3)  # seconds on an H100: 1,011 GB of weights, 4,943 of cache


def test_mfu_and_mbu_are_shares_of_the_peak():
    h200 = types.SimpleNamespace(device_kind="NVIDIA H200")
    assert flops.mfu(989e12, 4.0, [h200, h200]) == pytest.approx(0.125)
    assert flops.mbu(4.8e12, 4.0, [h200, h200]) == pytest.approx(0.125)
    assert flops.mfu(1e12, 1.0, jax.devices()) is None
    assert flops.mbu(1e12, 1.0, jax.devices()) is None


@pytest.mark.parametrize(
    "kind, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
    ],
)
def test_peaks_by_device_kind(kind, peak):
    assert flops.mfu(peak, 1.0, [types.SimpleNamespace(device_kind=kind)]) == 1.0
