"""FLOPs of the passes of a step, and bytes that decoding reads, counted from the model's shape.

`mfu` and `mbu` turn a measured time into a share of the chips' peak arithmetic and memory bandwidth.

Two things count, for real tokens only: matrix products with weights (2 FLOPs per weight and token), and the two
products of attention over the tokens that the causal mask leaves (half of the square). Padding, recomputation in a
backward pass (remat), the embedding look-up, norms, softmax and rotary embeddings do not count. A backward pass costs
two forward passes: one for the gradients of the inputs, one for those of the weights. In a training pass the head
counts at every token, prompts included.

XLA's own cost analysis cannot replace this: it counts a loop's body once and does not know GPU library calls.
"""

from collections.abc import Iterable, Sequence

import jax
import numpy as np

from srt_jax.model.config import ModelConfig
from srt_jax.runtime import hardware

Lengths = np.ndarray | Sequence | int  # numbers of tokens, in lists that may be nested


def layer_weights(config: ModelConfig) -> int:
    """Number of weights in the matrix products of one layer."""
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return config.hidden_size * (2 * heads + 2 * kv + 3 * config.intermediate_size)


def layers(config: ModelConfig, lengths: Lengths, cached: Lengths = 0) -> float:
    """FLOPs of the layers' forward pass over sequences of `lengths` new tokens, each after `cached` earlier ones."""
    new, cached = np.broadcast_arrays(np.asarray(lengths, np.float64), np.asarray(cached, np.float64))
    seen = new * cached + new * (new + 1) / 2  # pairs of a token and one it attends to, itself included
    attention = 4 * config.num_heads * config.head_dim * seen  # scores and weighted values
    return float(config.num_layers * (2 * layer_weights(config) * new + attention).sum())


def head(config: ModelConfig, tokens: float) -> float:
    """FLOPs of the logits of `tokens` tokens."""
    return 2.0 * config.vocab_size * config.hidden_size * tokens


def forward(config: ModelConfig, lengths: Lengths) -> float:
    """FLOPs of one forward pass with logits at every token; lengths: real tokens per sequence (prompt + response)."""
    return layers(config, lengths) + head(config, float(np.sum(lengths)))


def update(
    config: ModelConfig, lengths: Lengths, old: bool, reference: bool, epochs: int = 1, adapters: float = 0
) -> dict[str, float]:
    """FLOPs of an update by pass, over all devices: {"old", "reference", "gradient"}.

    old: whether the policy scores the rollouts before the update. reference: whether the reference scores them.
    adapters: number of trained parameters if the model is frozen. The gradient costs three forward passes in each
    epoch. With adapters it costs two, and three of the adapters alone: frozen matrices need no gradients.
    """
    once, beside = forward(config, lengths), 2 * adapters * float(np.sum(lengths))
    gradient = 2 * once + 3 * beside if adapters else 3 * once
    return {"old": (once + beside) * old, "reference": once * reference, "gradient": gradient * epochs}


def recomputed(config: ModelConfig, lengths: Lengths, remat: str, kernel: str, keeps_logits: bool) -> float:
    """FLOPs that the gradient's backward pass recomputes, over all devices. `update` does not include them.

    keeps_logits: whether the head stores the logits of a micro-batch (model/logprobs.py). Otherwise it recomputes them.
    remat "full" recomputes the layers, "dots" recomputes attention, "attention" recomputes attention if the kernel is
    "xla" (the other kernels never store scores), and "none" recomputes nothing.
    """
    products = 2 * config.num_layers * layer_weights(config) * float(np.sum(lengths))
    attention = layers(config, lengths) - products
    again = {"none": 0.0, "attention": attention * (kernel == "xla"), "dots": attention, "full": attention + products}
    return again[remat] + (0.0 if keeps_logits else head(config, float(np.sum(lengths))))


def sampling(config: ModelConfig, prompt_lengths: Lengths, response_lengths: Lengths) -> float:
    """FLOPs of sampling: prompt_lengths [P]; response_lengths [P, n], the stop token included.

    A prompt runs once for its n samples. The last token of a response is drawn but never fed to the model.
    """
    prompts, responses = np.asarray(prompt_lengths), np.asarray(response_lengths)
    fed = np.maximum(responses - 1, 0)
    return (
        layers(config, prompts) + layers(config, fed, prompts[:, None]) + head(config, len(prompts) + float(fed.sum()))
    )


def weight_bytes(config: ModelConfig, itemsize: int = 2) -> float:
    """Bytes of the weights that one decoding step reads: the layers' and the head's.

    itemsize: bytes of a weight.
    """
    return float(itemsize * (config.num_layers * layer_weights(config) + config.vocab_size * config.hidden_size))


def cache_read_bytes(
    config: ModelConfig, prompt_lengths: Lengths, response_lengths: Lengths, shared: bool, itemsize: int = 2
) -> float:
    """Bytes of keys and values that decoding reads at least, over all devices.

    prompt_lengths [P]; response_lengths [P, n], the stop token included; itemsize: bytes of a cached number. A token
    that is fed needs the keys and values of all tokens before it, and its own. shared: the n samples of a prompt have
    one cache of the prompt, which a step reads once while any of them decodes. Otherwise each sample has a copy.
    """
    prompts = np.asarray(prompt_lengths, np.float64)
    fed = np.maximum(np.asarray(response_lengths, np.float64) - 1, 0)  # the last token is drawn but never fed
    of_prompts = (prompts * fed.max(1) if shared else prompts[:, None] * fed).sum()
    cached_tokens = of_prompts + (fed * (fed + 1) / 2).sum()
    per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim  # a key and a value per layer
    return float(itemsize * per_token * cached_tokens)


def decoding_bytes(
    config: ModelConfig,
    prompt_lengths: Lengths,
    response_lengths: Lengths,
    steps: int,
    shared: bool,
    itemsize: int = 2,
) -> float:
    """Bytes that decoding reads at least on one device: all weights in each of `steps` steps, and the keys and values.

    A step feeds one token of every sequence. The other arguments are those of `cache_read_bytes`.
    """
    cache = cache_read_bytes(config, prompt_lengths, response_lengths, shared, itemsize)
    return steps * weight_bytes(config, itemsize) + cache


def mfu(flops: float, seconds: float, devices: Iterable[jax.Device]) -> float | None:
    """Model FLOPs utilisation: `flops` in `seconds` over the devices' dense bfloat16 peak; None for unknown devices."""
    return _share(flops / seconds, "flops", devices)


def mbu(moved_bytes: float, seconds: float, devices: Iterable[jax.Device]) -> float | None:
    """Memory bandwidth utilisation: `moved_bytes` in `seconds` over the devices' peak; None for unknown devices."""
    return _share(moved_bytes / seconds, "bandwidth", devices)


def _share(rate: float, peak: str, devices: Iterable[jax.Device]) -> float | None:
    chips = [hardware.chip_of(device.device_kind) for device in devices]
    if None in chips:
        return None
    return rate / sum(getattr(chip, peak) for chip in chips)
