"""Runs side by side: one evaluation set, several, their mean, and runs that cannot be compared."""

import itertools
import json

import numpy as np
import pytest

from srt_jax.config import base
from srt_jax.config.validation import validate
from srt_jax.errors import ConfigError, FiguresError
from srt_jax.figures import kinds, panels, runs, summary
from srt_jax.jobs import figures
from srt_jax.run import metrics, metrics_log
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
    log = metrics_log.RunLog(folder, total_steps=1)
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


def curves(monkeypatch, folders, path, kind="curves"):
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
    kinds.KINDS[kind].draw(path, folders)
    assert path.read_bytes()[:4] == b"\x89PNG"
    return drawn


def test_runs_with_one_set(tmp_path, monkeypatch, capsys):
    folders = [finished(tmp_path / name, {"held": 0.5}, {"held": 0.6}) for name in ("srt", "ground_truth")]
    found = summary.summarise(folders)
    assert found["base"]["base"]["held"]["avg@4"] == 0.5 and found["runs"]["srt"]["last"]["held"]["avg@4"] == 0.6
    head, first, row, _ = summary.table(found).splitlines()
    assert head.split() == ["avg@4", "maj@4", "pass@4", "best", "avg", "at", "step"]
    assert first.split() == ["base", "0.500", "0.600", "0.700"]
    assert row.split() == ["srt", "0.600", "0.700", "0.800", "0.600", "1"]
    drawn = curves(monkeypatch, folders, tmp_path / "figure.png")
    assert list(drawn) == [
        "held: one sample (avg@4)",
        "held: majority vote (maj@4)",
        "pseudo-reward",
        "label accuracy",
    ]
    assert drawn["held: one sample (avg@4)"]["srt"] == [(0, 0.5), (1, 0.6)]
    assert drawn["pseudo-reward"]["ground truth"] == [(1, 0.5)]
    (tmp_path / "summary.json").write_text(json.dumps(found))  # of both, beside them: no run
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
    found = summary.summarise([one, two])
    assert found["sets"] == list(BASE)
    rows = [row.split() for row in summary.table(found).splitlines()]
    assert ["srt", "aime24", "0.200", "0.300", "0.400", "0.200", "1"] in rows
    assert ["srt", "mean", "0.450", "0.550", "0.650", "0.450", "1"] in rows
    assert ["srt", "validation", "0.900", "1.000", "1.100", "0.900", "1"] in rows
    assert [row[0] for row in rows if "mean" in row[:4]] == ["base", "base", "srt", "other"]  # base of srt, of other
    assert rows[-1] == ["mean:", "over", "aime24,", "math500,", "amc23"]
    drawn = curves(monkeypatch, [one, two], tmp_path / "figure.png")
    assert drawn["mean of 3 sets: one sample (avg@4)"] == {"srt": [(0, 0.3), (1, 0.45)], "other": [(0, 0.3), (1, 0.3)]}
    assert drawn["mean of 3 sets: majority vote (maj@4)"]["srt"] == [(0, 0.4), (1, 0.55)]
    for name, before in BASE.items():
        assert drawn[f"{name} (avg@4)"]["srt"] == [(0, before), (1, AFTER[name])]
    assert drawn["validation (avg@4)"] == {"srt": [(0, 0.9), (1, 0.9)], "other": []}
    assert not any("unknown" in title for title in drawn)
    assert summary.lines([one]).splitlines()[1].split()[2:7] == ["0.300", "0.400", "0.450", "0.550", "0.450"]


def test_the_mean_is_over_the_sets_that_all_runs_have(tmp_path):
    one = finished(tmp_path / "one", BASE, AFTER)
    two = finished(tmp_path / "two", BASE | {"minerva": 0.9}, AFTER | {"minerva": 0.9}, mean=True)
    found = summary.summarise([two, one])
    assert found["sets"] == list(BASE)
    assert found["runs"]["two"]["last"]["mean"]["avg@4"] == pytest.approx(0.45)  # not its own, with minerva
    assert "minerva" in summary.table(found)


