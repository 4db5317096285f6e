"""Fields that follow the machine are decided once. The run records them, and resumes only with the same values."""

import json
import re

import pytest

from srt_jax.config import base, fingerprint_fields, mesh_shape, source
from srt_jax.config.paths import PATHS, expand_paths
from srt_jax.config.resolve import resolve
from srt_jax.config.validation import validate, validate_devices
from srt_jax.data.problems import load
from srt_jax.errors import ConfigError

LIKE_A_PATH = re.compile(r"(^|[._])(path|out|directory|folder|file|python)$")


def config_of(data=-1, fsdp=1, tensor=1, dtype="auto"):
    config = base()
    config.name, config.model.path, config.model.dtype = "x", "y", dtype
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = data, fsdp, tensor
    return config


@pytest.mark.parametrize(
    ("platform", "dtype"), [("cpu", "float32"), ("gpu", "bfloat16"), ("cuda", "bfloat16"), ("tpu", "bfloat16")]
)
def test_the_compute_dtype_follows_the_platform_and_a_set_one_stays(platform, dtype):
    config, notes = resolve(config_of(), platform, 1)
    assert config.model.dtype == dtype and notes[0] == f"model.dtype: auto -> {dtype} on 1 {platform.upper()} device"
    for given in ("float32", "bfloat16"):
        config, notes = resolve(config_of(dtype=given), platform, 1)
        assert config.model.dtype == given and not any("dtype" in note for note in notes)


@pytest.mark.parametrize(
    ("mesh", "num_devices", "shape"),
    [
        ((-1, 1, 1), 8, (8, 1, 1)),
        ((-1, -1, 1), 8, (1, 8, 1)),
        ((-1, -1, 1), 1, (1, 1, 1)),
        ((-1, -1, 2), 8, (1, 4, 2)),
        ((2, -1, 1), 8, (2, 4, 1)),
        ((-1, 4, 1), 8, (2, 4, 1)),
        ((1, 8, 1), 8, (1, 8, 1)),
        ((-1, 8, 1), 2, None),
        ((3, -1, 1), 8, None),
        ((-1, -1, 16), 8, None),
        ((2, 2, 1), 8, None),
    ],
)
def test_the_mesh_follows_the_devices(mesh, num_devices, shape):
    config = config_of(*mesh)
    assert mesh_shape(config.mesh, num_devices) == shape
    found, notes = resolve(config, "gpu", num_devices)
    found = found.mesh.data, found.mesh.fsdp, found.mesh.tensor
    assert found == (shape or mesh)
    assert sum("mesh.fsdp: -1" in note for note in notes) == (shape is not None and mesh[1] == -1)
    assert (config.mesh.data, config.mesh.fsdp, config.mesh.tensor) == mesh  # the one that was given


@pytest.mark.parametrize(
    ("prompts", "minibatches", "num_devices", "platform", "size"),
    [
        (16, 1, 8, "gpu", 32),
        (16, 1, 1, "gpu", 4),
        (16, 1, 2, "gpu", 8),
        (16, 1, 64, "tpu", 256),
        (16, 1, 256, "tpu", 512),
        (16, 1, 1, "cpu", 1),
        (16, 1, 8, "cpu", 8),
        (12, 1, 6, "gpu", 24),
        (15, 15, 8, "gpu", 32),
        (3, 1, 32, "gpu", 96),
    ],
)
def test_the_micro_batch_follows_the_devices(prompts, minibatches, num_devices, platform, size):
    config = config_of()
    config.batch.prompts_per_step, config.batch.minibatches_per_step = prompts, minibatches
    validate(config)
    found, _ = resolve(config, platform, num_devices)
    assert found.batch.microbatch_sequences == size
    validate(found)
    validate_devices(found, num_devices)
    config.batch.microbatch_sequences = 32 * prompts // minibatches
    assert resolve(config, platform, num_devices)[0].batch.microbatch_sequences == 32 * prompts // minibatches


def test_a_mini_batch_that_the_devices_cannot_share_is_refused():
    config, _ = resolve(config_of(), "gpu", 6)
    with pytest.raises(ConfigError, match="the 512 sequences of a mini-batch cannot be split over the 6 data x fsdp"):
        validate_devices(config, 6)
    validate_devices(config, 6, trains=False)  # an evaluation, or labelling


def test_a_mesh_that_does_not_make_the_devices_is_refused_with_the_remedy():
    config, _ = resolve(config_of(fsdp=8), "gpu", 2)
    with pytest.raises(ConfigError, match=r"mesh.fsdp=8 x .* the 2 devices here: set mesh.fsdp to -1, which"):
        validate_devices(config, 2)
    for field in ("data", "fsdp"):
        for value in (0, -2):
            with pytest.raises(ConfigError, match=f"mesh.{field} is {value}: give -1 to follow the devices"):
                validate(config_of(**{field: value}))


def test_dtype_and_mesh_are_part_of_a_run_s_identity():
    here = fingerprint_fields(resolve(config_of(fsdp=-1), "gpu", 8)[0])
    assert (here["model"]["dtype"], here["mesh"]["fsdp"]) == ("bfloat16", 8)
    again = resolve(resolve(config_of(fsdp=-1), "gpu", 8)[0], "gpu", 8)
    assert fingerprint_fields(again[0]) == here and again[1] == []
    assert fingerprint_fields(resolve(config_of(fsdp=-1), "cpu", 8)[0]) != here
    assert fingerprint_fields(resolve(config_of(fsdp=-1), "gpu", 4)[0]) != here


def test_every_path_of_a_config_has_its_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = base()
    for field in PATHS:
        with config.unlocked():
            config.update_from_flattened_dict({field: "~/a/b"})
    config.data.path = config.data.root = "~/train.jsonl"
    with config.eval.unlocked():
        config.eval.sets.mine = source(path="~/heldout.jsonl")
    found = expand_paths(config)
    assert "~" not in found.to_json_best_effort() and found.out == f"{tmp_path}/a/b"
    assert config.out == "~/a/b"
    for untouched in ("Qwen/Qwen3-4B", "./model", "model/", "", "a~b"):
        config.model.path = untouched
        assert expand_paths(config).model.path == untouched
    (tmp_path / "heldout.jsonl").write_text(json.dumps({"problem": "1+1", "answer": "2"}) + "\n")
    assert load(found.eval.sets.mine)[0].answer == "2"


def test_all_paths_are_known():
    """A new field that ends like a path must be in the list, or it would be made in a folder called `~`."""

    def names(fields, prefix=""):
        for name, value in fields.items():
            yield from names(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]

    fields = base()
    for of in ("data", "eval"):
        with fields.unlocked():
            del fields[of]
    assert {name for name in names(fields.to_dict()) if LIKE_A_PATH.search(name)} == set(PATHS)
