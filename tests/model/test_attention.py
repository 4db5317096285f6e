"""Every attention kernel against NumPy in float64, forward and gradients; splash runs interpreted on the CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srt_jax.config import base
from srt_jax.errors import ModelError
from srt_jax.model import attention, sharding
from tests.helpers import fast_cases

KERNELS = {"xla": attention.xla, "splash": functools.partial(attention.splash, interpret=True)}
# B, S, N, K, H: shared and own keys; one token; lengths and head dims that splash pads; more than one of its blocks.
CASES = {
    "xla": [(2, 28, 4, 2, 16), (1, 1, 2, 2, 8), (2, 33, 3, 3, 20), (1, 65, 4, 1, 64)],
    "splash": [(2, 28, 4, 2, 64), (1, 300, 2, 1, 128), (1, 512, 2, 2, 20)],
}
ON_A_GPU = pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs an NVIDIA GPU")


def reference(q, k, v, by_out, segments=None):
    """(out, gradients by q, k and v) in float64, head by head; segments [B, S]."""
    q, k, v, by_out = (x.astype(np.float64) for x in (q, k, v, by_out))
    out, by_q, by_k, by_v = (np.zeros_like(x) for x in (q, q, k, v))
    scale, group = q.shape[-1] ** -0.5, q.shape[2] // k.shape[2]
    for b, n in np.ndindex(q.shape[0], q.shape[2]):
        here, shared = (b, slice(None), n), (b, slice(None), n // group)
        visible = np.tri(q.shape[1], dtype=bool)
        if segments is not None:
            visible &= segments[b][:, None] == segments[b]
        scores = np.where(visible, q[here] @ k[shared].T * scale, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        out[here] = p @ v[shared]
        by_v[shared] += p.T @ by_out[here]
        by_p = by_out[here] @ v[shared].T
        by_scores = p * (by_p - (by_p * p).sum(-1, keepdims=True)) * scale
        by_q[here] = by_scores @ k[shared]
        by_k[shared] += by_scores.T @ q[here]
    return out, by_q, by_k, by_v


def random_case(B, S, N, K, H, seed=0):
    """q, k, v and a gradient of the output, float32."""
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(B, S, heads, H)).astype(np.float32) for heads in (N, K, K, N))


def with_gradients(kernel, q, k, v, by_out):
    """(out, gradients by q, k and v)."""

    def run(q, k, v, by_out):
        out, back = jax.vjp(kernel, q, k, v)
        return (out, *back(by_out))

    return jax.jit(run)(q, k, v, by_out)


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in CASES for shape in CASES[name]])
def test_forward_and_gradients_equal_numpy(name, shape):
    case = random_case(*shape)
    for ours, expected in zip(with_gradients(KERNELS[name], *case), reference(*case)):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def packed_rows(B, S):
    """[B, S]: the first row is padding alone; the others hold sequences of unequal lengths and end in padding."""
    cuts = np.sort(np.random.default_rng(1).choice(np.arange(1, S), (B, 3), replace=False))
    segments = (np.arange(S) >= cuts[:, :, None]).sum(1, dtype=np.int32)
    segments = np.where(segments < 3, segments + 3 * np.arange(B, dtype=np.int32)[:, None], -1)
    segments[0] = -1
    return segments


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("xla", (3, 28, 4, 2, 16)),
        ("xla again", (2, 33, 3, 3, 20)),
        ("splash", (2, 300, 2, 1, 20)),
        ("splash", (2, 1024, 2, 1, 64)),
    ],
)
def test_sequences_of_a_row_do_not_see_each_other(name, shape):
    """The rows have several of splash's blocks, some of which contain only other sequences."""
    kernel = {"xla again": attention.xla_again, **KERNELS}[name]
    case, segments = random_case(*shape), packed_rows(*shape[:2])
    found = with_gradients(lambda q, k, v: kernel(q, k, v, segments), *case)
    for ours, expected in zip(found, reference(*case, segments)):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("segments", [None, packed_rows(2, 255)])
