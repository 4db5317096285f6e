"""The passes over a batch: log-probs of all its tokens, and the gradient of a mini-batch's loss.

Both run micro-batch after micro-batch, each cut to its length bucket.
"""

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from srt_jax.model import sharding
from srt_jax.model.logprobs import token_logprobs
from srt_jax.rl import losses, microbatches
from srt_jax.rl.collate import Batch
from srt_jax.rl.update_config import UpdateConfig

# Sums over tokens, and one maximum.
MEASURED = ("loss", "entropy", "gap", "gap_max", "gap_k3", "gap_outside", "kl", "clipped", "dual_clipped", "importance")
FAR = math.log(1.25)  # trainer's over sampler's probability outside [0.8, 1.25]


@flax.struct.dataclass
class Rows:
    """What the loss reads, all [M, m, S]; None where the config has no use for it.

    weights: of each response token in the loss, the denominator divided out, 0 elsewhere; trained: 1 on response tokens
    of labelled prompts; old_logprobs: of the weights before the step; reference_logprobs: of the initial weights.
    """

    tokens: jax.Array
    rollout: jax.Array
    sampler_logprobs: jax.Array
    weights: jax.Array
    trained: jax.Array
    advantages: Any
    old_logprobs: Any
    reference_logprobs: Any


@dataclasses.dataclass(frozen=True)
class Passes:
    """What every pass needs to know; `shardings` are those of the parameters."""

    graphdef: Any
    config: UpdateConfig
    mesh: Mesh
    shardings: Any

    def score(self, params: nnx.State, batch: Batch) -> jax.Array:
        """Log-probs [M, m, S] of the whole batch."""
        layout = self.config.layout
        arrays = Rows(batch.tokens, batch.rollout, *(None,) * 6)

        def body(scores: jax.Array, i: jax.Array, length: int) -> Any:
            micro = microbatches.cut(arrays, i, length, self.mesh)
            return microbatches.put(scores, i, self._logprobs(params, micro, batch.temperature)[0])

        return jax.lax.fori_loop(
            0,
            layout.minibatches_per_step,
            lambda k, scores: microbatches.fold(body, scores, batch.counts, layout, k),
            jnp.zeros_like(batch.sampler_logprobs),
        )

    def gradients(
        self, params: nnx.State, rows: Rows, batch: Batch, minibatch: jax.Array
    ) -> tuple[nnx.State, dict[str, jax.Array]]:
        """Sums over the micro-batches of a mini-batch: float32 gradients of the loss, and a dict of scalars."""

        def loss_of(params: nnx.State, micro: Rows) -> tuple[jax.Array, dict[str, jax.Array]]:
            return loss(self.config, micro, *self._logprobs(params, micro, batch.temperature))

        def body(carry: tuple, i: jax.Array, length: int) -> Any:
            grads, sums = carry
            micro = microbatches.cut(rows, i, length, self.mesh)
            (_, measured), new = jax.value_and_grad(loss_of, has_aux=True)(params, micro)
            # Left to itself XLA may keep the accumulated gradients replicated.
            grads = jax.lax.with_sharding_constraint(jax.tree.map(jnp.add, grads, new), self.shardings)
            return grads, add(sums, measured)

        zeros = jax.lax.with_sharding_constraint(jax.tree.map(jnp.zeros_like, params), self.shardings)
        sums = dict.fromkeys(MEASURED, jnp.zeros(()))
        return microbatches.fold(body, (zeros, sums), batch.counts, self.config.layout, minibatch)

    def _logprobs(self, params: nnx.State, micro: Rows, temperature: jax.Array) -> tuple[jax.Array, ...]:
        """Log-prob and entropy [m, S] at the position of the token they are of.

        The first token of a row has zeros, of a further sequence in it numbers without a meaning: it is a prompt's.
        """
        model = nnx.merge(self.graphdef, params)
        rows_per_device = micro.tokens.shape[0] // sharding.num_row_shards(self.mesh)
        chunk = max(1, self.config.head_chunk_tokens // rows_per_device)
        hidden = model(micro.tokens, micro.rollout if self.config.layout.packing else None)
        values = token_logprobs(
            hidden[:, :-1], model.head_weights(), micro.tokens[:, 1:], temperature, chunk, self.mesh
        )
        return tuple(jnp.pad(v, ((0, 0), (1, 0))) for v in values)


def loss(
    config: UpdateConfig, micro: Rows, new: jax.Array, entropy: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss of a micro-batch, what is measured of it); new log-probs and entropy [m, S]."""
    trained, counted = micro.trained, micro.weights > 0
    own = jax.lax.stop_gradient(new)
    old = own if micro.old_logprobs is None else micro.old_logprobs
    by_trainer = own if config.old_logprobs == "sampler" else old
    gap = jnp.abs(by_trainer - micro.sampler_logprobs) * counted
    measured = dict.fromkeys(MEASURED, jnp.zeros(())) | {
        "entropy": (entropy * counted).sum(),
        "gap": gap.sum(),
        "gap_max": gap.max(),
        "gap_k3": (losses.k3(micro.sampler_logprobs, by_trainer) * counted).sum(),
        "gap_outside": (gap > FAR).sum(dtype=jnp.float32),
    }
    if config.objective == "policy_gradient":
        value, clipped, dual_clipped = losses.clipped_policy_gradient(
            new, old, micro.advantages, config.clip_low, config.clip_high, config.dual_clip
        )
        measured["clipped"], measured["dual_clipped"] = (clipped * trained).sum(), (dual_clipped * trained).sum()
        if config.tis_cap:
            weight = losses.importance_weight(by_trainer, micro.sampler_logprobs, config.tis_cap)
            value, measured["importance"] = value * weight, (weight * trained).sum()
    else:
        value = {"cross_entropy": -new, "entropy": entropy}[config.objective]
    if micro.reference_logprobs is not None:
        kl = losses.KL_ESTIMATES[config.kl](new, micro.reference_logprobs) * trained
        value, measured["kl"] = value + config.kl_coef * kl, kl.sum()
    if config.entropy_coef:
        value -= config.entropy_coef * entropy
    measured["loss"] = (value * micro.weights).sum()
    return measured["loss"], measured


def add(sums: dict, more: dict) -> dict:
    """Sums of two measurements; of a maximum the larger."""
    return {
        name: jnp.maximum(sums[name], more[name]) if name.endswith("_max") else sums[name] + more[name] for name in sums
    }