def test_no_run_is_lost_among_many_or_among_namesakes(tmp_path, monkeypatch):
    folders = [finished(tmp_path / f"group{i}" / "srt", BASE, AFTER) for i in range(12)]
    assert runs.names_of(folders) == [f"group{i}/srt" for i in range(12)]
    drawn = curves(monkeypatch, folders, tmp_path / "figure.png")
    assert all(len(lines) == 12 for lines in drawn.values())


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    four, eight = finished(tmp_path / "four", BASE, AFTER), finished(tmp_path / "eight", BASE, AFTER, k=8)
    with pytest.raises(FiguresError, match="different numbers of samples"):
        summary.summarise([four, eight])
    with pytest.raises(FiguresError, match="share no evaluation set with answers"):
        summary.summarise([four, finished(tmp_path / "other", {"mmlu": 0.5}, {"mmlu": 0.5})])


def test_a_return_of_the_guard_is_a_line_of_every_panel_and_of_the_table(tmp_path, monkeypatch):
    folders = [finished(tmp_path / name, {"held": 0.5}, {"held": 0.6}) for name in ("votes", "guarded")]
    whole = json.loads((folders[1] / "summary.json").read_text())
    (folders[1] / "summary.json").write_text(json.dumps({**whole, "fallback": {"step": 40, "chosen": 15}}))
    found = summary.summarise(folders)
    assert "fallback" not in found["runs"]["votes"] and found["runs"]["guarded"]["fallback"]["chosen"] == 15
    assert summary.table(found).splitlines()[-1] == "guarded: the guard returned from step 40 to step 15"
    for panel in curves(monkeypatch, folders, tmp_path / "figure.png").values():
        assert [points for points in panel.values() if points == [(40, 0), (40, 1)]]


def test_without_answers_the_training_curves_are_drawn(tmp_path, monkeypatch):
    run = finished(tmp_path / "run", {}, {}, unanswered=["unknown"])
    assert list(curves(monkeypatch, [run], tmp_path / "figure.png")) == ["pseudo-reward", "label accuracy"]
    assert summary.table(summary.summarise([run])) == "no evaluation set has answers."
    assert summary.lines([run]).splitlines()[1].split()[1:4] == ["1", "nan", "nan"]


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


@pytest.mark.slow
def test_a_real_run_with_three_sets_and_a_validation_set(untrained, tmp_path):
    config = small_config(untrained, tmp_path, name="three", steps=2)
    config.eval.every, config.stop.validation_fraction = 1, 0.1
    rows = [json.loads(line) for line in (untrained / "heldout.jsonl").read_text().splitlines()]
    for i, name in enumerate(("two", "three")):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[8 * i + 8 : 8 * i + 16]))
        with config.eval.unlocked():
            config.eval.sets[name] = config.eval.sets.heldout.copy_and_resolve_references()
            config.eval.sets[name].path = str(tmp_path / f"{name}.jsonl")
    result = train(config)
    records = metrics_log.read_metrics(tmp_path / "three")
    for record in records:
        for metric in ("avg@4", "maj@4", "pass@2"):
            expected = np.mean([record[f"eval/{name}/{metric}"] for name in ("heldout", "two", "three")])
            assert record[f"eval/mean/{metric}"] == pytest.approx(expected)
    assert records[-1]["eval/mean/avg@4"] == result["last"]["eval/mean/avg@4"]
    best = max(records, key=lambda record: (record["eval/validation/avg@4"], record["step"]))
    assert result["best"]["step"] == best["step"]  # by the validation set, as before
    assert summary.summarise([tmp_path / "three"])["sets"] == ["heldout", "three", "two"]  # as configs sort them


def seeded(folder, seed, value, **config):
    """A finished run whose config has this seed."""
    finished(folder, {"held": 0.4}, {"held": value})
    (folder / "config.json").write_text(json.dumps({"seed": seed, "name": folder.name, "out": "x", **config}))
    return folder