@pytest.mark.parametrize("name", ["xla", pytest.param("cudnn", marks=ON_A_GPU)])
def test_sixteen_bits_stay_near_numpy(name, segments):
    kernel = functools.partial({"xla": attention.xla, "cudnn": attention.cudnn}[name], segments=segments)
    case = [jnp.asarray(x, jnp.bfloat16) for x in random_case(2, 255, 4, 2, 64)]
    expected = reference(*(np.asarray(x, np.float32) for x in case), segments)
    for ours, wanted in zip(with_gradients(kernel, *case), expected):
        assert ours.dtype == jnp.bfloat16
        difference = np.asarray(ours, np.float64) - wanted
        assert np.sqrt((difference**2).mean() / (wanted**2).mean()) < 0.01


@pytest.mark.parametrize("length", fast_cases([28, *base().batch.length_buckets], 28, 512, 1024))
@pytest.mark.parametrize("name", ["xla", "splash", pytest.param("cudnn", marks=ON_A_GPU)])
def test_finite_at_every_bucket_length_with_rows_of_padding_alone(name, length):
    """Padding tokens are all equal: zeros, and values as large as activations get."""
    rows = np.zeros((2, length, 1, 8), np.float32)
    rows[1] = 300
    rows[:, : length // 3] = np.random.default_rng(0).normal(size=(length // 3, 1, 8))
    rows[0] = 0
    kernel = KERNELS.get(name, attention.cudnn)
    rows = jnp.asarray(rows, jnp.bfloat16)
    out, *gradients = with_gradients(kernel, rows, rows, rows, jnp.ones_like(rows))
    assert all(bool(jnp.isfinite(x).all()) for x in (out, *gradients))
    assert not out[0].any()


@pytest.mark.parametrize("segments", [None, packed_rows(4, 20)])
@pytest.mark.parametrize("name", ["xla", "splash"])
def test_each_device_attends_in_its_own_rows_and_heads(name, segments):
    mesh = sharding.make_mesh(2, 2, 2, devices=jax.devices()[:8])
    inputs = (*random_case(4, 20, 4, 2, 8)[:3], segments)
    alone = jax.jit(functools.partial(attention.causal, name=name))(*inputs)
    spread = jax.jit(functools.partial(attention.causal, name=name, mesh=mesh))
    text = spread.lower(*inputs).compile().as_text()
    np.testing.assert_allclose(spread(*inputs), alone, rtol=1e-5, atol=1e-6)
    assert not any(f" {kind}" in text for kind in ("all-gather(", "all-reduce(", "all-to-all("))


@pytest.mark.parametrize(
    ("name", "platform", "dtype", "chosen"),
    [
        ("auto", "cpu", "bfloat16", "xla"),
        ("auto", "gpu", "bfloat16", "cudnn"),
        ("auto", "cuda", "bfloat16", "cudnn"),
        ("auto", "gpu", "float32", "xla"),
        ("auto", "tpu", "float32", "splash"),
        ("xla", "tpu", "bfloat16", "xla"),
        ("cudnn", "gpu", "bfloat16", "cudnn"),
    ],
)
def test_choice_follows_the_platform(name, platform, dtype, chosen):
    assert attention.choose(name, platform, dtype, 64) == chosen


def test_heads_that_cudnn_cannot_compute():
    assert [attention.choose("auto", "gpu", "bfloat16", head_dim) for head_dim in (20, 80, 256)] == [
        "xla",
        "cudnn",
        "xla",
    ]
    with pytest.raises(
        ModelError, match="a head dim that is a multiple of 8 and at most 128, and this model has 20: set it to"
    ):
        attention.choose("cudnn", "gpu", "bfloat16", 20)


@pytest.mark.parametrize(
    ("name", "platform", "dtype", "word"),
    [
        ("cudnn", "cpu", "bfloat16", "CPU"),
        ("cudnn", "tpu", "bfloat16", "TPU"),
        ("cudnn", "gpu", "float32", "float32"),
        ("splash", "cpu", "bfloat16", "CPU"),
        ("splash", "gpu", "bfloat16", "GPU"),
    ],
)
def test_kernels_that_the_platform_lacks_are_refused_in_one_sentence(name, platform, dtype, word):
    with pytest.raises(ModelError, match=f"model.attention is '{name}'.*{word}.*set .*to '"):
        attention.choose(name, platform, dtype, 64)
