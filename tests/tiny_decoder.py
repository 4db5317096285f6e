"""A random Qwen3 of 20 thousand parameters and recorded rollouts, for the tests of rl and rollout."""
import functools

import jax
import numpy as np
from flax import nnx

from srt_jax.model import sharding, weights
from srt_jax.model.config import ModelConfig
from srt_jax.model.decoder import abstract
from srt_jax.rl.update import Batch

VOCAB = 32
HF_CONFIG = {
    "model_type": "qwen3", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True,
}


@functools.cache
def decoder(dtype="float32", remat=False, seed=0, **changes):
    """(graphdef, parameters as NumPy arrays), drawn here: matrices around 0, norm scales around 1."""
    graphdef, shapes = abstract(ModelConfig.from_hf({**HF_CONFIG, **changes}), np.dtype(dtype), remat)
    rng = np.random.default_rng(seed)
    return graphdef, weights.map_with_path(
        lambda path, x: (path.endswith("scale") + 0.25 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


def mesh_of(data=1, fsdp=1, tensor=1):
    """A mesh over the first data * fsdp * tensor simulated devices."""
    return sharding.make_mesh(data, fsdp, tensor, devices=jax.devices()[:data * fsdp * tensor])


def place(params, mesh):
    """A fresh copy of the parameters where the rules put them."""
    return weights.map_with_path(
        lambda path, x: jax.device_put(np.array(x), sharding.parameter_sharding(mesh, path, x.shape)), params)


def flat(tree):
    """{dotted path: NumPy array}."""
    return {path: np.asarray(x) for path, x in weights.flat_paths(tree)}


def recorded_batch(prompts=4, n=4, width=16, seed=0) -> Batch:
    """NumPy rollouts of unequal lengths, all labelled. The padding is random tokens too, so that a leak shows."""
    rng = np.random.default_rng(seed)
    prompt_lengths = np.repeat(rng.permutation(np.arange(prompts) % 4 + 2), n).astype(np.int32)
    lengths = prompt_lengths + rng.integers(1, 11, prompts * n, dtype=np.int32)
    tokens = np.repeat(rng.integers(0, VOCAB, (prompts, width), dtype=np.int32), n, 0)
    position = np.arange(width)
    responses = rng.integers(0, VOCAB, tokens.shape, dtype=np.int32)
    tokens = np.where(position < prompt_lengths[:, None], tokens, responses)
    inside = (position >= prompt_lengths[:, None]) & (position < lengths[:, None])
    logprobs = np.where(inside, -rng.exponential(2.0, tokens.shape), 0.0).astype(np.float32)
    return Batch(tokens, prompt_lengths, lengths, rng.integers(0, 2, prompts * n).astype(np.float32),
                 np.ones(prompts * n, bool), logprobs)


@functools.cache
def _row_functions(graphdef, temperature):
    def logprobs(params, tokens):
        model = nnx.merge(graphdef, params)
        logits = model.logits(model(tokens[None])[0, :-1]) / temperature
        everything = jax.nn.log_softmax(logits, -1)
        entropy = -(jax.numpy.exp(everything) * everything).sum(-1)
        return everything[np.arange(len(tokens) - 1), tokens[1:]], entropy

    gradient = jax.grad(lambda params, tokens, weights: (logprobs(params, tokens)[0] * weights).sum())
    return jax.jit(logprobs), jax.jit(gradient)


def direct_logprobs(graphdef, params, tokens, temperature):
    """(log-probs, entropies) [B, S] of the tokens of each row by itself, by log_softmax; position 0 is 0."""
    rows = [_row_functions(graphdef, temperature)[0](params, row) for row in tokens]
    return tuple(np.pad(np.stack(x), ((0, 0), (1, 0))).astype(np.float64) for x in zip(*rows))


def direct_gradient(graphdef, params, tokens, weights, temperature):
    """Gradient of sum(weights * log-probs) over [B, S] as {path: float64 array}, one row after the other."""
    total = {}
    for row, row_weights in zip(tokens, weights):
        gradient = _row_functions(graphdef, temperature)[1](params, row, row_weights[1:].astype(np.float32))
        for path, value in flat(gradient).items():
            total[path] = total.get(path, 0.0) + value.astype(np.float64)
    return total
