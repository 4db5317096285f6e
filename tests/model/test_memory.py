"""What a forward and backward pass holds: by remat policy, by micro-batch (by vocabulary: test_token_logprobs)."""
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srt_jax.model import decoder
from srt_jax.model.config import ModelConfig
from srt_jax.model.logprobs import token_logprobs
from srt_jax.model.paths import flat_paths

S, D, L, CHUNK_TOKENS = 128, 64, 6, 64
REMATS = ("none", "attention", "dots", "full")


def loss_of(remat="full", rows=4, dtype="float32"):
    """(loss(params, tokens), abstract parameters, abstract tokens [rows, S]) of a small model."""
    config = ModelConfig.from_hf({
        "model_type": "llama", "vocab_size": 64, "hidden_size": D, "intermediate_size": 4 * D,
        "num_hidden_layers": L, "num_attention_heads": 4, "num_key_value_heads": 2})
    graphdef, shapes = decoder.abstract(config, dtype, remat)

    def loss(params, tokens):
        model = nnx.merge(graphdef, params)
        logprobs, _ = token_logprobs(
            model(tokens)[:, :-1], model.head_weights(), tokens[:, 1:], 1.0, CHUNK_TOKENS // rows)
        return (logprobs * jnp.cos(jnp.arange(S - 1.0))).sum()

    return loss, shapes, jax.ShapeDtypeStruct((rows, S), jnp.int32)


@functools.cache
def compiled(**changes):
    """The gradient of that loss."""
    loss, *arguments = loss_of(**changes)
    return jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()


def temporaries(**changes):
    """Bytes that the compiled gradient holds beside its arguments and results."""
    return compiled(**changes).memory_analysis().temp_size_in_bytes


def kept(**changes):
    """Abstract arrays that the forward pass leaves for the backward pass."""
    loss, *arguments = loss_of(**changes)
    return jax.tree.leaves(jax.eval_shape(lambda *arguments: jax.vjp(loss, *arguments)[1], *arguments))


@pytest.fixture(autouse=True)
def layers_in_a_loop(monkeypatch):
    """As in a model of real size."""
    monkeypatch.setattr(decoder, "UNROLL_BELOW", 0)


def test_remat_changes_neither_loss_nor_gradients():
    _, shapes, _ = loss_of()
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.2 * rng.standard_normal(x.shape)).astype(np.float32), shapes)
    tokens = rng.integers(0, 64, (4, S), dtype=np.int32)
    expected, by_none = compiled(remat="none")(params, tokens)
    for remat in REMATS[1:]:
        found, gradients = compiled(remat=remat)(params, tokens)
        assert float(found) == pytest.approx(float(expected), rel=1e-6)
        for (path, ours), (_, wanted) in zip(flat_paths(gradients), flat_paths(by_none)):
            np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max(), err_msg=path)


def test_each_remat_holds_less_than_the_one_before():
    held = [temporaries(remat=remat) for remat in REMATS]
    assert all(before > 1.3 * after for before, after in itertools.pairwise(held)), held


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_each_remat_keeps(dtype):
    """Weights in the compute dtype never: all layers of them would be a second copy of the model."""
    arrays = {remat: kept(remat=remat, dtype=dtype) for remat in REMATS}
    sizes = [sum(x.size * x.dtype.itemsize for x in arrays[remat]) for remat in REMATS]
    assert all(before > 1.1 * after for before, after in itertools.pairwise(sizes)), sizes
    weights = {(L, D, 4 * D), (L, 4 * D, D), (L, D, D), (L, D, D // 2)}
    assert {x.shape for x in arrays["none"]} & weights  # the parameters themselves
    if dtype == "bfloat16":
        assert not [x for found in arrays.values() for x in found if x.shape in weights and x.dtype == jnp.bfloat16]
    assert [x for x in arrays["none"] if x.shape[-2:] == (2 * S, S)]  # the attention weights of 2 heads per key head
    assert not [x for remat in REMATS[1:] for x in arrays[remat] if x.shape[-2:] == (2 * S, S)]


def test_memory_grows_linearly_with_the_micro_batch():
    """Half a micro-batch more takes half as much more, whatever else there is."""
    four, eight, sixteen = (temporaries(rows=rows) for rows in (4, 8, 16))
    assert 1.8 < sixteen / eight < 2.2 and 1.8 < eight / four < 2.4
