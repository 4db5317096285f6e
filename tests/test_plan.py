"""Plans of small models, on simulated devices in this process and for GPUs and TPUs in .venv-plan."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from srt_jax.config import base
from srt_jax.config.validation import validate
from srt_jax.errors import ConfigError, ModelError
from srt_jax.model import flops
from srt_jax.model.config import ModelConfig, model_shape
from srt_jax.plan import programs, table, topology
from tests.helpers import REPOSITORY
from tests.plan_environment import needs_plan_environment, variables

HF = {
    "model_type": "qwen3",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "tie_word_embeddings": False,
}
MODEL = ModelConfig.from_hf(HF)
CPU = topology.parse("cpu:8")
KEYS = {
    "topology",
    "devices",
    "fits",
    "bytes_per_device",
    "flops_per_device",
    "collective_bytes_per_device",
    "collective_calls_per_device",
    "lower_bound_seconds",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model directory with a config.json and no weights."""
    directory = tmp_path_factory.mktemp("model")
    (directory / "config.json").write_text(json.dumps(HF))
    return directory


def small(directory, sampler="vllm", microbatch=16, **mesh):
    """4 prompts x 8 samples of 64 tokens."""
    config = base()
    config.name, config.model.path, config.model.dtype = "plan", str(directory), "float32"
    config.batch.prompts_per_step, config.batch.samples_per_prompt = 4, 8
    config.batch.max_prompt_tokens, config.batch.max_response_tokens, config.batch.length_buckets = 16, 48, (32, 64)
    config.batch.microbatch_sequences = microbatch
    config.rollout.sampler, config.rollout.prompt_buckets, config.rollout.prompts_per_call = sampler, (16,), 8
    config.mesh.update(mesh)
    validate(config)
    return config


def parameter_bytes(fsdp):
    """Bytes of the float32 parameters on one device. Norms and biases are whole on every device."""
    whole = 4 * (12 * (2 * 256 + 2 * 64) + 256)
    return (4 * MODEL.num_params - whole) / fsdp + whole


@pytest.fixture(scope="module")
def fsdp_plan(directory):
    return programs.plan(small(directory, fsdp=8, cpu_devices=8), CPU, search=False, progress=print)


def test_the_report_has_all_documented_fields(fsdp_plan):
    assert fsdp_plan.keys() >= KEYS
    json.dumps(fsdp_plan)
    assert (fsdp_plan["topology"], fsdp_plan["devices"], fsdp_plan["fits"]) == ("cpu:8", 8, True)
    assert fsdp_plan["lower_bound_seconds"] is None  # the peak of this CPU is not known


def test_bytes_per_device(fsdp_plan):
    found = fsdp_plan["bytes_per_device"]
    assert found["parameters"] == found["reference"] == parameter_bytes(8)
    assert found["optimizer"] == pytest.approx(2 * parameter_bytes(8), abs=64)  # and counters
    given = sum(found[kind] for kind in ("parameters", "optimizer", "reference", "batch"))
    assert found["total"] > given + found["temporaries"] - 1
    assert found["total"] < 1.2 * (given + found["temporaries"])  # the new state reuses the memory of the old one


def test_a_reference_in_16_bits_takes_half(directory, fsdp_plan):
    config = small(directory, fsdp=8, cpu_devices=8)
    config.model.reference_dtype = "bfloat16"
    _, argument_bytes = programs.lower_update(programs.adapt(config, CPU)[0], MODEL, jax.devices())
    assert argument_bytes["reference"] == fsdp_plan["bytes_per_device"]["reference"] / 2


def test_a_teacher_is_planned_beside_the_optimizer(directory, fsdp_plan):
    config = small(directory, "jax", fsdp=8, cpu_devices=8)
    config.labels.source = "ema"
    _, found = programs.lower_update(programs.adapt(config, CPU)[0], MODEL, jax.devices())
    there = fsdp_plan["bytes_per_device"]
    assert found["teacher"] == found["parameters"] and found["optimizer"] == there["optimizer"]


def test_a_teacher_of_the_guard_is_planned_beside_the_update(directory, fsdp_plan):
    config = small(directory, fsdp=8, cpu_devices=8)
    config.guard.action = "teacher"
    found = programs.plan(config, CPU, search=False, progress=print)["bytes_per_device"]
    there = fsdp_plan["bytes_per_device"]
    assert found["teacher"] == found["parameters"] == there["parameters"]
    assert found["total"] == there["total"] + found["teacher"]


