"""Adapters in the decoder: the first model is the base, their gradient, and merging."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_models import save_model

from srt_jax.config import base, fields
from srt_jax.config.allowed import default_of
from srt_jax.errors import ModelError
from srt_jax.model import lora, sharding, weights
from srt_jax.model.config import ModelConfig
from srt_jax.model.decoder import abstract
from srt_jax.model.lora import LoRA
from tests.tiny_decoder import HF_CONFIG, LORA, VOCAB, adapted, decoder, flat, mesh_of, place

TOKENS = np.random.default_rng(0).integers(0, VOCAB, (3, 14), dtype=np.int32)


@functools.partial(jax.jit, static_argnums=0)
def logits(graphdef, params, tokens=TOKENS):
    model = nnx.merge(graphdef, params)
    return model.logits(model(tokens))


def test_the_config_has_the_settings_of_the_adapters():
    section = base().model.lora
    assert LoRA.of(section) is None
    assert default_of(fields.FIELDS["model"]["lora"]["targets"]) == tuple(lora.TARGETS)
    section.rank, section.targets = 16, ("down_proj", "q_proj")
    assert LoRA.of(section) == LoRA(16, 32.0, False, ("q_proj", "down_proj"))
    assert LoRA.of(section).scale == 2 and LoRA(16, 32.0, rslora=True).scale == 8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_first_model_is_the_base_bit_for_bit(dtype):
    graphdef, params = decoder(dtype)
    adapted_graphdef, shapes = lora.attach(graphdef, params, LORA)
    adapters = lora.init_adapters(shapes, 3, mesh_of())
    found = logits(adapted_graphdef, lora.join(adapters, params))
    assert np.asarray(found).tobytes() == np.asarray(logits(graphdef, params)).tobytes()
    assert {path.split(".")[1] for path in flat(adapters)} == {*lora.TARGETS.values()}


def test_new_adapters_are_peft_s_and_the_same_on_every_mesh():
    _, shapes = lora.attach(*decoder(), LORA)
    one, other = (flat(lora.init_adapters(shapes, 3, mesh_of(*shape))) for shape in [(1, 1, 1), (2, 2, 2)])
    assert all(one[path].tobytes() == other[path].tobytes() for path in one)
    assert (
        flat(lora.init_adapters(shapes, 4, mesh_of()))["layers.q.lora_a"].tobytes() != one["layers.q.lora_a"].tobytes()
    )
    for path, x in one.items():
        bound = x.shape[1] ** -0.5
        assert (x == 0).all() if path.endswith(lora.B) else bound * 0.9 < np.abs(x).max() <= bound
    assert not np.array_equal(one["layers.gate.lora_a"], one["layers.up.lora_a"])
    assert not np.array_equal(one["layers.q.lora_a"][0], one["layers.q.lora_a"][1])


def test_trees_are_joined_and_split_without_copies():
    graphdef, params, adapters = adapted()
    params, adapters = place(params, mesh_of()), place(adapters, mesh_of())
    trained, frozen = lora.split(lora.join(adapters, params))
    for found, expected in ((trained, adapters), (frozen, params)):
        assert all(a is b for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    assert lora.split(params) == (params, None) and lora.join(params, None) is params
    assert lora.base_graphdef(graphdef, lora.join(adapters, params)) == decoder()[0]
    assert lora.base_graphdef(decoder()[0], params) is decoder()[0]


def test_the_gradient_is_that_of_finite_differences():
    graphdef, params, adapters = adapted()

    @jax.jit
    def loss(adapters):
        values = logits(graphdef, lora.join(adapters, params))
        return jnp.take_along_axis(jax.nn.log_softmax(values[:, :-1]), TOKENS[:, 1:, None], -1).mean()

    gradient, rng = jax.grad(loss)(adapters), np.random.default_rng(1)
    assert {*flat(gradient)} == {*flat(adapters)}  # and none for the base
    for path, slope in flat(gradient).items():
        direction = rng.standard_normal(slope.shape).astype(np.float32)
        direction += slope * np.linalg.norm(direction) / np.linalg.norm(slope)  # half of it uphill: no small result
        direction *= 0.02 / np.linalg.norm(direction)
        moved = {path: direction}
        there, back = (
            loss(weights.map_with_path(lambda p, x, by=by: x + by.get(p, 0), adapters))
            for by in (moved, {path: -direction})
        )
        assert (float(there) - float(back)) / 2 == pytest.approx(float((slope * direction).sum()), rel=5e-3), path


@pytest.mark.parametrize("settings", [LORA, LoRA(2, 3.0, True, ("k_proj", "o_proj", "down_proj"))])
def test_merged_equals_unmerged(settings):
    graphdef, params, adapters = adapted(settings=settings)
    policy = lora.join(adapters, params)
    plain = lora.merge(policy, settings.scale)
    found, expected = logits(decoder()[0], plain), logits(graphdef, policy)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(expected - logits(decoder()[0], params)).max() > 0.1  # the adapters do something
    by_hand = flat(params)["layers.o.kernel"].astype(np.float64) + settings.scale * np.matmul(
        *(flat(adapters)[f"layers.o.{part}"].astype(np.float64) for part in (lora.A, lora.B))
    )
    assert np.abs(flat(plain)["layers.o.kernel"] - by_hand).max() < 1e-6


def test_an_export_merges_in_float32_from_a_bfloat16_base(tmp_path):
    """In bfloat16 an update of 1e-4 of a weight is lost."""
    save_model(tmp_path / "base", "qwen3")
    mesh = mesh_of(1, 2, 2)
    hf = weights.read_hf_config(tmp_path / "base")
    graphdef, params, _ = weights.load(tmp_path / "base", "bfloat16", mesh=mesh, frozen=True)
    assert {str(x.dtype) for path, x in flat(params).items() if not path.endswith("scale")} == {"bfloat16"}
    assert flat(params)["norm.scale"].dtype == np.float32
    graphdef, shapes = lora.attach(graphdef, params, LORA)
    rng = np.random.default_rng(0)
    adapters = weights.map_with_path(lambda _, x: (0.003 * rng.standard_normal(x.shape)).astype(np.float32), shapes)
    policy = lora.join(place(adapters, mesh), params)
    with pytest.raises(ValueError, match=r"layers\.q\.kernel has adapters"):
        weights.save(tmp_path / "lost", policy, hf, "float32")
    weights.save(tmp_path / "merged", policy, hf, "float32", adapter_scale=LORA.scale)
    found, expected = flat(weights.load(tmp_path / "merged")[1]), flat(lora.merge(policy, LORA.scale))
    for path, value in expected.items():
        assert np.abs(found[path] - value.astype(np.float32)).max() < 1e-8, path
    assert (found["layers.q.kernel"] != flat(params)["layers.q.kernel"].astype(np.float32)).mean() > 0.99


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (LoRA(17, 32.0), r"rank is 17, but k_proj of this model has 32 x 16 weights: choose a rank of at most 16, or"),
        (LoRA(33, 32.0, targets=("q_proj",)), "rank is 33, but q_proj of this model has 32 x 32"),
    ],
)
def test_a_rank_above_a_dimension_is_refused(settings, message):
    with pytest.raises(ModelError, match=message):
        lora.check(settings, ModelConfig.from_hf(HF_CONFIG))
    lora.check(LoRA(17, 32.0, targets=("gate_proj", "q_proj")), ModelConfig.from_hf(HF_CONFIG))


def test_the_number_of_parameters_is_that_of_the_tree():
    config = ModelConfig.from_hf(HF_CONFIG)
    for settings in (LORA, LoRA(2, 3.0, targets=("o_proj",))):
        _, shapes = lora.attach(*abstract(config), settings)
        assert lora.num_params(settings, config) == sum(x.size for x in jax.tree.leaves(shapes))


def test_every_adapter_is_split_like_its_matrix():
    mesh = mesh_of(1, 2, 4)
    for name in lora.TARGETS.values():
        spec = sharding.parameter_sharding(mesh, f"layers.{name}.kernel", (2, 32, 48)).spec
        a = sharding.parameter_sharding(mesh, f"layers.{name}.lora_a", (2, 32, 4)).spec
        b = sharding.parameter_sharding(mesh, f"layers.{name}.lora_b", (2, 4, 48)).spec
        assert (a[1], b[2]) == (spec[1], spec[2]) and a[2] is None and b[1] is None
