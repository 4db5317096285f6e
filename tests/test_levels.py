"""Climbing levels: the run of each level. One command runs all levels and resumes a stopped one."""

import json

import pytest

from srt_jax import levels
from srt_jax.config import source
from srt_jax.config.levels import level_configs
from srt_jax.errors import ConfigError, DataError, TrainingStoppedError
from srt_jax.levels import best_weights, train_levels
from srt_jax.run.dry_run import dry_run
from srt_jax.run.metrics_log import read_metrics
from tests.helpers import small_config


def climbing(model, out, **changes):
    config = small_config(model, out, "climb", steps=2)
    config.levels = (
        dict(name="warmup", labels=dict(source="ground_truth"), data=dict(limit=32)),
        dict(name="first", data=dict(limit=48)),
        dict(name="second", steps=3, data=source(path=str(model / "train.jsonl")).to_dict()),
    )
    config.update(changes)
    return config


def test_a_level_is_the_config_with_its_changes_from_the_weights_before(tmp_path):
    configs = level_configs(climbing(tmp_path / "base", tmp_path))
    assert [c.name for c in configs] == ["climb/warmup", "climb/first", "climb/second"]
    assert [c.labels.source for c in configs] == ["ground_truth", "vote", "vote"]
    assert [c.steps for c in configs] == [2, 2, 3]
    assert [c.data.limit for c in configs] == [32, 48, 0]
    assert [c.model.path for c in configs] == [
        str(tmp_path / "base"),
        str(tmp_path / "climb/warmup/final"),
        str(tmp_path / "climb/first/final"),
    ]
    assert not any(c.levels for c in configs)


def test_an_unknown_field_of_a_level_is_named(tmp_path):
    config = climbing(tmp_path / "base", tmp_path)
    config.levels = (dict(name="first", label=dict(source="vote")),)
    with pytest.raises(ConfigError, match=r"levels\.first\.label is set, but there is no such config field"):
        level_configs(config)


@pytest.mark.parametrize(
    ("best", "folder"),
    [
        ({"step": 0}, "base"),
        ({"step": 1}, "climb/first/best"),
        ({"step": 2}, "climb/first/final"),
        ({}, "climb/first/final"),
    ],
)
def test_the_best_weights_of_a_level(tmp_path, best, folder):
    first = climbing(tmp_path / "base", tmp_path)
    first.name = "climb/first"
    assert best_weights(first, {"steps": 2, "best": best}) == str(tmp_path / folder)


def test_one_command_climbs_and_goes_on_where_it_was_stopped(miniature, tmp_path, monkeypatch):
    config = climbing(miniature, tmp_path)
    real, trained = levels.train, []

    def stops_in_the_second_level(level, allowed):
        trained.append(level.name)
        if level.name == "climb/first":
            raise TrainingStoppedError("stopped")
        return real(level, allowed)

    monkeypatch.setattr(levels, "train", stops_in_the_second_level)
    with pytest.raises(TrainingStoppedError):
        train_levels(config)
    assert trained == ["climb/warmup", "climb/first"]
    before = (tmp_path / "climb/warmup/final/model.safetensors").read_bytes()
    monkeypatch.setattr(levels, "train", real)
    summaries = train_levels(config)
    assert [s["labels"] for s in summaries] == ["ground_truth", "vote", "vote"]
    assert json.loads((tmp_path / "climb/levels.json").read_text()) == summaries
    assert (tmp_path / "climb/warmup/final/model.safetensors").read_bytes() == before
    second = json.loads((tmp_path / "climb/second/config.json").read_text())
    assert second["model"]["path"] == str(tmp_path / "climb/first/final")
    assert len(read_metrics(tmp_path / "climb/second")) == 4


def test_a_dry_run_lets_each_level_follow_the_hardware_by_itself(miniature, tmp_path, monkeypatch, capsys):
    """As in a run: the first config resolves to fsdp=8, which with this level's tensor=2 would need 16 devices."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = climbing(miniature, tmp_path)
    config.mesh.data, config.mesh.fsdp = -1, -1
    config.levels = (*config.levels, dict(name="wide", mesh=dict(tensor=2)))
    dry_run(config)
    shown = capsys.readouterr().out
    assert "mesh.fsdp: -1 -> 8 on 8 CPU devices" in shown
    assert "mesh.fsdp: -1 -> 4 on 8 CPU devices" in shown.partition("level climb/wide, from ")[2]


def test_every_level_is_checked_before_the_first_runs(miniature, tmp_path):
    config = climbing(miniature, tmp_path)
    config.levels = (*config.levels, dict(name="third", data=dict(path=str(tmp_path / "nothing.jsonl"))))
    with pytest.raises(DataError, match=r"nothing\.jsonl"):
        train_levels(config)
    assert not (tmp_path / "climb").exists()
