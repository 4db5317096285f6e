"""The update of adapters: its formula, a base that never changes, and what must not matter."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from srt_jax.model import lora, sharding
from srt_jax.model.paths import map_with_path
from srt_jax.rl.collate import Layout, abstract_batch, batch_sharding
from srt_jax.rl.optimizer import abstract_state, init_state, learning_rate_schedule, make_optimizer
from srt_jax.rl.update import UpdateConfig, make_update
from tests.helpers import fast_cases
from tests.tiny_decoder import LORA, adapted, decoder, flat, mesh_of, place, recorded

P, N = 4, 4
RATE = 0.1
RECORDER = optax.chain(optax.trace(decay=0.0), optax.scale(-RATE))  # gradient descent; its state is the gradient
ADAMW = make_optimizer(learning_rate_schedule(1e-2), b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1, grad_clip=0.5)
QUICK = {"xla_backend_optimization_level": 0}


class Step:
    """One compiled update of the tiny decoder's adapters; calling it returns (new state, metrics)."""

    def __init__(self, mesh_shape, optimizer, dtype, remat, zero, config):
        self.mesh, self.optimizer = mesh_of(*mesh_shape), optimizer
        self.graphdef, base, self.adapters = adapted(dtype, remat, mesh=self.mesh, zero=zero)
        stored = map_with_path(lambda path, x: x if path.endswith("scale") else x.astype(dtype), base)
        self.base = place(stored, self.mesh)
        self.config = config
        shapes = abstract_state(place(self.adapters, self.mesh), optimizer, self.mesh)
        update = make_update(self.graphdef, optimizer, config, self.mesh, shapes)
        lowered = update.lower(shapes, self.base, abstract_batch(config.layout, self.mesh))
        self.update = lowered.compile(QUICK)

    def state(self):
        return init_state(place(self.adapters, self.mesh), self.optimizer, self.mesh)

    def __call__(self, rollouts, state=None):
        batch = sharding.place(rollouts.batch(self.config.layout, 0.8), batch_sharding(self.mesh))
        state, metrics = self.update(state or self.state(), self.base, batch)
        return state, jax.device_get(metrics)


@functools.cache
def step(
    mesh_shape=(1, 1, 1), optimizer=RECORDER, dtype="float32", remat="none", zero=False, layout=None, micro=4, **fields
):
    layout = layout or Layout(P, N, micro, (16,))
    return Step(mesh_shape, optimizer, dtype, remat, zero, UpdateConfig(layout, **{"kl_coef": 0.05} | fields))


@functools.cache
def full_gradient(mesh_shape=(1, 1, 1)):
    """The gradient of all parameters of the base, by the update that trains them."""
    mesh = mesh_of(*mesh_shape)
    graphdef, params = decoder(mesh=mesh)
    state = init_state(place(params, mesh), RECORDER, mesh)
    update = make_update(graphdef, RECORDER, UpdateConfig(Layout(P, N, 4, (16,)), kl_coef=0.05), mesh, state)
    batch = sharding.place(recorded().batch(Layout(P, N, 4, (16,)), 0.8), batch_sharding(mesh))
    compiled = update.lower(state, place(params, mesh), abstract_batch(Layout(P, N, 4, (16,)), mesh)).compile(QUICK)
    return flat(compiled(state, place(params, mesh), batch)[0].opt_state[0].trace)


def test_the_first_step_of_gradient_descent_moves_each_matrix_along_its_projected_gradient():
    """From B = 0: dW = -rate * scale^2 * A A^T G, where G is the gradient of W (in Hugging Face's layout G A^T A)."""
    state, _ = step(zero=True)(recorded())
    before, after = flat(step(zero=True).adapters), flat(state.params)
    for name in lora.TARGETS.values():
        a, b = (after[f"layers.{name}.{part}"].astype(np.float64) for part in (lora.A, lora.B))
        assert np.array_equal(a, before[f"layers.{name}.{lora.A}"])  # B = 0 gives A no gradient
        gradient = full_gradient()[f"layers.{name}.kernel"].astype(np.float64)
        found = LORA.scale * a @ b
        expected = -RATE * LORA.scale**2 * a @ np.swapaxes(a, 1, 2) @ gradient
        assert np.abs(expected).max() > 1e-4
        assert np.abs(found - expected).max() <= 1e-6, name


