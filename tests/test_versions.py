"""Run folders and label files of an older version, and of a newer one.

The last version without a format number wrote tests/recorded/format_1: the records of a run of two steps of
configs/quickstart.py, without weights, and a label file.
"""

import copy
import json
import shutil

import pytest

from srt_jax.config import base, fingerprint_fields, recorded, source
from srt_jax.config import versions as config_versions
from srt_jax.config.records import MAY_CHANGE, WITHOUT_EFFECT, as_json, is_recorded, resolved
from srt_jax.config.versions import FORMAT, Change, migrated
from srt_jax.data import label_file
from srt_jax.errors import CheckpointError, DataError, FormatError
from srt_jax.jobs import label
from srt_jax.run import metrics, metrics_log
from srt_jax.run.checkpoint import Checkpoints
from srt_jax.run.identity import check_same_run
from srt_jax.run.setup import completed_summary
from tests.helpers import REPOSITORY

OLD = REPOSITORY / "tests/recorded/format_1"


def names(fields: dict, prefix: str = "") -> set[str]:
    """Dotted names of all fields; those that users choose count as one."""
    found = set()
    for key, value in fields.items():
        nested = isinstance(value, dict) and key not in ("sets", "config", "chat_template_kwargs", "mixture")
        found |= names(value, f"{prefix}{key}.") if nested else {prefix + key}
    return found


def identity(config) -> dict:
    """The identity of the recorded run, with the config's part as this version computes it."""
    record = Checkpoints(OLD).record(2)
    return {**record["identity"], "config": fingerprint_fields(config)}


def test_every_field_of_today_has_its_old_meaning_in_a_folder_of_version_1():
    """A field that is new or renamed needs an entry in srt_jax/config/versions.py and a higher FORMAT."""
    old = json.loads((OLD / "config.json").read_text())
    fields = migrated(old, as_json(base()), OLD)
    assert names(fields) == names(as_json(base()))
    assert fields["checkpoint"] == {**old["checkpoint"], "keep": 1}


def test_a_run_of_version_1_is_resumed():
    config = recorded(OLD)
    assert config.steps == 2 and config.checkpoint.keep == 1
    check_same_run(Checkpoints(OLD).record(2), identity(config), OLD)
    config.steps = 4
    check_same_run(Checkpoints(OLD).record(2), identity(config), OLD)
    config.rl.kl_coef = 0.5
    with pytest.raises(CheckpointError, match=r"differs in rl\.kl_coef \(0\.001 there, 0\.5 here\)"):
        check_same_run(Checkpoints(OLD).record(2), identity(config), OLD)


def test_a_finished_run_of_version_1_is_complete_whatever_its_checkpoints_are():
    config = recorded(OLD)
    config.checkpoint.keep = base().checkpoint.keep
    assert completed_summary(config, OLD)["steps"] == 2
    config.seed = 1
    assert completed_summary(config, OLD) is None


def test_metrics_of_version_1_are_read_and_described():
    records = metrics_log.read_metrics(OLD)
    assert [record["step"] for record in records] == [0, 1, 2]
    assert all(metrics.describe_tag(tag) for record in records for tag in record if tag != "step")


def test_a_config_is_written_with_its_format_and_read_again(tmp_path):
    config = base()
    with config.eval.unlocked():
        config.eval.sets.x = source(path="x.jsonl")
    (tmp_path / "config.json").write_text(resolved(config))
    assert json.loads((tmp_path / "config.json").read_text())["format"] == FORMAT
    assert is_recorded(config, tmp_path) and as_json(recorded(tmp_path)) == as_json(config)


WITHOUT_EFFECT_CHANGED = {
    "checkpoint.keep": 9,
    "stop.hang_seconds": 9.0,
    "stop.peer_seconds": 9.0,
    "stop.join_seconds": 9.0,
}
MAY_CHANGE_CHANGED = {
    "out": "x",
    "name": "x",
    "log.shown": 9,
    "grader.timeout": 9.0,
    "model.lora.merged": True,
    "eval.kl": True,
    "rollout.vllm.keep": 9,
    "rollout.servers": ("http://h:1",),
    "rollout.allow_unauthenticated": True,
    "rollout.max_logprob_gap": 9.0,
}


