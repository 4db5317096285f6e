import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from srt_jax.config import base
from srt_jax.rl.optimizer import (
    abstract_state,
    experiment_optimizer,
    init_state,
    learning_rate_schedule,
    make_optimizer,
)
from tests.tiny_decoder import decoder, mesh_of, place

B1, B2, EPS, DECAY, CLIP, RATE = 0.9, 0.999, 1e-8, 0.1, 0.5, 1e-2


def literal_rate(kind, update, warmup, total, final=0.0):
    """The rate of update 0, 1, ..."""
    if update < warmup:
        return RATE * update / warmup
    share = min((update - warmup) / (total - warmup), 1.0)
    left = {"constant": 1.0, "linear": 1 - share, "cosine": (1 + np.cos(np.pi * share)) / 2}[kind]
    return RATE * (final + (1 - final) * left)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_schedules(kind, warmup):
    """Warm-up and length are given in steps of two updates each."""
    schedule = learning_rate_schedule(RATE, kind, warmup, 10, updates_per_step=2)
    found = [float(schedule(update)) for update in range(23)]
    np.testing.assert_allclose(found, [literal_rate(kind, u, 2 * warmup, 20) for u in range(23)], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_schedule_ends_at_its_final_fraction_after_its_own_steps(kind):
    """As in TTRL's previews: to a tenth of the rate, over more steps than the run makes, or over fewer."""
    config = base()
    config.optimizer.update(dict(learning_rate=RATE, schedule=kind, warmup_steps=1, final_fraction=0.1))
    config.batch.minibatches_per_step, config.steps = 4, 3
    for schedule_steps in (0, 2, 5):
        config.optimizer.schedule_steps = schedule_steps
        _, state = run(experiment_optimizer(config), {"x": jnp.ones(3)}, [{"x": jnp.ones(3)}] * 12)
        expected = literal_rate(kind, 11, 4, 4 * (schedule_steps or 3), 0.1)
        assert float(state[-1].learning_rate) == pytest.approx(expected, rel=1e-5)


def test_a_schedule_without_steps_after_its_warm_up_is_refused():
    with pytest.raises(ValueError, match="a cosine schedule over 10 steps has no steps left after 10 steps of warm-up"):
        learning_rate_schedule(RATE, "cosine", 10, 10)


def run(optimizer, params, gradients):
    """(parameters, optimizer state) after these gradients."""
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def literal_adamw(params, gradients, rates):
    p = {name: value.astype(np.float64) for name, value in params.items()}
    m, v = ({name: np.zeros(value.shape) for name, value in params.items()} for _ in range(2))
    for t, (gradient, rate) in enumerate(zip(gradients, rates), 1):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values()))
        for name, value in gradient.items():
            g = value * min(1.0, CLIP / norm)
            m[name] = B1 * m[name] + (1 - B1) * g
            v[name] = B2 * v[name] + (1 - B2) * g * g
            direction = m[name] / (1 - B1**t) / (np.sqrt(v[name] / (1 - B2**t)) + EPS)
            p[name] = p[name] - rate * (direction + DECAY * p[name])
    return p, v


def problem(updates, shape=(32, 32)):
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape).astype(np.float32) for name in "ab"}
    scale = rng.exponential(size=shape)
    return params, [
        {name: (scale * rng.normal(size=shape)).astype(np.float32) for name in "ab"} for _ in range(updates)
    ]


def test_adamw_is_the_textbook_formula_and_tells_its_rate():
    params, gradients = problem(6)
    schedule = learning_rate_schedule(RATE, "linear", 2, 6)
    found, state = run(make_optimizer(schedule, B1, B2, EPS, DECAY, CLIP), params, gradients)
    expected, _ = literal_adamw(params, gradients, [literal_rate("linear", u, 2, 6) for u in range(6)])
    for name in params:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
    assert float(optax.tree.get(state, "learning_rate")) == pytest.approx(literal_rate("linear", 5, 2, 6))


def test_bfloat16_moments_follow_the_float32_ones():
    """Also where the gradients shrink, so that the second moment must fall by less than bfloat16 can show in a step."""
    params, gradients = problem(120)
    gradients = gradients[:60] + [{name: g / 100 for name, g in later.items()} for later in gradients[60:]]
    optimizer = make_optimizer(learning_rate_schedule(RATE), B1, B2, EPS, DECAY, 1e9, "bfloat16")
    found, state = run(optimizer, params, gradients)
    wide, wide_state = run(make_optimizer(learning_rate_schedule(RATE), B1, B2, EPS, DECAY, 1e9), params, gradients)
    moments, expected = state[1], wide_state[1]
    assert {x.dtype for x in jax.tree.leaves((moments.mu, moments.nu))} == {np.dtype(jnp.bfloat16)}
    for name in params:
        ratio = np.float64(moments.nu[name]) / np.float64(expected.nu[name])
        assert abs(ratio.mean() - 1) < 5e-3 and abs(ratio - 1).max() < 0.1  # rounding to nearest: 6% too large
        assert np.linalg.norm(found[name] - wide[name]) < 0.02 * np.linalg.norm(wide[name] - params[name])
    again, _ = run(optimizer, params, gradients)
    assert all((again[name] == found[name]).all() for name in params)  # its dice are a function of the step


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_moments_lie_beside_their_parameters(dtype):
    mesh = mesh_of(fsdp=2, tensor=2)
    optimizer = make_optimizer(learning_rate_schedule(RATE), B1, B2, EPS, DECAY, CLIP, dtype)
    params = place(decoder()[1], mesh)
    state = init_state(params, optimizer, mesh)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
    abstract = abstract_state(shapes, optimizer, mesh)
    described = [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(abstract)]
    assert [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(state)] == described
    moments = state.opt_state[1]
    for moment in (moments.mu, moments.nu):
        for m, p in zip(jax.tree.leaves(moment), jax.tree.leaves(params)):
            assert (
                m.dtype == dtype
                and m.sharding == p.sharding
                and m.addressable_shards[0].data.shape == p.addressable_shards[0].data.shape
            )