def test_runs_that_differ_in_the_seed_are_one_curve_with_a_band(tmp_path, monkeypatch):
    """Also if each seed has its own base. The same seed twice, and runs of another config, are further curves."""
    folders = [seeded(tmp_path / f"votes-seed{s}-0a81f7c{s}", s, v, base=b) for s, v, b in
               ((0, 0.5, "cache/rival"), (1, 0.8, "cache/rival-seed1"))]  # fmt: skip
    folders += [seeded(tmp_path / "again", 1, 0.7, base="cache/rival"), seeded(tmp_path / "other", 0, 0.6, base="x")]
    found = runs.groups(runs.read_runs(folders))
    assert [(group.label, len(group.runs)) for group in found] == [("votes (2 seeds)", 2), ("again", 1), ("other", 1)]
    drawn = curves(monkeypatch, folders, tmp_path / "figure.png")["held: one sample (avg@4)"]
    assert drawn["votes (2 seeds)"] == [(0, 0.4), (1, 0.65)] and drawn["again"] == [(0, 0.4), (1, 0.7)]


def test_the_mean_and_the_band_are_over_the_steps_that_all_seeds_have():
    x, mean, low, high = runs.mean_and_range([[(0, 1.0), (1, 2.0), (3, 9.0)], [(0, 3.0), (3, 1.0)]])
    assert (x.tolist(), mean.tolist(), low.tolist(), high.tolist()) == ([0, 3], [2, 5], [1, 1], [3, 9])
    assert all(not len(part) for part in runs.mean_and_range([]))


def test_a_run_that_ended_early_has_a_line_where_it_ended_and_at_its_best_step(tmp_path, monkeypatch):
    folder = finished(tmp_path / "stopped", {"held": 0.5}, {"held": 0.6})
    told = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(told | {"steps": 7, "best": {"step": 5}, "ended_early": "no gain"}))
    drawn = curves(monkeypatch, [folder], tmp_path / "figure.png")
    for lines in drawn.values():
        assert {x for label, points in lines.items() if label.startswith("_") for x, _ in points} == {7, 5}


def test_a_run_in_progress_is_drawn_from_its_metrics(tmp_path, monkeypatch):
    folder = finished(tmp_path / "running", {"held": 0.5}, {"held": 0.6})
    (folder / "summary.json").unlink()
    assert curves(monkeypatch, [folder], tmp_path / "x.png")["held: one sample (avg@4)"]["running"][-1] == (1, 0.6)
    assert summary.read_summary(folder)["last"]["eval/held/avg@4"] == 0.6


def test_collapse_has_all_signs_and_says_what_was_not_measured(tmp_path, monkeypatch):
    """It compares runs with different numbers of samples by their avg@k."""
    folders = [finished(tmp_path / name, {"held": 0.5}, {"held": 0.6}, k=k) for name, k in (("run", 4), ("more", 8))]
    drawn = curves(monkeypatch, folders, tmp_path / "x.png", "collapse")
    assert len(drawn) == 8 and drawn["KL to the initial model"] == {"run": [], "more": []}
    assert drawn["held: one sample (avg@k)"] == {name: [(0, 0.5), (1, 0.6)] for name in ("run", "more")}
    assert drawn["pseudo-reward (dashed: true reward)"]["run"] == [(1, 0.5)]


def test_bars_and_pass_at_k_compare_base_and_last(tmp_path, monkeypatch):
    folder = finished(tmp_path / "run", {"held": 0.5}, {"held": 0.6})
    drawn = curves(monkeypatch, [folder], tmp_path / "k.png", "pass_at_k")["pass@k: held"]
    assert drawn == {"base": [(1, 0.5), (4, 0.7)], "run": [(1, 0.6), (4, 0.8)]}
    assert set(curves(monkeypatch, [folder], tmp_path / "b.png", "bars")) == {
        "majority vote (maj@4)",
        "one sample (avg@4)",
    }


def test_names_under_bars_do_not_overlap(tmp_path):
    names = [f"{name}-attractor (3 seeds)" for name in ("votes", "ground_truth", "easiest_third", "entropy_bonus")]
    for shown in (names, names[:1], ["a", "b", "c"]):
        with panels.sheet(tmp_path / "x.png", 2, width=panels.width_of_bars(shown), columns=2) as (figure, axes):
            panels.draw_bars(axes[0], shown, {"before": [[0.5]] * len(shown), "after": [[0.6]] * len(shown)})
            figure.canvas.draw()
            boxes = [label.get_window_extent() for label in axes[0].get_xticklabels()]
            assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_the_ladder_puts_level_after_level(tmp_path, monkeypatch):
    for name, value in (("level_3", 0.6), ("level_4", 0.8)):
        finished(tmp_path / "climb" / name, {"held": 0.5}, {"held": value})
    (tmp_path / "climb" / "levels.json").write_text(json.dumps([{"name": "climb/level_3"}, {"name": "climb/level_4"}]))
    drawn = curves(monkeypatch, [tmp_path / "climb"], tmp_path / "x.png", "ladder")
    assert drawn["climb: level after level"]["level 4, avg@4"] == [(1, 0.5), (2, 0.8)]
    with pytest.raises(FiguresError, match=r"no levels\.json"):
        kinds.KINDS["ladder"].draw(tmp_path / "x.png", [tmp_path / "climb" / "level_3"])


