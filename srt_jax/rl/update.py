"""The update: scoring -> advantages -> gradients -> AdamW, in one jitted, sharded, donated call.

    R_i = r_i - kl_coef * sum_t kl_t        rewards with the KL to the initial model (SRT v1, section 3)
    A_i = R_i - mean of the other R_j       of the same prompt
    loss = sum_t w_t * -A_i * ratio_t / D   over the response tokens of labelled prompts, the stop token included

Prompts without a label have weight zero everywhere: in the loss, its denominator and the metrics. If nothing is
labelled, or a gradient is not finite, the state comes back as it was.
"""
import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from srt_jax.model import sharding
from srt_jax.model.logprobs import token_logprobs
from srt_jax.rl import losses
from srt_jax.rl.advantages import ADVANTAGES


@flax.struct.dataclass
class TrainState:
    """What a checkpoint holds: float32 parameters, AdamW's moments, the number of steps taken.

    A step in which nothing is labelled counts in `step`, but not in AdamW's own count.
    """
    params: Any
    opt_state: Any
    step: jax.Array


@flax.struct.dataclass
class Batch:
    """Rollouts of one step, problem-major: row p * n + i is sample i of prompt p.

    tokens [B, S] prompt + response, right-padded; prompt_lengths and lengths [B] (length = prompt + response);
    rewards [B]; labelled [B] bool; sampler_logprobs [B, S], at the position of the token they are of, 0 elsewhere.
    """
    tokens: jax.Array
    prompt_lengths: jax.Array
    lengths: jax.Array
    rewards: jax.Array
    labelled: jax.Array
    sampler_logprobs: jax.Array


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """The knobs of the update; names as in the config."""
    samples_per_prompt: int
    microbatch_sequences: int
    temperature: float = 1.0
    advantage: str = "rloo"
    kl: str = "k3"
    kl_coef: float = 0.001
    loss_aggregation: str = "token-mean"
    max_response_tokens: int = 0  # needed by seq-mean-token-sum-norm only
    old_logprobs: str = "trainer"
    logprob_chunk: int = 512


def make_optimizer(learning_rate, b1, b2, eps, weight_decay, grad_clip) -> optax.GradientTransformation:
    """AdamW after clipping the global gradient norm, as in the paper's runs."""
    return optax.chain(
        optax.clip_by_global_norm(grad_clip),
        optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay))


def init_state(params, optimizer, mesh: Mesh) -> TrainState:
    """Optimizer moments beside their parameters, on the same devices."""
    shardings = jax.tree.map(lambda x: x.sharding, params)
    abstract = jax.eval_shape(optimizer.init, params)
    opt_shardings = optax.tree_utils.tree_map_params(
        optimizer, lambda _, s: s, abstract, shardings, transform_non_params=lambda _: sharding.replicated(mesh))
    opt_state = jax.jit(optimizer.init, out_shardings=opt_shardings)(params)
    return TrainState(params, opt_state, jax.device_put(jnp.zeros((), jnp.int32), sharding.replicated(mesh)))


def make_update(graphdef, optimizer, config: UpdateConfig, mesh: Mesh, state: TrainState):
    """update(state, reference_params, batch) -> (state, metrics): compiled once per batch shape, donates the state.

    `state` (arrays or abstract arrays with shardings) fixes where the new state lies. Metrics are scalars, means over
    the response tokens or the sequences of labelled prompts. Raises ValueError where the micro-batch does not divide.
    """
    if config.microbatch_sequences % sharding.num_row_shards(mesh):
        raise ValueError(f"microbatch_sequences is {config.microbatch_sequences}: the {sharding.num_row_shards(mesh)} "
                         "data x fsdp shards of the mesh must divide it.")
    if config.loss_aggregation == "seq-mean-token-sum-norm" and config.max_response_tokens < 1:
        raise ValueError("loss_aggregation seq-mean-token-sum-norm divides by max_response_tokens: give it.")
    state_sharding = jax.tree.map(lambda x: x.sharding, state)
    split = functools.partial(split_microbatches, size=config.microbatch_sequences, mesh=mesh)
    logprobs = functools.partial(_logprobs, graphdef, config)

    def update(state: TrainState, reference, batch: Batch):
        mask = response_mask(batch)
        token_weights, denominator = losses.token_weights(
            mask, config.loss_aggregation, config.max_response_tokens)
        kl = jnp.zeros_like(mask)
        if config.kl_coef:
            kl = mask * _kl_to_reference(state.params, reference, batch, logprobs, config, split, mesh)
        # Not a product with the mask: an unlabelled prompt's reward may be NaN.
        returns = jnp.where(batch.labelled, batch.rewards - config.kl_coef * kl.sum(1), 0.0)
        advantages = ADVANTAGES[config.advantage](returns.reshape(-1, config.samples_per_prompt)).reshape(-1)
        token_weights /= jnp.maximum(denominator, 1)
        grads, sums = _gradients(
            state.params, split((batch, mask, token_weights, advantages)), logprobs, state_sharding.params)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(sums["loss"])
        keep = finite & (denominator > 0)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        new = TrainState(optax.apply_updates(state.params, updates), opt_state, state.step)
        new = jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, state).replace(step=state.step + finite)
        tokens, sequences = jnp.maximum(mask.sum(), 1), jnp.maximum(batch.labelled.sum(), 1)
        metrics = {
            "loss": sums["loss"],
            "grad_norm": grad_norm,
            "finite": finite,
            "updated": keep,
            "entropy": sums["entropy"] / tokens,
            "return": returns.sum() / sequences,
            "advantage_abs": jnp.abs(advantages).sum() / sequences,
            "logprob_gap_mean": sums["gap"] / tokens,
            "logprob_gap_max": sums["gap_max"],
            "weights_moved_bf16": _moved_bf16(state.params, new.params),
        }
        if config.kl_coef:
            metrics |= {"kl": kl.sum() / tokens, "kl_per_sequence": kl.sum() / sequences}
        return new, metrics

    return jax.jit(update, donate_argnums=0, out_shardings=(state_sharding, sharding.replicated(mesh)))


