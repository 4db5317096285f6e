"""The update: scoring -> advantages -> gradients -> AdamW, in one jitted, sharded, donated call.

    R_i = r_i - kl_coef * sum_t kl_t               rewards with the KL to the initial model (SRT v1, appendix B)
    A_i = R_i - mean of the prompt's other R_j     RLOO; the other estimators are in rl/advantages.py
    loss = sum_t w_t * -A_t * ratio_t (clipped)    over the response tokens of a mini-batch, the stop token included

The old log-probs, the reference's log-probs and the advantages are computed once, before the first update of the step.
With one update per step the ratio is 1 and needs no old log-probs. Their forward pass is then left out, unless the KL
in the reward needs it. `Masks` says where prompts without a label count: with the default settings nowhere.
With mask_answer the loss leaves out the tokens of answers. If no token of a mini-batch counts, its update is not made.
If a loss or gradient of the step is not finite, the state is returned unchanged, its step number included.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from srt_jax.model import lora, sharding
from srt_jax.model.logprobs import token_logprobs
from srt_jax.rl import advantages, losses, microbatches
from srt_jax.rl.collate import Batch, Layout
from srt_jax.rl.optimizer import TrainState

# The keys of the measurements of `loss`: sums over tokens, and one maximum.
MEASURED = ("loss", "entropy", "gap", "gap_max", "gap_k3", "gap_outside", "kl", "clipped", "dual_clipped", "importance")
FAR = math.log(1.25)  # beyond this gap the ratio of trainer's to sampler's probability is outside [0.8, 1.25]


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """The settings of the update. The fields have the names of the config's fields (docs/algorithms.md)."""

    layout: Layout
    epochs_per_step: int = 1
    objective: str = "policy_gradient"
    advantage: str = "rloo"
    kl: str = "k3"
    kl_coef: float = 0.001
    kl_in: str = "reward"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    tis_cap: float = 0.0
    entropy_coef: float = 0.0
    loss_aggregation: str = "token-mean"
    loss_scale: float = 0.0  # used by seq-mean-token-sum-norm only
    unlabelled: str = "discard"
    penalty: float = 0.0  # positive with unlabelled = penalty, else 0
    old_logprobs: str = "trainer"
    mask_answer: bool = False
    head_chunk_tokens: int = 4096

    @classmethod
    def of(cls, config: ConfigDict) -> "UpdateConfig":
        """The settings that an experiment's config gives."""
        rl = (
            "objective",
            "advantage",
            "kl",
            "kl_coef",
            "kl_in",
            "clip_low",
            "clip_high",
            "dual_clip",
            "tis_cap",
            "entropy_coef",
            "loss_aggregation",
            "mask_answer",
        )
        return cls(
            Layout.of(config.batch),
            epochs_per_step=config.batch.epochs_per_step,
            loss_scale=config.rl.loss_scale or config.batch.max_response_tokens,
            unlabelled=config.labels.unlabelled,
            penalty=config.labels.penalty,
            old_logprobs=config.rollout.old_logprobs,
            head_chunk_tokens=config.model.head_chunk_tokens,
            **{name: config.rl[name] for name in rl},
        )

    @property
    def updates_per_step(self) -> int:
        """Optimizer updates of one step."""
        return self.layout.minibatches_per_step * self.epochs_per_step

    @property
    def kl_in_reward(self) -> bool:
        """Is the KL to the reference part of the reward?"""
        return self.kl_coef > 0 and self.kl_in == "reward"

    @property
    def scores_policy(self) -> bool:
        """Does the policy score the batch before the first update?"""
        old = self.kl_in_reward or (self.objective == "policy_gradient" and self.updates_per_step > 1)
        return old and self.old_logprobs == "trainer"

    @property
    def scores_reference(self) -> bool:
        """Does the reference score the batch?"""
        return self.kl_coef > 0


