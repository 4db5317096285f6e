"""Runs side by side: one evaluation set, several, their mean, and what cannot be compared."""

import json

import numpy as np
import pytest

from srt_jax.config import base
from srt_jax.config.validation import validate
from srt_jax.errors import ConfigError, FiguresError
from srt_jax.jobs import figures
from srt_jax.run import metrics
from srt_jax.train import train
from tests.helpers import small_config

BASE = {"aime24": 0.1, "math500": 0.5, "amc23": 0.3}
AFTER = {"aime24": 0.2, "math500": 0.7, "amc23": 0.45}


def evals(values, k=4, unanswered=()):
    """avg@k as given, maj@k higher by 0.1, pass@k by 0.2; of every set, and of those without answers, a vote share."""
    found = {
        f"eval/{name}/{metric}@{k}": value + more
        for name, value in values.items()
        for metric, more in (("avg", 0.0), ("maj", 0.1), ("pass", 0.2))
    }
    return found | {f"eval/{name}/vote_share": 0.6 for name in (*values, *unanswered)}


def finished(folder, first, last, k=4, unanswered=(), mean=False):
    """A run folder with two steps' records and a summary."""
    first, last = evals(first, k, unanswered), evals(last, k, unanswered)
    if mean:
        first, last = (values | metrics.mean_over_sets(values) for values in (first, last))
    log = metrics.RunLog(folder, total_steps=1)
    log.write(0, first)
    log.write(1, {**last, "label/pseudo_reward": 0.5, "label/label_accuracy": 0.9})
    log.close()
    (folder / "config.json").write_text("{}")
    (folder / "summary.json").write_text(
        json.dumps(
            {
                "steps": 1,
                "base": first,
                "last": last,
                "best": {"step": 1, **last} if last else {},
                "seconds": {"sample": 1.0},
                "versions": {"jax": "1"},
            }
        )
    )
    return folder


def curves(monkeypatch, runs, path):
    """{title of a panel: {label: [(step, value)]}} of the figure that is drawn."""
    import matplotlib.pyplot as plt

    drawn, close = {}, plt.close

    def read(figure):
        for axis in figure.axes:
            if axis.get_title():
                drawn[axis.get_title()] = {
                    line.get_label(): list(zip(*(np.round(x, 6).tolist() for x in line.get_data())))
                    for line in axis.lines
                }
        close(figure)

    monkeypatch.setattr(plt, "close", read)
    summary = figures.summarise(runs)
    figures.draw(runs, path, summary)
    assert path.read_bytes()[:4] == b"\x89PNG"
    return drawn


def test_runs_with_one_set(tmp_path, monkeypatch, capsys):
    runs = [finished(tmp_path / name, {"held": 0.5}, {"held": 0.6}) for name in ("srt", "ground_truth")]
    summary = figures.summarise(runs)
    assert summary["base"]["base"]["held"]["avg@4"] == 0.5 and summary["runs"]["srt"]["last"]["held"]["avg@4"] == 0.6
    head, first, row, _ = figures.table(summary).splitlines()
    assert head.split() == ["avg@4", "maj@4", "pass@4", "best", "avg", "at", "step"]
    assert first.split() == ["base", "0.500", "0.600", "0.700"]
    assert row.split() == ["srt", "0.600", "0.700", "0.800", "0.600", "1"]
    drawn = curves(monkeypatch, runs, tmp_path / "figure.png")
    assert list(drawn) == [
        "accuracy of one sample (avg@4)",
        "accuracy of the vote (maj@4)",
        "pseudo-reward",
        "label accuracy",
    ]
    assert drawn["accuracy of one sample (avg@4)"]["srt"] == [(0, 0.5), (1, 0.6)]
    assert drawn["pseudo-reward"]["ground truth"] == [(1, 0.5)]
    (tmp_path / "summary.json").write_text(json.dumps(summary))  # of both, beside them: no run
    monkeypatch.setattr("sys.argv", ["figures", str(tmp_path)])
    figures.main()
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3 and out[1].split()[1:] == ["1", "0.500", "0.600", "0.600", "0.700", "0.600", "1", "1"]


@pytest.mark.parametrize("logged", [False, True])
def test_runs_with_several_sets_have_a_curve_for_each_and_their_mean(tmp_path, monkeypatch, logged):
    """Also with a validation set and one without answers; with the mean logged, or from a run before it was."""
    validation = {"validation": 0.9}
    one = finished(tmp_path / "srt", BASE | validation, AFTER | validation, unanswered=["unknown"], mean=logged)
    two = finished(tmp_path / "other", BASE, BASE, unanswered=["unknown"], mean=logged)
    summary = figures.summarise([one, two])
    assert summary["sets"] == list(BASE)
    rows = [row.split() for row in figures.table(summary).splitlines()]
    assert ["srt", "aime24", "0.200", "0.300", "0.400", "0.200", "1"] in rows
    assert ["srt", "mean", "0.450", "0.550", "0.650", "0.450", "1"] in rows
    assert ["srt", "validation", "0.900", "1.000", "1.100", "0.900", "1"] in rows
    assert [row[0] for row in rows if "mean" in row[:4]] == ["base", "base", "srt", "other"]  # base of srt, of other
    assert rows[-1] == ["mean:", "over", "aime24,", "math500,", "amc23"]
    drawn = curves(monkeypatch, [one, two], tmp_path / "figure.png")
    assert drawn["mean of 3 sets (avg@4)"] == {"srt": [(0, 0.3), (1, 0.45)], "other": [(0, 0.3), (1, 0.3)]}
    assert drawn["mean of 3 sets (maj@4)"]["srt"] == [(0, 0.4), (1, 0.55)]
    for name, before in BASE.items():
        assert drawn[f"{name} (avg@4)"]["srt"] == [(0, before), (1, AFTER[name])]
    assert drawn["validation (avg@4)"] == {"srt": [(0, 0.9), (1, 0.9)], "other": []}
    assert not any("unknown" in title for title in drawn)
    assert figures.lines([one]).splitlines()[1].split()[2:7] == ["0.300", "0.400", "0.450", "0.550", "0.450"]


