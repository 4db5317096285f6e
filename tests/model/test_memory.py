"""Memory of a forward and backward pass by remat policy and micro-batch (by vocabulary: test_token_logprobs).

Also compares the estimates of model/memory.py for a sampler call and an update with XLA's own count.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srt_jax.config import base
from srt_jax.errors import ConfigError, RolloutError
from srt_jax.model import decoder, memory, sharding
from srt_jax.model.config import ModelConfig, model_shape
from srt_jax.model.logprobs import token_logprobs
from srt_jax.model.paths import flat_paths, map_with_path
from srt_jax.plan import programs
from srt_jax.rollout.jax.sampler import Cut, JaxSampler
from srt_jax.rollout.sampler import Sampling
from srt_jax.run import budget
from srt_jax.runtime import hardware
from tests.helpers import fast_cases

S, D, L, HEAD_TOKENS = 128, 64, 6, 64
REMATS = ("none", "attention", "dots", "full")


def loss_of(remat="full", rows=4, dtype="float32"):
    """(loss(params, tokens), abstract parameters, abstract tokens [rows, S]) of a small model."""
    config = ModelConfig.from_hf(
        {
            "model_type": "llama",
            "vocab_size": 64,
            "hidden_size": D,
            "intermediate_size": 4 * D,
            "num_hidden_layers": L,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        }
    )
    graphdef, shapes = decoder.abstract(config, dtype, remat)

    def loss(params, tokens):
        model = nnx.merge(graphdef, params)
        logprobs, _ = token_logprobs(model(tokens)[:, :-1], model.head_weights(), tokens[:, 1:], 1.0, HEAD_TOKENS)
        return (logprobs * jnp.cos(jnp.arange(S - 1.0))).sum()

    return loss, shapes, jax.ShapeDtypeStruct((rows, S), jnp.int32)


@functools.cache
def compiled(**changes):
    """The gradient of that loss."""
    loss, *arguments = loss_of(**changes)
    return jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()


def temporaries(**changes):
    """Bytes of temporaries of the compiled gradient."""
    return compiled(**changes).memory_analysis().temp_size_in_bytes


def kept(**changes):
    """Abstract arrays that the forward pass stores for the backward pass."""
    loss, *arguments = loss_of(**changes)
    return jax.tree.leaves(jax.eval_shape(lambda *arguments: jax.vjp(loss, *arguments)[1], *arguments))


@pytest.fixture(autouse=True)
def layers_in_a_loop(monkeypatch):
    """Runs the layers in a loop, as in a model of real size."""
    monkeypatch.setattr(decoder, "UNROLL_BELOW", 0)


@pytest.mark.slow
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


@pytest.mark.slow
def test_each_remat_takes_less_memory_than_the_one_before():
    sizes = [temporaries(remat=remat) for remat in REMATS]
    assert all(before > 1.2 * after for before, after in itertools.pairwise(sizes)), sizes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_remat_keeps_the_arrays_of_its_policy(dtype):
    """No policy keeps weights in the compute dtype, because over all layers they are a second copy of the model."""
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
    """A micro-batch that is larger by half takes half as much more memory than the first one."""
    four, eight, sixteen = (temporaries(rows=rows) for rows in (4, 8, 16))
    assert 1.8 < sixteen / eight < 2.2 and 1.8 < eight / four < 2.4


# ---- what is counted before anything is compiled

REAL = ModelConfig.from_hf(
    {  # the proportions of SmolLM2-135M, fewer layers
        "model_type": "llama",
        "vocab_size": 8192,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 4,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    }
)


def on_one_device(dtype):
    """(mesh, graph definition, abstract parameters) of that model."""
    mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    graphdef, shapes = decoder.abstract(REAL, dtype, "full", "xla", mesh)
    return (
        mesh,
        graphdef,
        map_with_path(
            lambda path, x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=sharding.parameter_sharding(mesh, path, x.shape)
            ),
            shapes,
        ),
    )


def peak(compiled):
    """Bytes of arguments, temporaries, and results that do not reuse the memory of an argument."""
    m = compiled.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes


CALLS = [  # dtype, prompts, samples, S, T, slots
    ("float32", 4, 8, 128, 512, 0),
    ("bfloat16", 1, 4, 512, 1024, 0),
    ("float32", 16, 1, 256, 64, 0),
    ("bfloat16", 4, 8, 128, 512, 8),
    ("float32", 4, 4, 512, 128, 16),
]


@pytest.mark.parametrize("call", fast_cases(CALLS, CALLS[2], CALLS[3]), ids=str)
def test_a_sampler_call_takes_the_estimated_memory(call):
    dtype, prompts, samples, S, T, slots = call
    mesh, graphdef, params = on_one_device(dtype)
    sampler = JaxSampler(graphdef, mesh, [0], (S,), prompts, slots)
    cut, (begin, advance) = sampler.lower(params, samples, Sampling(T))
    assert cut == Cut(prompts, samples, slots, 1)
    parameters = 4 * REAL.num_params
    taken = max(peak(begin.compile()), peak(advance.compile()) + parameters)
    counted = sum(memory.sampler_call(REAL, dtype, memory.Call(prompts, samples, S, T, slots)).values()) + parameters
    assert counted == pytest.approx(taken, rel=0.15)


def test_a_prefill_with_plain_xla_stores_the_scores_on_every_device():
    """A GPU in float32 uses plain XLA too, because cuDNN computes in 16 bits only."""
    takes = {
        (platform, kernel): memory.sampler_call(
            REAL, "float32", memory.Call(16, 1, 1024, 64, platform=platform, kernel=kernel)
        )["temporaries"]
        for platform, kernel in (("cpu", "xla"), ("gpu", "xla"), ("gpu", "cudnn"))
    }
    scores = 4 * 16 * 1024 * 1024 * REAL.num_heads
    assert takes["gpu", "xla"] == takes["cpu", "xla"] == takes["gpu", "cudnn"] + scores


def update_config(**changes):
    """An update of 16 sequences of 256 tokens in micro-batches of 4."""
    config = base()
    config.update_from_flattened_dict(
        {
            "name": "memory",
            "model.dtype": "float32",
            "batch.prompts_per_step": 4,
            "batch.samples_per_prompt": 4,
            "batch.microbatch_sequences": 4,
            "batch.length_buckets": (256,),
            "batch.max_prompt_tokens": 64,
            "batch.max_response_tokens": 192,
            "rollout.prompt_buckets": (64,),
            **changes,
        }
    )
    return config


UPDATES = {
    "all defaults": {},
    "bfloat16, nothing is recomputed": {"model.remat": "none", "model.dtype": "bfloat16"},
    "two updates": {"batch.minibatches_per_step": 2, "model.remat": "dots"},
    "bfloat16 moments": {"optimizer.moments_dtype": "bfloat16", "model.remat": "attention"},
    "adapters": {"model.lora.rank": 8},
}


@pytest.mark.parametrize("name", fast_cases(UPDATES, "all defaults", "adapters"))
def test_an_update_takes_the_estimated_memory(name):
    config = update_config(**UPDATES[name])
    lowered, argument_bytes = programs.lower_update(config, REAL, jax.devices()[:1])
    resident = budget.resident(config, REAL, training=True)
    assert sum(resident.values()) == pytest.approx(sum(argument_bytes.values()) - argument_bytes["batch"], rel=1e-3)
    c = config
    counted = sum(resident.values()) + memory.update(
        REAL,
        c.model.dtype,
        memory.Update(
            4,
            256,
            c.model.head_chunk_tokens,
            c.model.remat,
            many=c.batch.minibatches_per_step > 1,
            moments=c.optimizer.moments_dtype,
            adapters=budget.adapters(c, REAL),
        ),
    )
    assert counted == pytest.approx(peak(lowered.compile()), rel=0.15)


@pytest.mark.parametrize(
    ("name", "devices", "remat", "rows", "total"),
    [
        ("Qwen2.5-Math-7B", 8, "full", 4, 34.3),
        ("Qwen2.5-Math-7B", 8, "none", 4, 107.3),
        ("Qwen3-14B-Base", 8, "full", 2, 56.3),
        ("Qwen3-14B-Base", 4, "dots", 2, 132.4),
    ],
)
def test_updates_on_h200s_take_the_estimated_memory(name, devices, remat, rows, total):
    """total: GB per device from plans for H200 (docs/results.md), with 4,096 tokens per row."""
    model, config = model_shape(name), update_config(**{"mesh.fsdp": devices})
    counted = memory.update(
        model, "bfloat16", memory.Update(rows, 4096, 4096, remat, "cudnn", fsdp=devices, platform="gpu")
    )
    assert (sum(budget.resident(config, model, True).values()) + counted) / 1e9 == pytest.approx(total, rel=0.15)


def test_a_run_that_cannot_fit_is_refused_before_weights_are_loaded(monkeypatch):
    """The dry run reports the memory of a step. The run is refused, with the numbers and the fields."""
    model, config = model_shape("Qwen2.5-Math-7B"), update_config()
    monkeypatch.setattr(hardware, "machine_memory", lambda: 8 * 24e9)  # each of 8 devices has an eighth
    line = budget.report(config, model)
    assert "leave no memory for sampling" in line and "the run does not fit on this machine" in line
    with pytest.raises(RolloutError, match="leave no memory for sampling: split them over more"):
        budget.check(config, model)
    monkeypatch.setattr(hardware, "machine_memory", lambda: 8 * 220e9)  # a little more than the parameters take
    config.batch.max_response_tokens = 500_000
    with pytest.raises(RolloutError, match=r"sampling one response takes .* lower batch\.max_response_tokens or batch"):
        budget.check(config, model)
    config.batch.max_response_tokens = update_config().batch.max_response_tokens
    monkeypatch.setattr(hardware, "machine_memory", lambda: 8 * 24e9)
    config.rollout.sampler = "vllm"
    with pytest.raises(
        ConfigError,
        match=r"takes about 2\d\d\.\d GB \(weights 30\.5, optimizer 60\.9, reference 30\.5"
        r", update .*\), and each device has 24\.0 GB: lower batch\.microbatch_",
    ):
        budget.check(config, model)
    monkeypatch.setattr(hardware, "machine_memory", lambda: 8 * 240e9)
    budget.check(config, model)
    assert "it does not fit" not in budget.report(config, model)
    small = model_shape("SmolLM2-135M")
    monkeypatch.setattr(hardware, "machine_memory", lambda: 8 * 8e9)
    assert budget.report(config, small) == (
        "memory: a step takes about 3.8 GB of the 8.0 GB here on each device (weights 0.5, optimizer 1.1, reference "
        "0.5, update 1.6)"
    )


def test_the_line_names_calls_of_the_sampler_that_do_not_fit(monkeypatch):
    """A smaller call takes less memory than a whole one, so the line says that the call is not the config's."""
    model, config = (
        model_shape("SmolLM2-135M"),
        update_config(**{"batch.prompts_per_step": 16, "batch.samples_per_prompt": 256}),
    )
    monkeypatch.setattr(hardware, "machine_memory", lambda: 8 * 64e9)
    assert budget.report(config, model).endswith(")")
    monkeypatch.setattr(hardware, "machine_memory", lambda: 8 * 8e9)
    whole, cut, size = budget.sampler_call(config, model)
    assert size <= budget.sampler_memory(config, model, True) and cut.prompts < whole.prompts
    assert budget.report(config, model).endswith(
        f"the sampler's calls of {whole.prompts} prompts x 256 samples do not fit and become calls of {cut.prompts} "
        "prompts x 256 samples"
    )


def test_available_memory_is_the_minimum_of_machine_and_control_group(monkeypatch):
    whole = hardware.machine_memory()
    assert 1e8 < whole < 1e14
    monkeypatch.setattr(hardware.pathlib.Path, "read_text", lambda self: "500000000\n")
    assert hardware.machine_memory() == 5e8
    monkeypatch.setattr(hardware.pathlib.Path, "read_text", lambda self: "max\n")
    assert hardware.machine_memory() >= whole