@flax.struct.dataclass
class LossInputs:
    """The token arrays that the loss reads, all [M, m, S]. An array that is not needed is None.

    tokens, rollout, sampler_logprobs: as in Batch. weights: the weight of each response token in the loss divided by
    the denominator, 0 elsewhere. trained: 1.0 on the response tokens that are trained on, 0.0 elsewhere. old_logprobs:
    log-probs of the policy before the step, from the trainer or the sampler. reference_logprobs: log-probs of the
    initial weights.
    """

    tokens: jax.Array
    rollout: jax.Array | None = None
    sampler_logprobs: jax.Array | None = None
    weights: jax.Array | None = None
    trained: jax.Array | None = None
    advantages: jax.Array | None = None
    old_logprobs: jax.Array | None = None
    reference_logprobs: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Masks:
    """Which prompts and rollouts of a step count where. Bool arrays.

    prompts [P]: a KL in the reward is part of the returns of their rollouts.
    trained [P, n]: the rollouts that get an advantage, or the loss of another objective, and a KL in the loss.
    weighted [P, n]: the rollouts whose tokens count in the denominator of the loss and in the metrics of tokens.

    All three have the rollouts of a prompt with a label. For a prompt without one they depend on the settings:

        objective        labels.unlabelled  prompts  trained  weighted
        policy_gradient  discard            no       no       no
        policy_gradient  zero_advantage     no       no       yes
        policy_gradient  penalty            yes      yes      yes
        any other        any                yes      yes      yes

    A rollout that is not kept is neither trained nor weighted. Its return counts in the baseline of the others.
    """

    prompts: jax.Array
    trained: jax.Array
    weighted: jax.Array

    @classmethod
    def of(cls, config: UpdateConfig, batch: Batch) -> "Masks":
        """The masks of a batch."""
        all_prompts = config.objective != "policy_gradient" or config.unlabelled == "penalty"
        prompts = jnp.ones_like(batch.labelled) if all_prompts else batch.labelled
        trained = prompts[:, None] & batch.kept
        return cls(prompts, trained, weighted=batch.kept if config.unlabelled == "zero_advantage" else trained)


@dataclasses.dataclass(frozen=True)
class StepInputs:
    """The values that all updates of a step read.

    denominators [K]: of the mini-batches' losses, 0 where no token counts. sequences: the number of trained sequences,
    at least 1. metrics: those of the rewards.
    """

    loss_inputs: LossInputs
    denominators: jax.Array
    sequences: jax.Array
    metrics: dict[str, jax.Array]