def test_the_policy_starts_as_the_reference():
    _, metrics = step(zero=True)(recorded())
    assert metrics["kl"] == 0 and metrics["grad_norm"] > 0
    assert step()(recorded())[1]["kl"] > 1e-3  # adapters that are not 0, as from model.lora.path
    assert "weights_moved_bf16" not in metrics


@pytest.mark.parametrize("dtype", fast_cases(["float32", "bfloat16"], "bfloat16"))
def test_the_base_is_bit_for_bit_the_same_after_20_steps(dtype):
    trained = step(optimizer=ADAMW, dtype=dtype, kl_coef=0.0 if dtype == "bfloat16" else 0.05)
    before, state = {path: x.tobytes() for path, x in flat(trained.base).items()}, None
    arrays = jax.tree.leaves(trained.base)
    for seed in range(20):
        state, metrics = trained(recorded(seed=seed), state)
        assert metrics["finite"] and metrics["updated"] == 1
    assert not any(x.is_deleted() for x in arrays)  # it is not donated
    assert {path: x.tobytes() for path, x in flat(trained.base).items()} == before
    first, last = flat(trained.adapters), flat(state.params)
    assert all((first[path] != last[path]).mean() > 0.9 for path in first)
    leaves = jax.tree.leaves((state.params, state.opt_state))
    assert {str(x.dtype) for x in leaves if x.ndim} == {"float32"}
    assert sum(x.size for x in leaves if x.ndim) == 3 * sum(x.size for x in first.values())  # with AdamW's moments


VARIANTS = {
    "recomputed layers": dict(remat="full"),
    "packed rows": dict(layout=Layout(P, N, 2, (16,), packing=True)),
    "micro-batches of 1, logits recomputed": dict(micro=1, head_chunk_tokens=5),
    "data=2 x fsdp=2 x tensor=2": dict(mesh_shape=(2, 2, 2), micro=8, remat="full"),
    "fsdp=8": dict(mesh_shape=(1, 8, 1), micro=8),
}


@pytest.mark.parametrize("name", fast_cases(VARIANTS, "data=2 x fsdp=2 x tensor=2"))
def test_how_it_is_computed_does_not_matter(name):
    (state, metrics), (expected_state, expected) = step(**VARIANTS[name])(recorded()), step()(recorded())
    for metric in ("loss", "grad_norm", "kl", "entropy", "return"):
        assert metrics[metric] == pytest.approx(expected[metric], rel=1e-5), metric
    found = flat(state.opt_state[0].trace)
    for path, value in flat(expected_state.opt_state[0].trace).items():
        assert np.linalg.norm(found[path] - value) <= 1e-5 * np.linalg.norm(value), path
        assert np.linalg.norm(value) > 0, path


def test_frozen_matrices_cost_no_gradient():
    """The compiled update computes no gradient of a frozen matrix or of the head: it needs fewer FLOPs than two thirds.

    Forward and backward pass of a frozen matrix are two products instead of three.
    """
    shape = dict(vocab_size=512, hidden_size=128)
    with_adapters, base, adapters = adapted(settings=dataclasses.replace(LORA, rank=1), **shape)
    layout, mesh, flops = Layout(P, N, 16, (16,)), mesh_of(), {}
    for kind, graphdef, trained in (("full", decoder(**shape)[0], base), ("adapters", with_adapters, adapters)):
        state = abstract_state(place(trained, mesh), RECORDER, mesh)
        update = make_update(graphdef, RECORDER, UpdateConfig(layout, kl_coef=0.0), mesh, state)
        compiled = update.lower(state, place(base, mesh), abstract_batch(layout, mesh)).compile(QUICK)
        flops[kind] = compiled.cost_analysis()["flops"]
    assert flops["adapters"] < 0.72 * flops["full"], flops
