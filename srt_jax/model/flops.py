"""What the passes of a step require, counted from the model's shape: FLOPs, and the bytes that decoding has to move.

`mfu` and `mbu` are the shares of the chips' arithmetic and of their memory bandwidth that a measured time reaches.

What counts: matrix products with weights (2 FLOPs per weight and token) and attention's two products over the tokens
that a causal mask leaves (half of the square), of real tokens only. What does not: padding, recomputation in a backward
pass (remat), the embedding look-up, norms, softmax, rotary embeddings. A backward pass is two forward passes: the
gradients of the inputs and of the weights. The head counts at every token of a training pass, prompts included.

XLA's own cost analysis cannot be used: it counts a loop's body once, and knows nothing of GPU library calls.
"""

import numpy as np

from srt_jax.model.config import ModelConfig
from srt_jax.runtime import hardware


def layer_weights(config: ModelConfig) -> int:
    """Weights of one layer that a token is multiplied with."""
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return config.hidden_size * (2 * heads + 2 * kv + 3 * config.intermediate_size)


def layers(config: ModelConfig, lengths, cached=0) -> float:
    """FLOPs of the layers' forward pass over sequences of `lengths` new tokens, each after `cached` earlier ones."""
    new, cached = np.broadcast_arrays(np.asarray(lengths, np.float64), np.asarray(cached, np.float64))
    seen = new * cached + new * (new + 1) / 2  # pairs of a token and one it attends to, itself included
    attention = 4 * config.num_heads * config.head_dim * seen  # scores and weighted values
    return float(config.num_layers * (2 * layer_weights(config) * new + attention).sum())


def head(config: ModelConfig, tokens: float) -> float:
    """FLOPs of the logits of `tokens` tokens."""
    return 2.0 * config.vocab_size * config.hidden_size * tokens


def forward(config: ModelConfig, lengths) -> float:
    """FLOPs of one forward pass over sequences of these real lengths (prompt + response), logits everywhere."""
    return layers(config, lengths) + head(config, float(np.sum(lengths)))


def update(config: ModelConfig, lengths, old: bool, reference: bool, epochs: int = 1) -> dict[str, float]:
    """FLOPs of an update by pass, over all devices: {"old", "reference", "gradient"}.

    old: the policy's log-probs before the update are a pass of their own; reference: the initial model scores the
    rollouts; the gradient (three forward passes) is taken once per epoch.
    """
    once = forward(config, lengths)
    return {"old": once * old, "reference": once * reference, "gradient": 3 * once * epochs}


def recomputed(config: ModelConfig, lengths, remat: str, kernel: str, one_chunk: bool) -> float:
    """FLOPs that the gradient's backward pass computes again, over all devices; no part of `update`.

    The head computes its logits again, unless one chunk holds all of a micro-batch (model/logprobs.py). Of the layers,
    remat "full" computes all, "dots" the attention, "attention" the attention too if its kernel is "xla" (the others
    never keep its scores), and "none" nothing.
    """
    products = 2 * config.num_layers * layer_weights(config) * float(np.sum(lengths))
    attention = layers(config, lengths) - products
    again = {"none": 0.0, "attention": attention * (kernel == "xla"), "dots": attention, "full": attention + products}
    return again[remat] + (0.0 if one_chunk else head(config, float(np.sum(lengths))))


def sampling(config: ModelConfig, prompt_lengths, response_lengths) -> float:
    """FLOPs of sampling: prompt_lengths [P]; response_lengths [P, n], the stop token included.

    A prompt runs once for its n samples; the last token of a response is drawn and never fed.
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


def cache_read_bytes(config: ModelConfig, prompt_lengths, response_lengths, shared: bool, itemsize: int = 2) -> float:
    """Bytes of keys and values that decoding reads at least, over all devices.

    prompt_lengths [P]; response_lengths [P, n], the stop token included; itemsize: bytes of a cached number. A token
    that is fed needs the keys and values of all tokens before it, and its own. shared: the n samples of a prompt have
    one cache of the prompt, which a step reads once while any of them decodes. Otherwise each sample has a copy.
    """
    prompts = np.asarray(prompt_lengths, np.float64)
    fed = np.maximum(np.asarray(response_lengths, np.float64) - 1, 0)  # the last token is drawn and never fed
    of_prompts = (prompts * fed.max(1) if shared else prompts[:, None] * fed).sum()
    cached_tokens = of_prompts + (fed * (fed + 1) / 2).sum()
    per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim  # a key and a value per layer
    return float(itemsize * per_token * cached_tokens)


def decoding_bytes(
    config: ModelConfig, prompt_lengths, response_lengths, steps: int, shared: bool, itemsize: int = 2
) -> float:
    """Bytes that decoding reads at least on one device: all weights in each of `steps` steps, and the keys and values.

    A step feeds one token of every sequence. The other arguments are those of `cache_read_bytes`.
    """
    cache = cache_read_bytes(config, prompt_lengths, response_lengths, shared, itemsize)
    return steps * weight_bytes(config, itemsize) + cache


def mfu(flops: float, seconds: float, devices) -> float | None:
    """Share of the devices' peak (bfloat16, dense) that `flops` in `seconds` are; None where the peak is not known."""
    return _share(flops / seconds, "flops", devices)


def mbu(moved_bytes: float, seconds: float, devices) -> float | None:
    """Share of the devices' memory bandwidth that `moved_bytes` in `seconds` are; None where it is not known."""
    return _share(moved_bytes / seconds, "bandwidth", devices)


def _share(rate: float, peak: str, devices) -> float | None:
    chips = [hardware.chip_of(device.device_kind) for device in devices]
    if None in chips:
        return None
    return rate / sum(getattr(chip, peak) for chip in chips)
