"""AdamW, its learning-rate schedule, and the training state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from srt_jax.config import has_teacher
from srt_jax.model import sharding


@flax.struct.dataclass
class TrainState:
    """The training state that a checkpoint stores: float32 parameters, AdamW's state, the number of RL steps.

    A step that changes no weights (no token counts in its loss) increments `step`, but not AdamW's own count.
    """

    params: Any
    opt_state: Any
    step: Any


def learning_rate_schedule(
    learning_rate: float,
    schedule: str = "constant",
    warmup_steps: int = 0,
    steps: int = 0,
    updates_per_step: int = 1,
    final_fraction: float = 0.0,
) -> optax.Schedule:
    """The learning rate as a function of the number of updates: linear warm-up from 0, then the schedule.

    `constant` stays at learning_rate. `linear` and `cosine` fall to learning_rate * final_fraction after `steps` and
    stay there. warmup_steps and steps are RL steps. Raises ValueError if the warm-up leaves no steps for `linear` or
    `cosine`.
    """
    warmup, total = warmup_steps * updates_per_step, steps * updates_per_step
    if schedule != "constant" and total <= warmup:
        raise ValueError(
            f"a {schedule} schedule over {steps} steps has no steps left after {warmup_steps} steps of warm-up."
        )
    after = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "linear": lambda: optax.linear_schedule(learning_rate, learning_rate * final_fraction, total - warmup),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, total - warmup, alpha=final_fraction),
    }[schedule]()
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), after], [warmup])


def make_optimizer(
    schedule: optax.Schedule,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    grad_clip: float,
    moments_dtype: str = "float32",
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) after clipping the global gradient norm, as in the runs of SRT v1.

    moments_dtype: float32 or bfloat16, the dtype in which AdamW's moments are stored.
    """
    adam = optax.scale_by_adam(b1, b2, eps)
    return optax.chain(
        optax.clip_by_global_norm(grad_clip),
        adam if moments_dtype == "float32" else store_moments_in_bf16(adam),
        optax.add_decayed_weights(weight_decay),
        scale_by_learning_rate(schedule),
    )


def experiment_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimizer of an experiment's config."""
    c = config.optimizer
    schedule = learning_rate_schedule(
        c.learning_rate, c.schedule, c.warmup_steps, *_schedule_lengths(config), c.final_fraction
    )
    optimizer = make_optimizer(schedule, c.b1, c.b2, c.eps, c.weight_decay, c.grad_clip, c.moments_dtype)
    return with_teacher(optimizer, config.labels.ema_rate) if has_teacher(config) else optimizer


def optimizer_key(config: ConfigDict) -> tuple:
    """The numbers that `experiment_optimizer` depends on. Configs with equal keys have equal optimizers."""
    teacher = config.labels.ema_rate if has_teacher(config) else None
    return (*sorted(config.optimizer.items()), *_schedule_lengths(config), teacher)


class TeacherState(NamedTuple):
    """The state of an optimizer, and the teacher, which has the shapes, dtypes and shardings of the parameters."""

    inner: Any
    teacher: Any