def make_update(
    graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, config: UpdateConfig, mesh: Mesh, state: TrainState
) -> jax.stages.Wrapped:
    """The function update(state, reference, batch) -> (state, metrics), jitted. It donates the old state.

    graphdef: the policy's. reference: the reference model's parameters, None if the config does not use them. If
    state.params are adapters, `reference` is also their frozen base, and always required.

    state: arrays or abstract arrays. The new state has their shardings. The metrics are scalars, docs/operations.md
    explains them under `update/`. Raises ValueError if the row shards do not divide the micro-batch, or if
    seq-mean-token-sum-norm has no loss_scale.
    """
    layout, shards = config.layout, sharding.num_row_shards(mesh)
    if layout.microbatch_sequences % shards:
        raise ValueError(
            f"microbatch_sequences is {layout.microbatch_sequences}: it must be a multiple of {shards}, "
            "the number of data x fsdp shards of the mesh."
        )
    if config.loss_aggregation == "seq-mean-token-sum-norm" and config.loss_scale <= 0:
        raise ValueError("loss_aggregation seq-mean-token-sum-norm divides by loss_scale: give a loss_scale above 0.")
    state_sharding = jax.tree.map(lambda x: x.sharding, state)
    passes = Passes(graphdef, config, mesh, state_sharding.params)

    def update(state: TrainState, reference: nnx.State | None, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        old, of_reference = None, None
        policy = lora.join(state.params, reference)
        if config.scores_policy:
            old = passes.score(policy, batch)
        elif config.old_logprobs == "sampler":
            old = batch.sampler_logprobs
        if config.scores_reference:
            initial = dataclasses.replace(passes, graphdef=lora.base_graphdef(graphdef, policy))
            of_reference = initial.score(reference, batch)
        step = _prepare(config, batch, old, of_reference)

        def one(u: Any, carry: tuple) -> tuple:
            current, sums = carry
            minibatch = u % layout.minibatches_per_step
            grads, measured = passes.gradients(current.params, reference, step.loss_inputs, batch, minibatch)
            grad_norm = optax.tree.norm(grads)
            finite = jnp.isfinite(grad_norm) & jnp.isfinite(measured["loss"])
            keep = finite & (step.denominators[minibatch] > 0)
            updates, opt_state = optimizer.update(grads, current.opt_state, current.params)
            new = TrainState(optax.apply_updates(current.params, updates), opt_state, current.step)
            new = jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, current)
            measured |= {"grad_norm": grad_norm, "not_finite": 1.0 - finite, "updated": keep.astype(jnp.float32)}
            return jax.lax.with_sharding_constraint(new, state_sharding), add(sums, measured)

        carry = state, dict.fromkeys((*MEASURED, "grad_norm", "not_finite", "updated"), jnp.zeros(()))
        many = config.updates_per_step > 1
        new, sums = jax.lax.fori_loop(0, config.updates_per_step, one, carry) if many else one(0, carry)
        finite = sums["not_finite"] == 0
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state).replace(step=state.step + finite)
        metrics = step.metrics | _measured_metrics(config, step, sums)
        metrics["finite"] = finite
        if not lora.has_adapters(state.params):  # a sampler adds the product of two adapters, and rounds neither alone
            metrics["weights_moved_bf16"] = _moved_bf16(state.params, new.params)
        metrics["padding"] = microbatches.padding(batch, layout)
        if (rate := optax.tree.get(new.opt_state, "learning_rate")) is not None:
            metrics["learning_rate"] = rate
        return new, metrics

    return jax.jit(update, donate_argnums=0, out_shardings=(state_sharding, sharding.replicated(mesh)))


def _prepare(config: UpdateConfig, batch: Batch, old: jax.Array | None, of_reference: jax.Array | None) -> StepInputs:
    """old, of_reference: log-probs [M, m, S] of the policy before the step and of the reference, or None."""
    masks = Masks.of(config, batch)
    weights, denominators = _weights(config, batch, masks)
    response = microbatches.to_tokens(masks.trained, batch).astype(jnp.float32)  # 1.0 in trained rollouts, else 0.0
    trained = response if batch.answer_mask is None else response * batch.loss_tokens
    sequences = jnp.maximum(masks.trained.sum(), 1)
    metrics, kl = {}, jnp.zeros_like(response)
    if batch.answer_mask is not None:
        metrics["masked"] = 1 - trained.sum() / jnp.maximum(response.sum(), 1)
    if config.kl_in_reward:
        # Rollouts outside the loss need their KL, too, because their returns count in the baseline of the others.
        in_return = microbatches.to_tokens(jnp.broadcast_to(masks.prompts[:, None], masks.trained.shape), batch)
        kl = jnp.where(in_return, losses.KL_ESTIMATES[config.kl](old, of_reference), 0.0)
        total = (kl * response).sum()
        metrics |= {"kl": total / jnp.maximum(response.sum(), 1), "kl_per_sequence": total / sequences}
    per_token = None
    if config.objective == "policy_gradient":
        returns, per_token = _token_advantages(config, batch, masks.trained, kl, trained)
        rewarded = masks.trained & batch.labelled[:, None]
        metrics |= {
            "return": (returns * rewarded).sum() / jnp.maximum(rewarded.sum(), 1),
            "advantage_abs": jnp.abs(per_token).sum() / jnp.maximum(trained.sum(), 1),
        }
    inputs = LossInputs(
        tokens=batch.tokens,
        rollout=batch.rollout,
        sampler_logprobs=batch.sampler_logprobs,
        weights=jnp.where(batch.loss_tokens, microbatches.to_tokens(weights, batch), 0),
        trained=trained,
        advantages=per_token,
        old_logprobs=old if config.updates_per_step > 1 else None,
        reference_logprobs=of_reference if config.kl_in == "loss" else None,
    )
    return StepInputs(inputs, denominators, sequences, metrics)


