"""Rewards from the policy's confidence in its own tokens, as reward.shape names them. They read no answers.

One forward pass over the rollouts of a step, with the weights before its update, gives the values of all response
tokens, the stop token included. Their reward has no gradient.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from srt_jax.model import sharding
from srt_jax.model.logprobs import token_scores
from srt_jax.rl import microbatches
from srt_jax.rl.collate import Batch
from srt_jax.rl.update import Passes, UpdateConfig

# Name -> function of the sums over a response's tokens (log-probs, entropies, self-certainties) and its length, all
# [P, n]. Entropies and self-certainties are those of the whole distribution at the update's temperature, in nats.
CONFIDENCES: dict[str, Callable[..., jax.Array]] = {
    # Intuitor (https://arxiv.org/abs/2505.19590): torch_functional.py of sunblaze-ucb/Intuitor@3f0cdd7.
    "self_certainty": lambda logprobs, entropy, certainty, length: certainty / length,
    # RENT (https://arxiv.org/abs/2505.22660): ray_trainer.py of satrams/rent-rl@5d4d38a, without its format reward.
    "negative_entropy": lambda logprobs, entropy, certainty, length: -entropy / length,
    # Intuitor's paper reports that the mean makes responses long and the sum makes them short.
    "mean_logprob": lambda logprobs, entropy, certainty, length: logprobs / length,
    "sum_logprob": lambda logprobs, entropy, certainty, length: logprobs,
}


def make_confidence(
    graphdef: nnx.GraphDef, config: UpdateConfig, mesh: Mesh, names: Sequence[str]
) -> jax.stages.Wrapped:
    """The function confidence(parameters, batch) -> {name: rewards [P, n] float32}, jitted. names: keys of CONFIDENCES.

    It reads neither the rewards nor the labels of the batch. The rewards are on every device.
    """
    passes = Passes(graphdef, config, mesh, None)

    def confidence(params: nnx.State, batch: Batch) -> dict[str, jax.Array]:
        values = passes.over_batch(token_scores, 3, params, batch)
        sums = [microbatches.to_prompts(jnp.where(batch.response, value, 0.0), batch) for value in values]
        length = microbatches.to_prompts(batch.response.astype(jnp.float32), batch)
        return {name: CONFIDENCES[name](*sums, jnp.maximum(length, 1.0)) for name in names}

    return functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))(confidence)
