"""Comparing temperatures: the averages by hand, and the miniature's best temperature from the command line."""
import json
import subprocess
import sys

import pytest

from srt_jax.config import ConfigError, base
from srt_jax.evaluate import (
    at_temperature,
    averages,
    compare,
    evaluation_config,
    parse_temperatures,
    sweep_table,
)
from srt_jax.resolve import resolve
from srt_jax.validation import validate_devices
from tests.helpers import REPOSITORY

ONE = {"avg@32": 0.2, "pass@2": 0.3, "pass@8": 0.5, "pass@32": 0.8, "maj@32": 0.3}
TWO = {"avg@32": 0.4, "pass@2": 0.5, "pass@8": 0.7, "pass@32": 0.9, "maj@32": 0.5}


def test_averages_are_over_the_sets_first():
    assert averages({"one": ONE, "two": TWO}, 32) == pytest.approx(
        {"pass@1": 0.3, "pass@8": 0.6, "pass@32": 0.85, "AVG": (0.3 + 0.6 + 0.85) / 3})
    assert averages({"one": {"avg@1": 0.5}}, 1) == {"pass@1": 0.5}  # greedy: no pass@8, no AVG


def test_the_best_has_the_largest_avg_and_greedy_is_not_compared():
    better = {name: value + 0.05 for name, value in ONE.items()}
    found, best = compare({0.0: {"one": {"avg@1": 0.99}}, 1.0: {"one": ONE}, 0.6: {"one": better}}, 32)
    assert best == 0.6 and list(found) == [0.0, 1.0, 0.6]
    assert compare({1.0: {"one": ONE}, 0.6: {"one": ONE}}, 32)[1] == 0.6  # the lower of two alike
    assert compare({0.0: {"one": {"avg@1": 0.99}}}, 32)[1] is None
    lines = sweep_table(found).splitlines()
    assert lines[1].split() == ["0", "0.990", "-", "-", "-"]
    assert lines[2].split() == ["1", "0.200", "0.500", "0.800", "0.500"]


def test_avg_needs_its_samples():
    config = base()
    config.eval.samples = 16
    with pytest.raises(ConfigError, match=r"eval.samples is 16: --temperatures compares by pass@32"):
        at_temperature(config, 0.5)
    config.eval.samples = 32
    assert at_temperature(config, 0.0).eval.samples == 1 and config.eval.samples == 32


def test_temperatures_are_numbers():
    assert parse_temperatures(["1.0", "0", "1"]) == [1.0, 0.0]
    with pytest.raises(ConfigError, match=r"--temperatures is 0\.6;1: give numbers"):
        parse_temperatures(["0.6;1"])


def test_a_run_of_a_node_is_evaluated_on_whatever_is_here(tmp_path):
    """Its config.json says eight GPUs; the layout of its weights is kept, not their number."""
    for mesh, found in (((1, 8), (1, 2)), ((8, 1), (2, 1))):
        config = base()
        config.name, config.model.path = "run", "somewhere"
        config.mesh.data, config.mesh.fsdp = mesh
        (tmp_path / "final").mkdir(exist_ok=True)
        (tmp_path / "config.json").write_text(resolve(config, "gpu", 8)[0].to_json_best_effort())
        here, _ = resolve(evaluation_config(str(tmp_path), None, None), "cpu", 2)
        assert (here.mesh.data, here.mesh.fsdp, here.model.dtype) == (*found, "bfloat16")  # it computes as the run did
        validate_devices(here, 2)


@pytest.mark.timeout(240)
def test_the_miniature_at_three_temperatures(miniature, tmp_path):
    """A flatter distribution finds more with many samples and less with one, so that the best lies in between."""
    done = subprocess.run(
        [sys.executable, "-m", "srt_jax.evaluate", f"--model={miniature}", "--config=configs/quickstart.py",
         f"--config.eval.sets.heldout.path={miniature / 'heldout.jsonl'}", "--config.eval.sets.heldout.limit=32",
         "--temperatures=0,0.7,3", f"--out={tmp_path / 'rows.jsonl'}"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    found = result["temperatures"]
    assert list(found) == ["0.0", "0.7", "3.0"] and result["best"] == 0.7
    assert set(found["0.0"]) == {"pass@1"} and found["0.0"]["pass@1"] > found["0.7"]["pass@1"] > found["3.0"]["pass@1"]
    for name in ("0.7", "3.0"):
        assert found[name]["pass@1"] <= found[name]["pass@8"] <= found[name]["pass@32"]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 32 * (1 + 32 + 32)
    assert sum(r["true_reward"] for r in rows if r["temperature"] == 0) / 32 == found["0.0"]["pass@1"]