def test_the_mean_is_over_the_sets_that_all_runs_have(tmp_path):
    one = finished(tmp_path / "one", BASE, AFTER)
    two = finished(tmp_path / "two", BASE | {"minerva": 0.9}, AFTER | {"minerva": 0.9}, mean=True)
    summary = figures.summarise([two, one])
    assert summary["sets"] == list(BASE)
    assert summary["runs"]["two"]["last"]["mean"]["avg@4"] == pytest.approx(0.45)  # not its own, with minerva
    assert "minerva" in figures.table(summary)


def test_no_run_is_lost_among_many_or_among_namesakes(tmp_path, monkeypatch):
    runs = [finished(tmp_path / f"group{i}" / "srt", BASE, AFTER) for i in range(12)]
    assert figures.names_of(runs) == [f"group{i}/srt" for i in range(12)]
    drawn = curves(monkeypatch, runs, tmp_path / "figure.png")
    assert all(len(lines) == 12 for lines in drawn.values())


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    four, eight = finished(tmp_path / "four", BASE, AFTER), finished(tmp_path / "eight", BASE, AFTER, k=8)
    with pytest.raises(FiguresError, match="different numbers of samples"):
        figures.summarise([four, eight])
    with pytest.raises(FiguresError, match="share no evaluation set with answers"):
        figures.summarise([four, finished(tmp_path / "other", {"mmlu": 0.5}, {"mmlu": 0.5})])


def test_without_answers_the_training_curves_are_drawn(tmp_path, monkeypatch):
    run = finished(tmp_path / "run", {}, {}, unanswered=["unknown"])
    assert list(curves(monkeypatch, [run], tmp_path / "figure.png")) == ["pseudo-reward", "label accuracy"]
    assert figures.table(figures.summarise([run])) == "no evaluation set has answers."
    assert figures.lines([run]).splitlines()[1].split()[1:4] == ["1", "nan", "nan"]


def test_the_mean_over_sets_is_plain_and_of_known_answers():
    values = evals(AFTER, unanswered=["unknown"]) | {"eval/validation/avg@4": 1.0, "eval/mean/avg@4": 7.0}
    found = metrics.mean_over_sets(values)
    assert found == pytest.approx({"eval/mean/avg@4": 0.45, "eval/mean/maj@4": 0.55, "eval/mean/pass@4": 0.65})
    assert metrics.mean_over_sets(evals({"held": 0.5}) | {"eval/validation/avg@4": 1.0}) == {}
    assert metrics.describe_tag("eval/mean/avg@4").startswith("mean over the evaluation sets: share of right")


def test_names_that_the_metrics_use_are_refused_for_sets():
    config = base()
    config.name, config.model.path = "x", "y"
    with config.eval.unlocked():
        config.eval.sets.validation = config.data
    validate(config)
    config.stop.validation_fraction = 0.1
    with pytest.raises(
        ConfigError, match=r"stop\.validation_fraction is 0\.1, which makes an evaluation set .validation., but"
    ):
        validate(config)
    with config.eval.unlocked():
        del config.eval.sets["validation"]
        config.eval.sets.mean = config.data
    with pytest.raises(ConfigError, match=r"eval\.sets\.mean has the name of the mean"):
        validate(config)


def test_a_real_run_with_three_sets_and_a_validation_set(untrained, tmp_path):
    config = small_config(untrained, tmp_path, name="three", steps=2)
    config.eval.every, config.stop.validation_fraction = 1, 0.1
    rows = [json.loads(line) for line in (untrained / "heldout.jsonl").read_text().splitlines()]
    for i, name in enumerate(("two", "three")):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[8 * i + 8 : 8 * i + 16]))
        with config.eval.unlocked():
            config.eval.sets[name] = config.eval.sets.heldout.copy_and_resolve_references()
            config.eval.sets[name].path = str(tmp_path / f"{name}.jsonl")
    summary = train(config)
    records = metrics.read_metrics(tmp_path / "three")
    for record in records:
        for metric in ("avg@4", "maj@4", "pass@2"):
            expected = np.mean([record[f"eval/{name}/{metric}"] for name in ("heldout", "two", "three")])
            assert record[f"eval/mean/{metric}"] == pytest.approx(expected)
    assert records[-1]["eval/mean/avg@4"] == summary["last"]["eval/mean/avg@4"]
    best = max(records, key=lambda record: (record["eval/validation/avg@4"], record["step"]))
    assert summary["best"]["step"] == best["step"]  # by the validation set, as before
    assert figures.summarise([tmp_path / "three"])["sets"] == ["heldout", "three", "two"]  # as configs sort them