def test_the_gap_is_that_of_the_prompts_above_each_vote_share():
    share, parsed = np.array([0.2, 0.5, 0.9]), np.array([0.4, 0.5, 0.9])
    correct, passed = np.array([0.0, 1.0, 1.0]), np.array([0.1, 0.5, 0.9])
    x, vote, sample, kept = kinds.above_thresholds(share, parsed, correct, passed)
    assert x[-1] == 0.9  # no prompt has a vote share of 0.95
    for t, *values in zip(x, vote, sample, kept):
        expected = [np.mean(v[parsed >= t]) for v in (correct, passed)] + [np.mean(share >= t)]
        assert values == pytest.approx(expected)
    assert (vote[0], sample[0], kept[0]) == pytest.approx((2 / 3, 0.5, 1))


def test_gap_and_temperatures_read_files(tmp_path, monkeypatch, capsys):
    row = {
        "id": "a",
        "label": "1",
        "vote_share": 0.5,
        "vote_share_parsed": 0.5,
        "label_correct": True,
        "pass_rate": 0.5,
    }
    (tmp_path / "labels.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "unknown.jsonl").write_text(json.dumps(row | {"pass_rate": None}) + "\n")
    sweep = {"model": "m", "best": 0.6, "temperatures": {"1.0": {"pass@1": 0.3}, "0.6": {"pass@1": 0.5, "AVG": 0.4}}}
    (tmp_path / "sweep.txt").write_text("temperature ...\n" + json.dumps(sweep) + "\n")
    drawn = curves(monkeypatch, [tmp_path / "labels.jsonl"], tmp_path / "x.png", "gap")["accuracy above a vote share"]
    assert drawn["labels: one sample"][0] == (0, 0.5) and drawn["labels: majority vote"][-1] == (0.5, 1)
    drawn = curves(monkeypatch, [tmp_path / "sweep.txt"], tmp_path / "y.png", "temperatures")
    assert drawn["pass@1"]["sweep"] == [(0.6, 0.5), (1.0, 0.3)]
    for figure, path, message in (
        ("gap", "unknown.jsonl", "no row with vote_share"),
        ("gap", ".", "is a folder: --figure=gap reads label files"),
        ("temperatures", "labels.jsonl", "is no output of srt evaluate"),
        ("curves", "sweep.txt", "is no folder: --figure=curves reads folders of runs"),
        ("curves", "empty", "has no run"),
        ("curves", "missing", "does not exist"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        monkeypatch.setattr("sys.argv", ["figures", f"--out={tmp_path}/o", f"--figure={figure}", str(tmp_path / path)])
        with pytest.raises(SystemExit) as error:
            figures.main()
        assert error.value.code == 2 and message in capsys.readouterr().err


def test_figures_are_images_in_tensorboard(tmp_path, monkeypatch):
    """The data server of TensorBoard shows a PNG of the right size. A parent folder stands for the runs in it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    finished(tmp_path / "runs/a", {"held": 0.5}, {"held": 0.6})
    monkeypatch.setattr("sys.argv", ["figures", f"--out={tmp_path}/o", "--board", str(tmp_path / "runs")])
    figures.main()
    events = EventAccumulator(str(tmp_path / "o"), size_guidance={"images": 0}).Reload()
    (image,) = events.Images("figures/curves")
    assert image.encoded_image_string == (tmp_path / "o/curves.png").read_bytes()
    assert (image.width, image.height) == pytest.importorskip("PIL.Image").open(tmp_path / "o/curves.png").size