def test_adapters_are_planned_with_one_frozen_model_in_16_bits(directory):
    config = small(directory, fsdp=8, cpu_devices=8)
    config.model.lora.rank, config.model.dtype = 16, "bfloat16"
    _, found = programs.lower_update(programs.adapt(config, CPU)[0], MODEL, jax.devices())
    norms = 4 * (12 * (2 * 256 + 2 * 64) + 256)  # float32, and whole on every device
    assert found["base"] == (parameter_bytes(8) - norms) / 2 + norms
    assert found["reference"] == 0
    # A of q, k, v, gate and up and B of o and down are split, the other matrices are whole on each device.
    split, whole = 5 * 256 + 2 * 256, (256 + 1024) + (256 + 128 + 128 + 1024 + 1024)
    assert found["parameters"] == 4 * 12 * 16 * (split / 8 + whole)
    assert found["optimizer"] == pytest.approx(2 * found["parameters"], abs=64)


def test_slots_that_the_topology_does_not_divide_are_refused(directory):
    config = small(directory, sampler="jax")
    config.rollout.slots = 12
    with pytest.raises(ConfigError, match=r"rollout\.slots is 12, which the 8 data x fsdp shards do not divide"):
        programs.adapt(config, CPU)


def test_flops_per_device(fsdp_plan):
    """32 sequences of 64 tokens: old, reference and three for the gradient. Full remat runs the layers once more."""
    once = flops.forward(MODEL, [64] * 32) / 8
    assert fsdp_plan["flops_per_device"] == 5 * once
    assert fsdp_plan["executed_flops_per_device"] == 5 * once + flops.layers(MODEL, [64] * 32) / 8


def test_collectives_of_two_micro_batches(fsdp_plan):
    """Four passes gather the weights: old log-probs, reference, and the gradient's forward and backward pass."""
    layers = 4 * 12 * flops.layer_weights(MODEL)
    found = fsdp_plan["collective_bytes_per_device"]
    assert (
        2 * 4 * layers < found["all-gather"] < 2 * 4 * (layers + 4 * 512 * 256) + 1e5
    )  # the upper limit adds the head and tokens
    assert fsdp_plan["collective_calls_per_device"].keys() == found.keys()
    # At least one gather per layer, pass and micro-batch; at most one for each of a layer's 7 matrices.
    assert 2 * 4 * 12 <= fsdp_plan["collective_calls_per_device"]["all-gather"] < 1.1 * 2 * 4 * (12 * 7 + 2)


def test_packed_rows_are_planned_as_if_each_sequence_filled_one(directory, fsdp_plan):
    config = small(directory, fsdp=8, cpu_devices=8)
    config.batch.length_buckets, config.batch.packing = (64,), True
    packed = programs.plan(config, CPU, search=False, progress=print)
    assert packed["flops_per_device"] == fsdp_plan["flops_per_device"]
    gathered, expected = (x["collective_bytes_per_device"]["all-gather"] for x in (packed, fsdp_plan))
    assert gathered == pytest.approx(expected, rel=0.01)


def test_table_shows_the_figures(fsdp_plan):
    text = table.table(fsdp_plan)
    assert "on cpu:8: 8 devices, mesh data 1, fsdp 8, tensor 1" in text
    assert "remat full, micro-batches of 16 sequences" in text
    assert f"{fsdp_plan['flops_per_device']:.3e}" in text


def test_an_unsuitable_mesh_or_micro_batch_is_replaced_with_a_note(directory):
    config, notes = programs.adapt(small(directory, microbatch=4, fsdp=3), CPU)
    assert (config.mesh.data, config.mesh.fsdp, config.mesh.tensor) == (1, 8, 1)
    assert config.batch.microbatch_sequences == 8
    assert "--config.mesh.fsdp=8" in notes[0] and "planned with 8" in notes[1]
    config, notes = programs.adapt(small(directory, fsdp=2, tensor=2), CPU)
    assert (config.mesh.data, notes) == (2, [])


def test_sequences_that_the_devices_cannot_share_are_refused(directory):
    config = small(directory, microbatch=8)
    config.batch.prompts_per_step, config.batch.samples_per_prompt = 3, 4
    with pytest.raises(ConfigError, match=r"12 sequences of a mini-batch.*8 data x fsdp"):
        programs.adapt(config, CPU)


