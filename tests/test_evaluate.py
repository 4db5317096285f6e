"""Comparing temperatures: the averages by hand, and the miniature's best temperature from the command line."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from pyarrow import Table, parquet

from srt_jax.config import base
from srt_jax.config.resolve import resolve
from srt_jax.config.validation import validate, validate_devices
from srt_jax.data.problems import load
from srt_jax.errors import ConfigError, DataError
from srt_jax.jobs.evaluate import (
    at_temperature,
    averages,
    compare,
    evaluation_config,
    parse_temperatures,
    shorten,
    sweep_table,
)
from tests.helpers import REPOSITORY

ONE = {"avg@32": 0.2, "pass@2": 0.3, "pass@8": 0.5, "pass@32": 0.8, "maj@32": 0.3}
TWO = {"avg@32": 0.4, "pass@2": 0.5, "pass@8": 0.7, "pass@32": 0.9, "maj@32": 0.5}


def test_averages_are_over_the_sets_first():
    assert averages({"one": ONE, "two": TWO}, 32) == pytest.approx(
        {"pass@1": 0.3, "pass@8": 0.6, "pass@32": 0.85, "AVG": (0.3 + 0.6 + 0.85) / 3}
    )
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


def test_flags_stand_for_fields():
    config = evaluation_config("model", "problems.jsonl", None, limit=32, samples=4, max_tokens=5000)
    validate(config)  # buckets go with the lengths
    assert config.eval.sets.problems.path == "problems.jsonl" and config.eval.sets.problems.limit == 32
    assert (config.eval.samples, config.batch.max_response_tokens, config.batch.max_prompt_tokens) == (4, 5000, 1024)
    plain = evaluation_config("model", "problems.jsonl", None)
    assert (plain.eval.samples, plain.eval.sets.problems.limit) == (base().eval.samples, 0)


@pytest.mark.parametrize("name, kind", [("problems.jsonl", "jsonl"), ("problems.parquet", "parquet")])
def test_a_file_of_either_kind_with_columns_of_any_name(tmp_path, name, kind):
    """As the hub has them: Parquet, and the columns of the set's own choice."""
    rows = [{"question": "What is 1 + 1?", "solution": "2"}]
    path = tmp_path / name
    if kind == "parquet":
        parquet.write_table(Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows[0]) + "\n")
    config = evaluation_config("model", str(path), None, prompt_column="question", answer_column="solution")
    validate(config)
    [problem] = load(config.eval.sets.problems)
    assert (problem.prompt, problem.answer) == ("What is 1 + 1?", "2")
    with pytest.raises(DataError, match=r"has no column 'problem' .*'question', 'solution'.* set `prompt_column`"):
        load(evaluation_config("model", str(path), None).eval.sets.problems)


def test_max_tokens_leaves_room_for_a_prompt():
    """Without --config prompts get the rest of the positions. A message names the flag, since no field was set."""
    config = evaluation_config("model", "problems.jsonl", None, max_tokens=1500)
    assert "prompts of at most 548 tokens, responses of at most 1500" in shorten(config, 2048, 1500)
    validate(config)
    with pytest.raises(ConfigError, match=r"--max_tokens is 1500, .* 1500 positions, .* need 1: give at most 1499\."):
        shorten(evaluation_config("model", "problems.jsonl", None, max_tokens=1500), 1500, 1500)
    of_config = evaluation_config("model", "problems.jsonl", base(), max_tokens=1500)
    assert shorten(of_config, 4096, 1500, given=True) is None
    with pytest.raises(ConfigError, match=r"need 1024 \(batch\.max_prompt_tokens\): give at most 1024\."):
        shorten(of_config, 2048, 1500, given=True)


def test_lengths_that_nobody_gave_are_shortened_to_the_models_positions():
    config = evaluation_config("model", "problems.jsonl", None)
    assert shorten(config, 4096) is None and config.batch.max_response_tokens == 3072
    assert shorten(config, 2048) == (
        "lengths: the model has 2048 positions: prompts of at most 512 tokens, responses of at most 1536"
    )
    assert shorten(config, 2048) is None
    validate(config)
    assert tuple(config.rollout.prompt_buckets) == (256, 512)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_how_far_it_is_and_stops_within_seconds(miniature, tmp_path, number):
    """2,000 samples each, so that it is under way when the signal comes; --out is not written in part."""
    out = tmp_path / "rows.jsonl"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "srt_jax",
            "evaluate",
            f"--model={miniature}",
            "--config=configs/quickstart.py",
            f"--config.eval.sets.heldout.path={miniature / 'heldout.jsonl'}",
            "--samples=2000",
            "--limit=128",
            f"--out={out}",
        ],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = process.stderr.readline()
    assert first.startswith("evaluation 0%  preparing the sampler")
    time.sleep(5)
    started = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate()
    assert time.monotonic() - started < 60  # 3 s where the machine has nothing else to do; the samples take minutes
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted: nothing is written. The same command starts again."
    assert "Traceback" not in errors and not list(tmp_path.iterdir())


@pytest.mark.timeout(240)
def test_the_miniature_at_three_temperatures(miniature, tmp_path):
    """A flatter distribution finds more with many samples and less with one, so that the best lies in between."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "srt_jax",
            "evaluate",
            f"--model={miniature}",
            "--config=configs/quickstart.py",
            f"--config.eval.sets.heldout.path={miniature / 'heldout.jsonl'}",
            "--config.eval.sets.heldout.limit=32",
            "--temperatures=0,0.7,3",
            f"--out={tmp_path / 'rows.jsonl'}",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
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
