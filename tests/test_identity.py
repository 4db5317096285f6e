"""--allow_change: a run that goes on with another field, other devices or another number of processes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from srt_jax.errors import CheckpointError, ConfigError
from srt_jax.run import identity
from tests.helpers import REPOSITORY, SMALL_RUN
from tests.test_train import state_leaves

IDENTITY = {
    "config": {
        "seed": 0,
        "model": {"path": "m", "dtype": "float32"},
        "mesh": {"data": 1, "fsdp": 1},
        "labels": {"source": "vote"},
    },
    "data": "d",
    "prompts": "p",
    "labels": [],
    "model": "w",
}


def changed(**fields):
    """IDENTITY with other fields of the config, or other contents."""
    config = {key: {**value, **fields.get(key, {})} for key, value in IDENTITY["config"].items() if key != "seed"}
    contents = {key: value for key, value in fields.items() if key.endswith("_contents")}
    here = {**IDENTITY, "config": {"seed": fields.get("seed", 0), **config}}
    return here | {key.removesuffix("_contents"): value for key, value in contents.items()}


@pytest.mark.parametrize(
    ("here", "allowed", "found"),
    [
        (changed(seed=1), ["seed"], ["seed"]),
        (changed(seed=1, mesh={"data": 2}), ["mesh", "seed"], ["mesh.data", "seed"]),
        (changed(mesh={"data": 2}), ["mesh.data"], ["mesh.data"]),
        (changed(data_contents="e"), ["data"], ["data contents"]),
        (changed(), ["seed"], []),
    ],
)
def test_named_fields_sections_and_contents_may_change(here, allowed, found):
    changes = identity.check_same_run({"identity": IDENTITY}, here, "run", allowed)
    assert [name for name, _, _ in changes] == found


@pytest.mark.parametrize(
    ("here", "allowed", "message"),
    [
        (changed(seed=1), [], r"seed \(0 there, 1 here\): use the old config, .* with --allow_change=seed\."),
        (changed(seed=1), ["model", "see"], "differs in seed"),
        (changed(data_contents="e"), [], "data contents: restore the data file, .* --allow_change=data"),
        (changed(mesh={"data": 2, "fsdp": 4}), [], r"mesh\.fsdp .*: give it the devices .*--allow_change=mesh\."),
        (changed(model={"path": "n"}), ["model"], r"another name, because the training state depends on model\.path\."),
        (changed(model_contents="x"), ["model"], "because the training state depends on model contents"),
        (changed(labels={"source": "ema"}), ["labels"], "because the training state depends on labels.source"),
    ],
)
def test_other_changes_are_refused_with_the_flag_that_permits_them(here, allowed, message):
    with pytest.raises(CheckpointError, match=message):
        identity.check_same_run({"identity": IDENTITY}, here, "run", allowed)


@pytest.mark.parametrize(
    "name", ["seed", "mesh", "mesh.fsdp", "data", "functions", "eval.sets.mine", "eval.sets.mine.limit"]
)
def test_names_of_fields_sections_and_contents_are_allowed(name):
    identity.check_allowed([name])


@pytest.mark.parametrize("name", ["sed", "mesh.fdsp", "", "fields"])
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError, match=f"--allow_change names {name!r}, which is no field"):
        identity.check_allowed([name])


def test_changes_are_recorded_by_step(tmp_path):
    rows = lambda: [json.loads(line) for line in (tmp_path / "changes.jsonl").read_text().splitlines()]  # noqa: E731
    identity.record_changes(tmp_path, 2, [])
    assert not (tmp_path / "changes.jsonl").exists()
    identity.record_changes(tmp_path, 2, [("seed", 0, 1)])
    identity.record_changes(tmp_path, 4, [("seed", 1, 2)])
    identity.record_changes(tmp_path, 6, [])
    first, second = {"step": 2, "field": "seed", "from": 0, "to": 1}, {"step": 4, "field": "seed", "from": 1, "to": 2}
    assert rows() == [first, second]
    identity.record_changes(tmp_path, 4, [("seed", 1, 3)])  # the run had no checkpoint after the change
    assert rows() == [first, {**second, "to": 3}]


# ---- other devices

ARGUMENTS = (
    *SMALL_RUN,
    "--config.checkpoint.every=1",
    "--config.mesh.cpu_devices=0",  # XLA_FLAGS has the number of devices
)


def train(model, out, name, steps, devices, *arguments):
    """(exit status, stdout, stderr) of a run on simulated devices."""
    command = [sys.executable, "-m", "srt_jax.main", *ARGUMENTS, f"--config.out={out}", f"--config.name={name}"]
    command += [f"--config.model.path={model}", f"--config.data.path={model}/train.jsonl", f"--config.steps={steps}"]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [*command, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_run_goes_on_with_more_devices_and_another_mesh(untrained, tmp_path):
    """One device, then two that share the weights, then four that share rows and heads: only rounding differs."""
    assert train(untrained, tmp_path, "one", 3, 1)[0] == 0
    assert train(untrained, tmp_path, "run", 1, 1)[0] == 0
    status, _, errors = train(untrained, tmp_path, "run", 2, 2)
    assert status == 2 and "mesh.data (1 there, 2 here): give it the devices that it had" in errors
    assert errors.endswith("or change it from here on with --allow_change=mesh.\n")
    status, said, errors = train(untrained, tmp_path, "run", 2, 2, "--config.mesh.fsdp=2", "--allow_change=mesh")
    assert status == 0, errors
    assert "mesh.fsdp: 1 until step 1, then 2" in said and "results differ by rounding" in said
    mesh = ("--config.mesh.tensor=2", "--config.mesh.fsdp=1", "--allow_change=mesh")
    status, said, errors = train(untrained, tmp_path, "run", 3, 4, *mesh)
    assert status == 0 and "resuming from step 2 of 3" in said, errors
    assert json.loads((tmp_path / "run/config.json").read_text())["mesh"]["tensor"] == 2
    changes = [json.loads(line) for line in (tmp_path / "run/changes.jsonl").read_text().splitlines()]
    assert [(c["step"], c["field"], c["from"], c["to"]) for c in changes] == [
        (1, "mesh.fsdp", 1, 2),
        (2, "mesh.data", 1, 2),
        (2, "mesh.fsdp", 2, 1),
        (2, "mesh.tensor", 1, 2),
    ]
    one, run = state_leaves(tmp_path / "one"), state_leaves(tmp_path / "run")
    assert one.keys() == run.keys()
    for name, leaf in one.items():
        np.testing.assert_allclose(run[name], leaf, rtol=1e-3, atol=1e-5, err_msg=name)