@pytest.mark.parametrize(
    "limits, expected",
    [
        # the largest number of rows per device that fits, by remat
        ({"none": 0, "dots": 0, "attention": 2, "full": 4}, ("attention", 16)),
        ({"none": 4, "dots": 4, "attention": 4, "full": 4}, ("none", 32)),
        ({"none": 0, "dots": 0, "attention": 0, "full": 1}, ("full", 8)),
        ({"none": 0, "dots": 0, "attention": 0, "full": 0}, None),
    ],
)
def test_search(directory, limits, expected):
    """The search, with memory limits in place of compiled programs."""
    tried = []

    def compile_update(remat, microbatch):
        tried.append((remat, microbatch))
        return programs.Compiled(microbatch // 8 <= limits[remat], {}, {}, {}, 0)

    config, _ = programs.adapt(small(directory), CPU)
    assert programs.largest(config, list(limits), compile_update) == expected
    assert len(set(tried)) <= 4 + 2


def test_memory_that_is_too_small_does_not_fit(directory, monkeypatch):
    monkeypatch.setattr(programs, "available", lambda where: 1e5)
    lowered = jax.jit(lambda x: jnp.tanh(x @ x)).lower(jax.ShapeDtypeStruct((256, 256), jnp.float32))
    compiled = programs._compile(lowered, {"parameters": 4 * 256 * 256}, {}, CPU, print, "a product")
    assert not compiled.fits
    assert compiled.bytes["total"] >= 2 * 4 * 256 * 256
    report = programs.report(programs.adapt(small(directory), CPU)[0], MODEL, CPU, ("full", 16), compiled)
    assert "NO, of 0.0 GB" in dict(table.rows(report))["fits"]


def test_the_sampler_of_this_process_is_planned_too(directory, fsdp_plan):
    resident = fsdp_plan["bytes_per_device"]
    sampler = programs.sampler_report(
        programs.adapt(small(directory, "jax"), CPU)[0], MODEL, CPU, jax.devices()[:8], resident, print
    )
    assert sampler["fits"]
    found = sampler["bytes_per_device"]
    assert found["total"] > found["parameters"] + resident["optimizer"] + resident["reference"]
    assert sampler["flops_per_device"] == flops.sampling(MODEL, [16] * 4, [[48] * 8] * 4) / 8
    # 47 steps after the first token: the weights on every device, an eighth of the keys and values.
    shared = flops.decoding_bytes(MODEL, [16] * 4, [[48] * 8] * 4, steps=0, shared=True, itemsize=4)
    weights = 4 * (12 * flops.layer_weights(MODEL) + 512 * 256)
    assert sampler["decoding_bytes_per_device"] == 47 * weights + shared / 8
    assert "GB read by decoding (analytic)" in table.table(fsdp_plan | {"sampler": sampler})


def test_the_table_of_results_has_a_cell_for_each_column(fsdp_plan, monkeypatch):
    """Rows of benchmarks/plans.py: an update, a sampler, and an update that the compiler refused."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import plans

    sampler = {key: value for key, value in fsdp_plan.items() if key not in ("remat", "microbatch_sequences")}
    sampler["lower_bound_seconds"] = {"flops": 0.8, "decoding_bytes": 10.5}
    memory = fsdp_plan["bytes_per_device"] | {"temporaries": None, "total": None}
    refused = fsdp_plan | {"fits": False, "bytes_per_device": memory, "collective_calls_per_device": {}}
    columns = plans.HEADER.splitlines()[0].count("|")
    rows = [plans.row("small", "config", entry) for entry in (fsdp_plan, sampler, refused)]
    assert [row.count("|") for row in rows] == [columns] * 3
    assert rows[1].endswith("| 0.8 | 10.5 |") and "| no | - |" in rows[2]


@pytest.mark.slow
def test_a_sampler_with_slots_decodes_until_all_requests_had_one(directory):
    """4 prompts x 12 votes in 16 slots take three turns of 48 steps. Each step reads the weights."""
    config = small(directory, "jax")
    config.rollout.slots, config.batch.votes_per_prompt = 16, 12
    resident = {"optimizer": 0, "reference": 0}
    sampler = programs.sampler_report(programs.adapt(config, CPU)[0], MODEL, CPU, jax.devices()[:8], resident, print)
    assert sampler["flops_per_device"] == flops.sampling(MODEL, [16] * 4, [[48] * 12] * 4) / 8
    weights = 4 * (12 * flops.layer_weights(MODEL) + 512 * 256)
    copies = flops.decoding_bytes(MODEL, [16] * 4, [[48] * 12] * 4, steps=0, shared=False, itemsize=4)
    assert sampler["decoding_bytes_per_device"] == 3 * 47 * weights + copies / 8


def test_lower_bounds_of_a_known_model_by_hand():
    """Qwen2.5-0.5B on one H100: an update of 32 x 4,096 tokens, decoding of 512 x (256 + 1,024)."""
    model, h100 = model_shape("Qwen2.5-0.5B"), topology.parse("h100:1")
    weights = 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864) + 151936 * 896  # 0.494 billion
    attention = 24 * 2 * 14 * 64 * 4097  # per token: scores and values of the half of the square that is visible
    update = 5 * 32 * 4096 * (2 * weights + attention)  # old, reference, and three for the gradient
    cache = 24 * 2 * 2 * 64 * 2 * 512 * (1023 * 256 + 1023 * 512)  # each of 1,023 fed tokens reads those before it
    found = programs.lower_bounds(
        h100,
        {"flops": sum(flops.update(model, [4096] * 32, old=True, reference=True).values())},
        {"decoding_bytes": flops.decoding_bytes(model, [256] * 16, [[1024] * 32] * 16, steps=1023, shared=False)},
    )
    assert found["flops"] == pytest.approx(update / 989e12) == pytest.approx(0.7714, abs=1e-4)
    assert (
        found["decoding_bytes"]
        == pytest.approx((1023 * 2 * weights + cache) / 3350e9)
        == pytest.approx(1.777, abs=1e-3)
    )
    assert programs.lower_bounds(CPU, {"flops": 1.0}) is None


def test_a_note_reports_weights_that_a_tpu_gathers_with_all_reduces():
    where = topology.parse("v5p:4x8x8")
    assert "into 56 rows, no multiple of 16" in programs.tile_notes(3584, 64, where)[0]
    assert programs.tile_notes(3584, 32, where) == programs.tile_notes(3584, 64, CPU) == []


def test_sequences_beyond_the_models_positions_are_refused(directory):
    config = small(directory)
    config.batch.max_response_tokens, config.batch.length_buckets = 40_000, (41_000,)
    with pytest.raises(ConfigError, match=r"is 40016, but .* has positions for 32768"):
        programs.plan(config, CPU)


def test_heads_that_the_mesh_cannot_split_are_refused(directory):
    with pytest.raises(ModelError, match=r"mesh\.tensor is 4.*2 key/value heads"):
        programs.plan(small(directory, fsdp=2, tensor=4), CPU)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "srt_jax", "plan", *arguments],
        cwd=REPOSITORY,
        text=True,
        capture_output=True,
        check=False,
        env=variables(),
    )


def test_wrong_input_is_one_sentence():
    done = command("--config=configs/quickstart.py", "--topology=b300:8")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --topology is 'b300:8', which does not exist")
    assert done.stderr.count("\n") == 1


@needs_plan_environment
@pytest.mark.parametrize("name, kind", [("h200:8", "cuda"), ("v5e:2x4", "tpu")])
def test_accelerators(directory, name, kind):
    """The command continues in .venv-plan and compiles for chips that this machine does not have."""
    config = [
        f"--config.{field}"
        for field in (
            f"model.path={directory}",
            "model.dtype=bfloat16",
            "mesh.fsdp=8",
            "rollout.sampler=vllm",
            "batch.max_prompt_tokens=64",
            "batch.max_response_tokens=64",
            "batch.length_buckets=(128,)",
            "rollout.prompt_buckets=(64,)",
            "rl.kl_coef=0.0",
        )
    ]  # one pass: half the time of compiling
    done = command("--config=configs/quickstart.py", f"--topology={name}", "--microbatch=64", "--json", *config)
    assert done.returncode == 0, done.stderr[-1000:]
    found = json.loads(done.stdout)
    assert found.keys() >= KEYS
    assert found["bytes_per_device"]["parameters"] == parameter_bytes(8)
    assert found["collective_bytes_per_device"]["all-gather"] > 0
    peak = topology.parse(name).chip.flops
    assert found["lower_bound_seconds"]["flops"] == found["flops_per_device"] / peak > 0
