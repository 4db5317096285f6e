"""Pseudo-labels by the miniature: the content of a row. A job that is killed and resumed writes the same file."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from srt_jax.data import label_file
from srt_jax.data import problems as problem_sources
from srt_jax.data.base import Problem
from srt_jax.errors import DataError, FolderInUseError
from srt_jax.grading.grader import Grader
from srt_jax.jobs import label as label_module
from srt_jax.jobs.label import label
from srt_jax.model import lora, peft, weights
from srt_jax.model.paths import map_with_path
from srt_jax.reward.labels import LabelSettings
from srt_jax.reward.rewards import grade
from srt_jax.run import exports
from tests.helpers import REPOSITORY, small_config

SAMPLES = 4


def config_for(miniature, tmp_path):
    config = small_config(miniature, tmp_path, name="labelling", steps=1)
    config.data.limit = 3 * label_module.BATCH - 10  # the last batch is not full
    config.batch.prompts_per_step = 8
    return config


@pytest.fixture(scope="module")
def labelled(miniature, tmp_path_factory):
    """(config, file, summary) of an uninterrupted call in this process."""
    directory = tmp_path_factory.mktemp("label")
    config = config_for(miniature, directory)
    out = directory / "labels.jsonl"
    return config, out, label(config, out, SAMPLES)


def test_every_problem_has_its_row(labelled):
    config, out, summary = labelled
    provenance, rows = label_file.read(out)
    problems = problem_sources.load(config.data)
    assert list(rows) == [p.id for p in problems]
    assert provenance["samples"] == SAMPLES and provenance["seed"] == config.seed
    assert provenance["dtype"] == "float32" and provenance["truth"] == "verify"
    assert len(provenance["model_fingerprint"]) == len(provenance["data_fingerprint"]) == 64
    for p, row in zip(problems, rows.values()):
        votes = row["counts"]
        assert sum(votes.values()) == row["parse_rate"] * row["n"] <= row["n"] == SAMPLES
        assert row["vote_share"] == max(votes.values(), default=0) / SAMPLES
        assert row["pass_rate"] == votes.get(p.answer, 0) / SAMPLES  # of sums, equal answers are equal texts
        assert row["label_correct"] is (row["label"] == p.answer)
        assert row["label"] in votes or not votes
    assert summary["problems"] == summary["labelled"] == len(problems)
    assert summary["pass_rate"] == pytest.approx(np.mean([r["pass_rate"] for r in rows.values()]))
    assert summary["label_accuracy"] > summary["pass_rate"] > 0.3  # the vote is better than a sample


def test_a_run_trains_on_the_file(labelled):
    config, out, _ = labelled
    config = config.copy_and_resolve_references()
    config.labels.source, config.labels.path, config.labels.threshold = "file", str(out), 0.5
    settings = LabelSettings.of(config)
    rows = label_file.read(out)[1]
    assert settings.labels_by_id == {id: row["label"] for id, row in rows.items() if row["vote_share"] >= 0.5}
    chosen = [p for p in problem_sources.load(config.data) if p.id in settings.labels_by_id][:3]
    with Grader(workers=1) as grader:
        graded = [grade(p, [settings.labels_by_id[p.id], "nothing"], grader, settings) for p in chosen]
    assert [g.rewards.tolist() for g in graded] == [[1, 0]] * 3


def test_a_finished_file_is_left_alone_and_another_model_is_refused(labelled, capsys):
    config, out, summary = labelled
    before = out.stat().st_mtime_ns
    assert label(config, out, SAMPLES) == summary and "is complete" in capsys.readouterr().out
    assert out.stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"differ in samples \(4 there, 8 here\): choose another --out"):
        label(config, out, 8)


def test_an_adapter_labels_and_is_part_of_the_provenance(labelled, miniature, tmp_path):
    """A strong random adapter answers nearly nothing right. Its directory may stand in either field."""
    whole, _, summary = labelled
    settings = lora.LoRA(2, 32.0, targets=("o_proj",))
    _, shapes = lora.attach(*weights.load(miniature)[:2], settings)
    rng = np.random.default_rng(0)
    for name in ("strong", "other"):
        tree = map_with_path(lambda _, x: rng.standard_normal(x.shape, np.float32), shapes)
        peft.write_adapter(tmp_path / name, tree, settings, str(miniature.resolve()))
    config = whole.copy_and_resolve_references()
    config.data.limit, config.model.path = 8, str(tmp_path / "strong")
    found = label(config, tmp_path / "labels.jsonl", SAMPLES)
    assert found["problems"] == 8 and found["pass_rate"] < 0.1 < summary["pass_rate"]
    provenance, _ = label_file.read(tmp_path / "labels.jsonl")
    assert provenance["model"] == str(tmp_path / "strong") and len(provenance["adapter_fingerprint"]) == 64
    exports.use(config, str(tmp_path / "strong"))
    assert config.model.lora.path == str(tmp_path / "strong") and config.model.path == str(miniature.resolve())
    assert label(config, tmp_path / "labels.jsonl", SAMPLES) == found  # the file is complete
    shutil.copy(tmp_path / "other" / peft.WEIGHTS, tmp_path / "strong")
    with pytest.raises(DataError, match="differ in adapter_fingerprint"):
        label(config, tmp_path / "labels.jsonl", SAMPLES)


def wait_for_rows(path, rows, process, seconds=150):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") > rows:
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"no {rows} rows in {path}: {process.communicate()[1]}")


@pytest.mark.timeout(300)
def test_killed_and_resumed_it_is_the_same_file(labelled, tmp_path):
    config, expected, _ = labelled
    script = tmp_path / "config.py"
    script.write_text(  # the second batch waits for the signal, so that the job cannot end before it
        f"import time\nfrom srt_jax.run import rollouts\nfrom tests.helpers import from_json\n"
        f"real, begun = rollouts.sample_and_grade, []\n"
        f"def sample_and_grade(*arguments):\n"
        f"    begun.append(time.sleep(600 * len(begun)))\n"
        f"    return real(*arguments)\n"
        f"rollouts.sample_and_grade = sample_and_grade\n"
        f"def get_config():\n    return from_json({config.to_json_best_effort()!r})\n"
    )
    out, partial = tmp_path / "labels.jsonl", tmp_path / "labels.jsonl.partial"
    command = [
        sys.executable,
        "-m",
        "srt_jax",
        "label",
        f"--config={script}",
        f"--out={out}",
        f"--samples={SAMPLES}",
        "--config.mesh.cpu_devices=8",
    ]  # as many as this process has
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_rows(partial, label_module.BATCH, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    kept = partial.read_bytes().splitlines(keepends=True)[: 1 + label_module.BATCH]
    half = [*kept[1:9], kept[9][:20]]  # of a next batch: whole rows, and one that is not
    partial.write_bytes(b"".join(kept + half))
    resumed = label(config, out, SAMPLES)
    assert out.read_bytes() == expected.read_bytes()
    assert resumed["problems"] == 3 * label_module.BATCH - 10 and not partial.exists()


def test_a_file_begun_with_another_seed_is_not_gone_on_with(labelled, tmp_path):
    config, expected, _ = labelled
    partial = tmp_path / "labels.jsonl.partial"
    partial.write_bytes(b"".join(expected.read_bytes().splitlines(keepends=True)[:70]))
    other = config.copy_and_resolve_references()
    other.seed = 1
    with pytest.raises(DataError, match=r"differ in seed \(0 there, 1 here\)"):
        label(other, tmp_path / "labels.jsonl", SAMPLES)
    assert partial.exists() and not (tmp_path / "labels.jsonl").exists()


def test_a_second_job_with_the_same_file_is_refused(labelled, tmp_path):
    """It would write rows twice, and a resumed job counts rows."""
    config, expected, summary = labelled
    out, partial = tmp_path / "labels.jsonl", tmp_path / "labels.jsonl.partial"
    kept = expected.read_bytes().splitlines(keepends=True)[: 1 + label_module.BATCH]
    partial.write_bytes(b"".join(kept))
    refused = pytest.raises(
        FolderInUseError, match=rf"^{out} is written by another srt label: wait .* another --out\.$"
    )
    with label_module.only_writer(partial, out), refused:
        label(config, out, SAMPLES)
    assert partial.read_bytes() == b"".join(kept) and not out.exists()
    out.write_bytes(expected.read_bytes())
    partial.unlink()
    assert label(config, out, SAMPLES) == summary
    assert list(tmp_path.iterdir()) == [out]


def test_a_job_that_opened_the_file_before_another_removed_it_locks_the_new_one(tmp_path, monkeypatch):
    """A lock on the removed file would keep no other job away."""
    out, partial, take = tmp_path / "labels.jsonl", tmp_path / "labels.jsonl.partial", fcntl.flock

    def removed_first(file, how):
        monkeypatch.setattr(fcntl, "flock", take)
        partial.unlink()
        take(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with (
        label_module.only_writer(partial, out),
        pytest.raises(FolderInUseError),
        label_module.only_writer(partial, out),
    ):
        raise AssertionError("two jobs write one file")
    assert not list(tmp_path.iterdir())


def test_a_file_killed_in_its_first_line_starts_again(tmp_path):
    partial = tmp_path / "labels.jsonl.partial"
    partial.write_text('{"provenance": {"se')
    assert label_module.begin(tmp_path / "labels.jsonl", partial, {"seed": 0}) == 0
    assert json.loads(partial.read_text()) == {"provenance": {"seed": 0}}


def test_rows_of_problems_without_an_answer():
    problems = [Problem("a", "?", None, "test"), Problem("b", "?", None, "test")]
    with Grader(workers=1) as grader:
        graded = [grade(p, a, grader) for p, a in zip(problems, [["1/2", None, "3", "0.5"], [None] * 4])]
    assert label_module.row(problems[0], graded[0]) == {
        "id": "a",
        "label": "1/2",
        "vote_share": 0.5,
        "vote_share_parsed": 2 / 3,
        "tie": False,
        "pass_rate": None,
        "label_correct": None,
        "counts": {"1/2": 2, "3": 1},
        "parse_rate": 0.75,
        "n": 4,
    }
    assert label_module.row(problems[1], graded[1])["label"] is None