def _weights(config: UpdateConfig, batch: Batch, masks: Masks) -> tuple[jax.Array, jax.Array]:
    """(the weights [P, n] of the rollouts' tokens divided by the denominators, the denominators [K])."""
    tokens = microbatches.to_prompts(batch.loss_tokens.astype(jnp.int32), batch)
    by_minibatch = (tokens * masks.weighted).reshape(config.layout.minibatches_per_step, -1)
    weights, denominators = losses.row_weights(by_minibatch, config.loss_aggregation, config.loss_scale)
    # A denominator may lie between 0 and 1, because seq-mean-token-sum-norm multiplies by loss_scale.
    weights = weights / jnp.where(denominators > 0, denominators, 1)[:, None]
    return weights.reshape(masks.weighted.shape), denominators


def _token_advantages(
    config: UpdateConfig, batch: Batch, trained: jax.Array, kl: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(returns [P, n], advantages [M, m, S]). The advantage is 0 on tokens that are not trained on."""
    # The reward of an unlabelled prompt may be NaN, and NaN * 0 is NaN: so this is `where` and not a product.
    rewards = jnp.where(batch.labelled[:, None], batch.rewards, 0.0)
    returns = rewards - config.kl_coef * microbatches.to_prompts(kl, batch)
    labelled = jnp.broadcast_to(batch.labelled[:, None], trained.shape)
    if config.advantage == "reinforce_pp":
        values = advantages.returns_to_come(microbatches.to_tokens(rewards, batch), kl, config.kl_coef, batch.rollout)
    else:
        values = microbatches.to_tokens(advantages.per_rollout(config.advantage)(returns, trained & labelled), batch)
    counted = microbatches.to_tokens(labelled, batch)
    if config.advantage in advantages.WHITENED:
        values = advantages.whiten(values, mask * counted)
    if config.unlabelled == "penalty":
        values = jnp.where(counted, values, -config.penalty)
    return returns, values * mask


def _measured_metrics(config: UpdateConfig, step: StepInputs, sums: dict) -> dict:
    """The metrics of a step, from the sums over its updates: means per update, per token and per sequence."""
    inputs, sequences = step.loss_inputs, step.sequences
    tokens = jnp.maximum((inputs.weights > 0).sum(), 1) * config.epochs_per_step
    trained = jnp.maximum(inputs.trained.sum(), 1) * config.epochs_per_step
    metrics = {name: sums[name] / config.updates_per_step for name in ("loss", "grad_norm", "updated")}
    metrics |= {
        "entropy": sums["entropy"] / tokens,
        "logprob_gap_mean": sums["gap"] / tokens,
        "logprob_gap_max": sums["gap_max"],
        "logprob_gap_k3": sums["gap_k3"] / tokens,
        "logprob_gap_outside": sums["gap_outside"] / tokens,
    }
    if inputs.reference_logprobs is not None:
        metrics |= {"kl": sums["kl"] / trained, "kl_per_sequence": sums["kl"] / sequences / config.epochs_per_step}
    if inputs.old_logprobs is not None and config.objective == "policy_gradient":
        metrics["clip_fraction"] = sums["clipped"] / trained
        if config.dual_clip:
            metrics["dual_clip_fraction"] = sums["dual_clipped"] / trained
    if config.tis_cap and config.objective == "policy_gradient":
        metrics["importance_weight"] = sums["importance"] / trained
    return metrics


def _moved_bf16(old: nnx.State, new: nnx.State) -> Any:
    """Share of the parameters whose bfloat16 value changed. A bfloat16 sampler sees only these changes."""

    def moved(a: jax.Array, b: jax.Array) -> jax.Array:
        return (a.astype(jnp.bfloat16) != b.astype(jnp.bfloat16)).sum(dtype=jnp.float32)

    size = float(sum(x.size for x in jax.tree.leaves(old)))  # float, because a 7B model would overflow int32
    return sum(jax.tree.leaves(jax.tree.map(moved, old, new))) / size


# ---- the passes over a batch: one micro-batch after another, each cut to its length bucket


@dataclasses.dataclass(frozen=True)
class Passes:
    """Forward and backward passes over a batch. The fields are the same for all of them.

    shardings: the shardings of the trained parameters.
    """

    graphdef: Any
    config: UpdateConfig
    mesh: Mesh
    shardings: Any

    def score(self, params: nnx.State, batch: Batch) -> jax.Array:
        """Log-probs [M, m, S] of the tokens of the whole batch."""
        return self.over_batch(token_logprobs, 1, params, batch)[0]

    def over_batch(self, function: Callable, number: int, params: nnx.State, batch: Batch) -> tuple[jax.Array, ...]:
        """The first `number` results of `function` for the tokens of the whole batch, each [M, m, S].

        function: token_logprobs, or another one of its signature.
        """
        layout = self.config.layout
        inputs = LossInputs(tokens=batch.tokens, rollout=batch.rollout)

        def body(scores: tuple, i: jax.Array, length: int) -> tuple:
            micro = microbatches.cut(inputs, i, length, self.mesh)
            found = self._of_tokens(function, params, micro, batch.temperature)
            return tuple(microbatches.put(score, i, part) for score, part in zip(scores, found))

        return jax.lax.fori_loop(
            0,
            layout.minibatches_per_step,
            lambda k, scores: microbatches.fold(body, scores, batch.counts, layout, k),
            (jnp.zeros_like(batch.sampler_logprobs),) * number,
        )

    def gradients(
        self, params: nnx.State, frozen: nnx.State | None, inputs: LossInputs, batch: Batch, minibatch: jax.Array
    ) -> tuple[nnx.State, dict[str, jax.Array]]:
        """(float32 gradients of `params`, {measurement: scalar}), summed over the micro-batches of a mini-batch.

        frozen: the base, if `params` are adapters.
        """

        def loss_of(params: nnx.State, micro: LossInputs) -> tuple[jax.Array, dict[str, jax.Array]]:
            values = self._of_tokens(token_logprobs, lora.join(params, frozen), micro, batch.temperature)
            return loss(self.config, micro, *values)

        def body(carry: tuple, i: jax.Array, length: int) -> Any:
            grads, sums = carry
            micro = microbatches.cut(inputs, i, length, self.mesh)
            (_, measured), new = jax.value_and_grad(loss_of, has_aux=True)(params, micro)
            # Without this constraint XLA may keep the accumulated gradients replicated.
            grads = jax.lax.with_sharding_constraint(jax.tree.map(jnp.add, grads, new), self.shardings)
            return grads, add(sums, measured)

        zeros = jax.lax.with_sharding_constraint(jax.tree.map(jnp.zeros_like, params), self.shardings)
        sums = dict.fromkeys(MEASURED, jnp.zeros(()))
        return microbatches.fold(body, (zeros, sums), batch.counts, self.config.layout, minibatch)

    def _of_tokens(
        self, function: Callable, params: nnx.State, micro: LossInputs, temperature: jax.Array
    ) -> tuple[jax.Array, ...]:
        """The results of `function`, each [m, S]. Position s has the values of token s given the tokens before it.

        The first position of a row is 0. In a packed row, the first token of each later sequence has meaningless
        values. They are never used, because that token belongs to a prompt.
        """
        model = nnx.merge(self.graphdef, params)
        limit = self.config.head_chunk_tokens
        hidden = model(micro.tokens, micro.rollout if self.config.layout.packing else None)
        values = function(hidden[:, :-1], model.head_weights(), micro.tokens[:, 1:], temperature, limit, self.mesh)
        return tuple(jnp.pad(v, ((0, 0), (1, 0))) for v in values)


def loss(
    config: UpdateConfig, micro: LossInputs, new: jax.Array, entropy: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(the loss of a micro-batch, a dict with the keys MEASURED), from the policy's log-probs and entropy [m, S]."""
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
    """Adds two dicts of measurements. For maxima (`*_max`) it takes the larger one."""
    return {
        name: jnp.maximum(sums[name], more[name]) if name.endswith("_max") else sums[name] + more[name] for name in sums
    }