def test_fields_without_effect_change_no_finished_run_and_those_that_may_change_no_identity(tmp_path):
    changed = {**WITHOUT_EFFECT_CHANGED, **MAY_CHANGE_CHANGED}
    listed = [*WITHOUT_EFFECT, *MAY_CHANGE]
    assert [name for name, field in zip(listed, changed, strict=True) if not f"{field}.".startswith(f"{name}.")] == []
    (tmp_path / "config.json").write_text(resolved(base()))
    for field, value in changed.items():
        config = base()
        config.update_from_flattened_dict({field: value})
        assert as_json(config) != as_json(base())
        assert is_recorded(config, tmp_path) is (field in WITHOUT_EFFECT_CHANGED), field
        assert fingerprint_fields(config) == fingerprint_fields(base()), field


def test_a_folder_of_a_newer_version_is_refused(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    fields = {"format": FORMAT + 1, **as_json(recorded(OLD))}
    (tmp_path / "run/config.json").write_text(json.dumps(fields))
    refusal = rf"^.*run has format {FORMAT + 1}, but this version of srt_jax reads formats 1 to {FORMAT}: use "
    with pytest.raises(FormatError, match=refusal):
        recorded(tmp_path / "run")
    record = {**Checkpoints(OLD).record(2), "format": FORMAT + 1}
    with pytest.raises(FormatError, match=refusal):
        check_same_run(record, identity(recorded(OLD)), tmp_path / "run")
    assert completed_summary(recorded(OLD), tmp_path / "run") is None


def test_a_run_from_before_version_1_is_refused():
    record = Checkpoints(OLD).record(2)
    del record["identity"]["config"]["eval"]["match"]
    with pytest.raises(FormatError, match=r"made by a version of srt_jax before 2026-11-26, .* no field eval\.match"):
        check_same_run(record, identity(recorded(OLD)), OLD)


def test_labels_of_version_1_are_read_and_continued(tmp_path):
    provenance, rows = label_file.read(OLD / "labels.jsonl")
    assert len(rows) == 8 and "format" not in provenance
    label.check_provenance(OLD / "labels.jsonl", provenance, {"format": FORMAT, **provenance})
    with pytest.raises(DataError, match=r"differ in seed \(0 there, 1 here\)"):
        label.check_provenance(OLD / "labels.jsonl", provenance, {"format": FORMAT, **provenance, "seed": 1})
    newer = tmp_path / "labels.jsonl"
    newer.write_text(json.dumps({"provenance": {"format": FORMAT + 1}}) + "\n" + json.dumps({"id": "a", "label": "1"}))
    with pytest.raises(FormatError, match=rf"labels\.jsonl has format {FORMAT + 1}"):
        label_file.read(newer)


def test_soft_votes_of_version_5_are_a_shape_of_the_reward():
    old = {"format": 5, "labels": {"source": "soft_vote"}, "reward": {"shape": "agreement"}}
    new = {"labels": {"source": "vote"}, "reward": {"shape": "soft_vote"}}
    assert migrated(old, new, "run") == new
    other = {"labels": {"source": "vote"}, "reward": {"shape": "agreement"}}
    assert migrated({"format": 5, **other}, new, "run") == other


def test_the_stop_at_a_collapse_of_version_8_is_an_action_of_the_guard():
    new = {"stop": {"patience": 1}, "guard": {"action": "off", "votes": 64}}
    for collapse, guard in ((False, new["guard"]), (True, {"action": "stop", "votes": 0})):
        old = {"format": 8, "stop": {"patience": 1, "collapse": collapse}}
        assert migrated(old, new, "run") == {**new, "guard": guard}


def test_fields_are_added_and_renamed_once_also_in_evaluation_sets(monkeypatch):
    changes = {
        FORMAT + 1: Change(added={"data.order": "file", "rl.beta": 0.0}, renamed={"rl.kl_coef": "rl.kl_weight"}),
        FORMAT + 2: Change(renamed={"rl.kl_weight": "rl.kl.weight", "data.limit": "data.first"}),
    }
    monkeypatch.setattr(config_versions, "CHANGES", {**config_versions.CHANGES, **changes})
    monkeypatch.setattr(config_versions, "FORMAT", FORMAT + 2)
    old = {"rl": {"kl_coef": 0.1}, "data": {"limit": 1}, "eval": {"sets": {"a": {"limit": 2}}}}
    here = {"rl": {"kl": {"weight": 0.2}, "beta": 1.0}, "data": {"first": 0, "order": "x"}}
    here["eval"] = {"sets": {"a": {"first": 0, "order": "x"}}}
    before, new = copy.deepcopy(old), migrated({"format": FORMAT, **old}, here, "run")
    assert old == before and migrated({"format": FORMAT + 2, **new}, here, "run") == new
    assert new == {
        "rl": {"kl": {"weight": 0.1}, "beta": 0.0},
        "data": {"first": 1, "order": "file"},
        "eval": {"sets": {"a": {"first": 2, "order": "file"}}},
    }