def response_mask(batch: Batch):
    """[B, S] float: 1 on response tokens (stop token included) of labelled prompts. From lengths, never from ids."""
    position = jnp.arange(batch.tokens.shape[1])
    inside = (position >= batch.prompt_lengths[:, None]) & (position < batch.lengths[:, None])
    return (inside & batch.labelled[:, None]).astype(jnp.float32)


def _logprobs(graphdef, config: UpdateConfig, params, batch: Batch):
    """Log-prob and entropy [B, S] at the position of the token they are of (position 0: zeros)."""
    model = nnx.merge(graphdef, params)
    hidden = model(batch.tokens)
    values = token_logprobs(
        hidden[:, :-1], model.head_weights(), batch.tokens[:, 1:], config.temperature, config.logprob_chunk)
    return tuple(jnp.pad(v, ((0, 0), (1, 0))) for v in values)


def _kl_to_reference(params, reference, batch, logprobs, config: UpdateConfig, split, mesh):
    """The KL estimate of each token [B, S] between the policy before the update and the reference."""

    def body(_, micro):
        old = micro.sampler_logprobs if config.old_logprobs == "sampler" else logprobs(params, micro)[0]
        return None, losses.KL_ESTIMATES[config.kl](old, logprobs(reference, micro)[0])

    return join_microbatches(jax.lax.scan(body, None, split(batch))[1], mesh)


def _gradients(params, microbatches, logprobs, params_sharding):
    """Sums over micro-batches: float32 gradients of the loss, and a dict of scalar sums."""

    def loss_fn(params, micro):
        batch, mask, token_weights, advantages = micro
        new, entropy = logprobs(params, batch)
        loss = (losses.policy_gradient(new, advantages) * token_weights).sum()
        gap = jnp.abs(new - batch.sampler_logprobs) * mask
        return loss, {"loss": loss, "entropy": (entropy * mask).sum(), "gap": gap.sum(), "gap_max": gap.max()}

    def body(carry, micro):
        grads, sums = carry
        (_, aux), new = jax.value_and_grad(loss_fn, has_aux=True)(params, micro)
        # Left to itself XLA may keep the accumulated gradients replicated.
        grads = jax.lax.with_sharding_constraint(jax.tree.map(jnp.add, grads, new), params_sharding)
        gap_max = jnp.maximum(sums["gap_max"], aux["gap_max"])
        return (grads, {**jax.tree.map(jnp.add, sums, aux), "gap_max": gap_max}), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    sums = dict.fromkeys(("loss", "entropy", "gap", "gap_max"), jnp.zeros(()))
    return jax.lax.scan(body, (zeros, sums), microbatches)[0]


def split_microbatches(tree, size: int, mesh: Mesh):
    """[B, ...] -> [B / size, size, ...]: every device cuts its own rows into micro-batches, so that none moves."""
    shards = sharding.num_row_shards(mesh)

    def split(x):
        x = x.reshape(shards, -1, size // shards, *x.shape[1:]).swapaxes(0, 1).reshape(-1, size, *x.shape[1:])
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(None, sharding.ROWS)))

    return jax.tree.map(split, tree)


def join_microbatches(x, mesh: Mesh):
    """The inverse of `split_microbatches`, for one array."""
    shards = sharding.num_row_shards(mesh)
    x = x.reshape(x.shape[0], shards, -1, *x.shape[2:]).swapaxes(0, 1).reshape(-1, *x.shape[2:])
    return jax.lax.with_sharding_constraint(x, sharding.by_rows(mesh))


def _moved_bf16(old, new):
    """Fraction of the parameters whose bfloat16 rounding changed: what a bf16 sampler sees of the update."""
    def moved(a, b):
        return (a.astype(jnp.bfloat16) != b.astype(jnp.bfloat16)).sum(dtype=jnp.float32)

    size = sum(x.size for x in jax.tree.leaves(old))
    return sum(jax.tree.leaves(jax.tree.map(moved, old, new))) / size
