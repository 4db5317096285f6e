"""A random Qwen3 of 20 thousand parameters and recorded rollouts, for the tests of rl and rollout."""

import dataclasses
import functools

import jax
import numpy as np
from flax import nnx

from srt_jax.model import lora, sharding, weights
from srt_jax.model.config import ModelConfig
from srt_jax.model.decoder import abstract
from srt_jax.rl.collate import Layout, TrainingSamples, assemble
from srt_jax.rollout.sampler import Rollouts

VOCAB = 32
HF_CONFIG = {
    "model_type": "qwen3",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": True,
}


@functools.cache
def decoder(dtype="float32", remat="none", seed=0, mesh=None, **changes):
    """(graphdef, parameters as NumPy arrays), drawn here: matrices around 0, norm scales around 1."""
    graphdef, shapes = abstract(ModelConfig.from_hf({**HF_CONFIG, **changes}), np.dtype(dtype), remat, mesh=mesh)
    rng = np.random.default_rng(seed)
    return graphdef, weights.map_with_path(
        lambda path, x: (path.endswith("scale") + 0.25 * rng.standard_normal(x.shape)).astype(np.float32), shapes
    )


LORA = lora.LoRA(rank=4, alpha=8.0)


@functools.cache
def adapted(dtype="float32", remat="none", seed=0, mesh=None, settings=LORA, zero=False, **changes):
    """(graphdef with adapters, base, adapters) of `decoder`. A and B are drawn here; with `zero` B is 0."""
    graphdef, base = decoder(dtype, remat, mesh=mesh, **changes)
    graphdef, shapes = lora.attach(graphdef, base, settings)
    rng = np.random.default_rng(seed)
    return (
        graphdef,
        base,
        weights.map_with_path(
            lambda path, x: ((0.0 if zero and path.endswith(lora.B) else 0.25) * rng.standard_normal(x.shape)).astype(
                np.float32
            ),
            shapes,
        ),
    )


def mesh_of(data=1, fsdp=1, tensor=1):
    """A mesh over the first data * fsdp * tensor simulated devices."""
    return sharding.make_mesh(data, fsdp, tensor, devices=jax.devices()[: data * fsdp * tensor])


def place(params, mesh):
    """A fresh copy of the parameters where the rules put them."""
    return weights.map_with_path(
        lambda path, x: jax.device_put(np.array(x), sharding.parameter_sharding(mesh, path, x.shape)), params
    )


def flat(tree):
    """{dotted path: NumPy array}."""
    return {path: np.asarray(x) for path, x in weights.flat_paths(tree)}


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Rollouts of P prompts x n samples as NumPy arrays, problem-major: row p * n + i is sample i of prompt p.

    tokens [B, S] with random tokens in the padding, so that a leak shows; prompt_lengths, lengths [B]; logprobs [B, S],
    0 outside the response; rewards [P, n]; labelled [P]; kept [P, n].
    """

    tokens: np.ndarray
    prompt_lengths: np.ndarray
    lengths: np.ndarray
    logprobs: np.ndarray
    rewards: np.ndarray
    labelled: np.ndarray
    kept: np.ndarray
    answer_mask: np.ndarray | None = None  # [B, S]: tokens that the loss leaves out

    def loss_tokens(self):
        """[B, S]: may the loss count the token?"""
        return self.mask() if self.answer_mask is None else self.mask() & ~self.answer_mask

    def mask(self):
        """[B, S]: is the token part of the response?"""
        position = np.arange(self.tokens.shape[1])
        return (position >= self.prompt_lengths[:, None]) & (position < self.lengths[:, None])

    def batch(self, layout: Layout, temperature=1.0):
        """The batch as NumPy arrays, cut up by the layout, with tokens from here and there in its padding."""
        n = layout.samples_per_prompt
        prompts = [row[:end].tolist() for row, end in zip(self.tokens[::n], self.prompt_lengths[::n])]
        lengths = self.lengths - self.prompt_lengths
        shape = (len(prompts), n)

        def responses(x):
            rolled = np.stack([np.roll(row, -start) for row, start in zip(x, self.prompt_lengths)])
            return rolled[:, : lengths.max()].reshape(*shape, -1)

        rollouts = Rollouts(
            prompts,
            responses(self.tokens),
            lengths.reshape(shape),
            responses(self.logprobs),
            np.ones(shape, bool),
            0,
        )
        batch = assemble(
            TrainingSamples(rollouts, self.rewards, self.labelled, self.kept),
            layout,
            temperature,
            None if self.answer_mask is None else responses(self.answer_mask),
        )
        return batch.replace(
            tokens=np.where(batch.rollout < 0, np.resize(self.tokens, batch.tokens.shape), batch.tokens)
        )


def recorded(prompts=4, n=4, width=16, seed=0) -> Recorded:
    """Rollouts of unequal lengths, all labelled and kept."""
    rng = np.random.default_rng(seed)
    prompt_lengths = np.repeat(rng.permutation(np.arange(prompts) % 4 + 2), n).astype(np.int32)
    lengths = prompt_lengths + rng.integers(1, 11, prompts * n, dtype=np.int32)
    tokens = np.repeat(rng.integers(0, VOCAB, (prompts, width), dtype=np.int32), n, 0)
    position = np.arange(width)
    responses = rng.integers(0, VOCAB, tokens.shape, dtype=np.int32)
    tokens = np.where(position < prompt_lengths[:, None], tokens, responses)
    inside = (position >= prompt_lengths[:, None]) & (position < lengths[:, None])
    logprobs = np.where(inside, -rng.exponential(2.0, tokens.shape), 0.0).astype(np.float32)
    return Recorded(
        tokens,
        prompt_lengths,
        lengths,
        logprobs,
        rng.integers(0, 2, (prompts, n)).astype(np.float32),
        np.ones(prompts, bool),
        np.ones((prompts, n), bool),
    )


@functools.cache
def _row_functions(graphdef, temperature):
    def logprobs(params, tokens):
        model = nnx.merge(graphdef, params)
        logits = model.logits(model(tokens[None])[0, :-1]) / temperature
        everything = jax.nn.log_softmax(logits, -1)
        entropy = -(jax.numpy.exp(everything) * everything).sum(-1)
        return everything[np.arange(len(tokens) - 1), tokens[1:]], entropy

    def weighted(params, tokens, weights, entropy_weights):
        values, entropies = logprobs(params, tokens)
        return (values * weights + entropies * entropy_weights).sum()

    return jax.jit(logprobs), jax.jit(jax.grad(weighted))


def direct_logprobs(graphdef, params, tokens, temperature):
    """(log-probs, entropies) [B, S] of the tokens of each row by itself, by log_softmax; position 0 is 0."""
    rows = [_row_functions(graphdef, temperature)[0](params, row) for row in tokens]
    return tuple(np.pad(np.stack(x), ((0, 0), (1, 0))).astype(np.float64) for x in zip(*rows))


def direct_gradient(graphdef, params, tokens, weights, temperature, entropy_weights=None):
    """Gradient of sum(weights * log-probs + entropy_weights * entropies), weights [B, S], row after row in float64.

    Returns {path: array}.
    """
    total = {}
    entropy_weights = np.zeros(weights.shape) if entropy_weights is None else entropy_weights
    for row, *coefficients in zip(tokens, weights, entropy_weights):
        gradient = _row_functions(graphdef, temperature)[1](
            params, row, *(x[1:].astype(np.float32) for x in coefficients)
        )
        for path, value in flat(gradient).items():
            total[path] = total.get(path, 0.0) + value.astype(np.float64)
    return total
