"""Several devices compute the same as one, and no whole array is sent between them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srt_jax.errors import ModelError
from srt_jax.model import decoder, sharding
from srt_jax.model.config import ModelConfig
from srt_jax.model.logprobs import token_logprobs
from srt_jax.model.paths import flat_paths
from tests.helpers import fast_cases

# No two of these numbers, nor their halves, are alike: a dimension of the compiled program tells what it is.
B, S, D, F, V, L = 8, 20, 32, 56, 640, 3
MESHES = fast_cases([(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2)], (2, 2, 2))


def model_config(**changes):
    return ModelConfig.from_hf(
        {
            "model_type": "qwen3",
            "vocab_size": V,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": L,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 6,
            **changes,
        }
    )


def mesh_of(*shape):
    return sharding.make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])


@functools.cache
def loss_and_gradients(shape, tied):
    """(compiled text, loss, {path: gradient}) of a weighted sum of log-probs and entropies."""
    mesh = mesh_of(*shape)
    graphdef, params = decoder.create(model_config(tie_word_embeddings=tied), 0, mesh)
    tokens = np.random.default_rng(0).integers(0, V, (B, S), dtype=np.int32)
    weights = np.sin(np.arange(B * (S - 1), dtype=np.float32)).reshape(B, -1)

    def loss(params, tokens, weights):
        model = nnx.merge(graphdef, params)
        logprobs, entropy = token_logprobs(model(tokens)[:, :-1], model.head_weights(), tokens[:, 1:], 0.9, 5, mesh)
        return (weights * logprobs + 0.1 * entropy).sum()

    arguments = params, *sharding.place((tokens, weights), sharding.by_rows(mesh))
    compiled = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
    value, gradients = compiled(*arguments)
    return compiled.as_text(), float(value), dict(flat_paths(gradients))


@pytest.fixture(autouse=True)
def layers_in_a_loop(monkeypatch):
    """Runs the layers in a loop, as in a model of real size."""
    monkeypatch.setattr(decoder, "UNROLL_BELOW", 0)


@pytest.mark.parametrize("shape", MESHES)
def test_loss_and_gradients_equal_those_of_one_device(shape):
    tied = shape[0] == 2
    _, expected, by_one = loss_and_gradients((1, 1, 1), tied)
    _, found, by_many = loss_and_gradients(shape, tied)
    assert found == pytest.approx(expected, rel=1e-5)
    for path, gradient in by_one.items():
        np.testing.assert_allclose(by_many[path], gradient, rtol=1e-5, atol=1e-5 * np.abs(gradient).max(), err_msg=path)


@pytest.mark.parametrize("shape", MESHES)
def test_gradients_lie_where_the_parameters_do(shape):
    mesh, (_, _, gradients) = mesh_of(*shape), loss_and_gradients(shape, shape[0] == 2)
    for path, gradient in gradients.items():
        wanted = sharding.parameter_sharding(mesh, path, gradient.shape)
        assert gradient.sharding.is_equivalent_to(wanted, gradient.ndim), path


@pytest.mark.parametrize("shape", MESHES)
def test_nothing_whole_is_gathered_or_kept(shape):
    text, _, _ = loss_and_gradients(shape, shape[0] == 2)
    arrays = {tuple(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", text)}
    gathered = {tuple(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]\S* all-gather\(", text)}
    assert any(S in dims for dims in arrays)  # activations look as expected here
    assert not [dims for dims in gathered if S in dims or S - 1 in dims]  # no activation
    vocabulary, positions = {V, V // shape[2]}, {S, S - 1, B * S, B * (S - 1)}
    assert not [dims for dims in arrays if vocabulary & {*dims} and positions & {*dims}]  # no logits of all tokens
    if shape[1] > 1:
        assert (1, D, F // shape[2]) in gathered  # a layer's weights are,
        assert not [dims for dims in arrays if dims[:1] == (L,) and {D, F // shape[2]} <= {*dims}]  # all layers' never


def test_no_row_is_gathered_to_look_up_its_embedding(capfd):
    """XLA logs a warning when it copies a whole array to every device."""
    mesh = mesh_of(2, 2, 2)
    graphdef, shapes = decoder.abstract(model_config(), mesh=mesh)
    params = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        shapes,
        sharding.parameter_shardings(mesh, shapes),
    )
    tokens = jax.ShapeDtypeStruct((B, S), jnp.int32, sharding=sharding.by_rows(mesh))
    new = np.float32(np.random.default_rng().random())  # a program that the cache holds is silent
    jax.jit(jax.grad(lambda params, tokens: new * nnx.merge(graphdef, params)(tokens).sum())).lower(
        params, tokens
    ).compile()
    assert "rematerialization" not in capfd.readouterr().err


def test_every_parameter_is_split_as_the_table_says():
    mesh = mesh_of(2, 2, 2)
    _, shapes = decoder.abstract(model_config(vocab_size=87, attention_bias=True))
    placed = {path: sharding.parameter_sharding(mesh, path, x.shape).spec for path, x in flat_paths(shapes)}
    P = jax.sharding.PartitionSpec
    assert placed["embedding"] == P(None, "fsdp")  # 87 stays whole
    assert placed["layers.q.kernel"] == placed["layers.gate.kernel"] == P(None, "fsdp", "tensor")
    assert placed["layers.down.kernel"] == P(None, "tensor", "fsdp")
    assert placed["layers.v.bias"] == P(None, "tensor")
    assert placed["norm.scale"] == P()


def test_description_counts_every_parameter_and_names_what_stays_whole():
    mesh = mesh_of(2, 2, 2)
    _, shapes = decoder.abstract(model_config(vocab_size=87))
    text = sharding.describe(mesh, shapes)
    counts = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) parameters", text)]
    assert sum(counts) == sum(x.size for _, x in flat_paths(shapes))
    assert "embedding dimension 0 of 87 stays whole: tensor=2 does not divide it" in text
    assert "data=2 x fsdp=2 x tensor=2" in text
    assert "stays whole" not in sharding.describe(mesh, decoder.abstract(model_config())[1])


@pytest.mark.parametrize("tensor", [1, 2])
def test_tensor_axes_that_divide_the_heads_pass(tensor):
    sharding.check_mesh(model_config(), tensor)


@pytest.mark.parametrize("tensor", [3, 4])
def test_tensor_axes_that_do_not_divide_the_heads_are_refused(tensor):
    with pytest.raises(ModelError, match=rf"mesh\.tensor is {tensor}.* 2 key/value heads .*divisor of 2"):
        sharding.check_mesh(model_config(), tensor)


def test_place_cuts_host_arrays_by_their_sharding():
    mesh = mesh_of(2, 2, 2)
    tree = {"rows": np.arange(24).reshape(8, 3), "step": np.float32(3)}
    placed = sharding.place(tree, {"rows": sharding.by_rows(mesh), "step": sharding.replicated(mesh)})
    np.testing.assert_array_equal(placed["rows"], tree["rows"])
    assert {shard.data.shape for shard in placed["rows"].addressable_shards} == {(2, 3)}
    assert placed["step"].sharding.is_fully_replicated and placed["step"] == 3
    both = sharding.place([np.zeros(8, bool), np.ones(8, np.int32)], sharding.by_rows(mesh))
    assert [x.dtype for x in both] == [bool, np.int32]


def test_fresh_parameters_are_drawn_where_they_lie_and_alike_on_every_mesh():
    _, alone = decoder.create(model_config(), 0, mesh_of(1, 1, 1))
    _, spread = decoder.create(model_config(), 0, mesh_of(2, 2, 2))
    _, other = decoder.create(model_config(), 1, mesh_of(1, 1, 1))
    alone, spread, other = (dict(flat_paths(tree)) for tree in (alone, spread, other))
    for path, x in alone.items():
        np.testing.assert_allclose(spread[path], x, rtol=1e-6, atol=1e-7, err_msg=path)
    assert spread["embedding"].sharding.spec == jax.sharding.PartitionSpec("tensor", "fsdp")
    assert not np.allclose(alone["embedding"], other["embedding"])