def with_teacher(optimizer: optax.GradientTransformation, rate: float) -> optax.GradientTransformation:
    """The optimizer with an exponential moving average of the parameters, the teacher, in its state.

    teacher <- (1 - rate) teacher + rate (parameters after the update). It starts as a copy of the parameters.
    Co-rewarding-II (https://arxiv.org/abs/2508.00410) and M-GRPO (https://arxiv.org/abs/2512.13070, momentum 1 - rate)
    have such a teacher.
    """

    def init(params: optax.Params) -> Any:
        return TeacherState(optimizer.init(params), jax.tree.map(jnp.copy, params))

    def update(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[optax.Updates, Any]:
        updates, inner = optimizer.update(updates, state.inner, params)
        new = optax.apply_updates(params, updates)
        teacher = jax.tree.map(lambda old, x: (1 - rate) * old + rate * x, state.teacher, new)
        return updates, TeacherState(inner, teacher)

    return optax.GradientTransformation(init, update)


def teacher_of(state: TrainState) -> Any:
    """The teacher's parameters in a state, None if it has no teacher."""
    return state.opt_state.teacher if isinstance(state.opt_state, TeacherState) else None


def _schedule_lengths(config: ConfigDict) -> tuple[int, int]:
    """(RL steps of the schedule, optimizer updates per step)."""
    batch = config.batch
    return config.optimizer.schedule_steps or config.steps, batch.minibatches_per_step * batch.epochs_per_step


class LearningRateState(NamedTuple):
    """The number of updates made, and the learning rate of the last one."""

    count: jax.Array  # type: ignore[assignment]  # tuple has a method of this name
    learning_rate: jax.Array


def scale_by_learning_rate(schedule: optax.Schedule) -> optax.GradientTransformation:
    """optax.scale_by_learning_rate, except that its state stores the last learning rate for the log."""

    def rate(count: jax.Array) -> jax.Array:
        return jnp.asarray(schedule(count), jnp.float32)

    def init(params: optax.Params) -> Any:
        count = jnp.zeros((), jnp.int32)
        return LearningRateState(count, rate(count))

    def update(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[optax.Updates, Any]:
        now = rate(state.count)
        return jax.tree.map(lambda u: -now * u, updates), LearningRateState(optax.safe_increment(state.count), now)

    return optax.GradientTransformation(init, update)


def store_moments_in_bf16(adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """Adam that stores its moments in bfloat16, which halves their memory. Its arithmetic stays float32.

    The second moment is rounded stochastically. With b2 = 0.999 one update lowers it by less than half of bfloat16's
    resolution, so with rounding to nearest it would never fall.
    """

    def convert(state: Any, dtype: DTypeLike, rounded: Callable) -> Any:
        moment = jax.tree.map(lambda x: x.astype(dtype), state.mu)
        return state._replace(mu=moment, nu=rounded(state.nu))

    def init(params: optax.Params) -> Any:
        return convert(adam.init(params), jnp.bfloat16, lambda nu: jax.tree.map(lambda x: x.astype(jnp.bfloat16), nu))

    def update(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[optax.Updates, Any]:
        wide = convert(state, jnp.float32, lambda nu: jax.tree.map(lambda x: x.astype(jnp.float32), nu))
        updates, wide = adam.update(updates, wide, params)
        key = jax.random.fold_in(jax.random.key(0), wide.count)
        return updates, convert(wide, jnp.bfloat16, lambda nu: _round_stochastically(nu, key))

    return optax.GradientTransformation(init, update)


def _round_stochastically(tree: optax.Params, key: jax.Array) -> optax.Params:
    """Rounds float32 leaves to bfloat16, up or down at random. The probabilities make the expected value exact."""

    def one(x: Any, key: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + jax.random.bits(key, x.shape, jnp.uint16)
        return jax.lax.bitcast_convert_type(bits & np.uint32(0xFFFF0000), jnp.float32).astype(jnp.bfloat16)

    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, map(one, leaves, jax.random.split(key, len(leaves))))


def abstract_state(params: nnx.State, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state.

    params: arrays, or abstract arrays with shardings. AdamW's moments are sharded like their parameters.
    """

    def describe(x: Any, where: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    everywhere = sharding.replicated(mesh)
    shardings = jax.tree.map(lambda x: x.sharding, params)
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        describe,
        jax.eval_shape(optimizer.init, params),
        shardings,
        transform_non_params=lambda x: describe(x, everywhere),
    )
    return TrainState(
        jax.tree.map(describe, params, shardings), opt_state, jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    )


def init_state(params: nnx.State, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state before the first step."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(params, optimizer, mesh))
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    return TrainState(params, opt_state, sharding.place(np.zeros((), np.int32), shardings.step))
