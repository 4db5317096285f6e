"""Stops without labels: the step of each rule from a study's table, their regret, and the verdicts on the bars."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from srt_jax.run.collapse import Detector, Reading
from srt_jax.study import report, stops
from srt_jax.study.stops import Bars, Stopped

BARS = Bars(
    kl="kl",
    teacher="frozen",
    kept=0.95,
    share=0.9,
    margin=0.2,
    runs=20,
    arms=4,
    spread=3.0,
    cost=0.03,
    mirrors=(("rival", "mirror"),),
)
STEPS = [5 * i for i in range(25)]


def curve(values):
    return list(zip(STEPS, values))


def rise_and_fall(top, end=0.05):
    """Rises to 0.8 at the evaluation `top`, stays there for five, and falls to `end` within three."""
    up, flat = np.linspace(0.4, 0.8, top), [0.8] * 5
    down = [0.6, 0.4, 0.2]
    return curve([*up, *flat, *down, *[end] * (25 - top - 8)])


def rows_of(arm, setting, seed, truth, agreement, falls, kl):
    """The rows of one run."""
    where = {"arm": arm, "setting": setting, "seed": seed}
    return [
        where | {"step": s, "truth": t, "guard/agreement": a, "guard/falls": f, "kl": k}
        for (s, t), a, f, k in zip(truth, agreement, falls, kl, strict=True)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_the_guards_stop_is_the_choice_of_its_detector(seed):
    """From the means in the table it finds the step that the run itself would have chosen at its alarm."""
    rng = np.random.default_rng(seed)
    level = 0.6 + 0.3 * np.minimum(np.arange(25) / 10, 1)
    level[12 + seed :] = np.where(seed % 2, 0.2, level[12 + seed :])  # every second run collapses
    detector, means, falls, alarm, chosen = Detector(), [], [], None, None
    for step, p in zip(STEPS, level):
        found = detector.read(Reading(step, rng.binomial(8, p, 40) / 8, np.ones(40)))
        means.append((step, float(detector.readings[-1].agreement.mean())))
        falls.append((step, float(detector.falls())))
        if found and alarm is None:
            alarm, chosen = step, detector.choice(step).step
    chosen = detector.choice(STEPS[-1]).step if alarm is None else chosen
    assert stops.guard_stop(means, falls) == (chosen, alarm)
    assert (alarm is None) == (seed % 2 == 0)


def test_the_stop_of_the_kl_rule_by_hand():
    low = [0.01] * 10
    # The mean of the readings 8 to 10 is 0.073 and exceeds 0.05, so the stop is reading 7.
    assert stops.kl_stop(curve([*low, 0.2, 0.3, 0.4])) == STEPS[7]
    assert stops.kl_stop(curve(low)) == STEPS[9]


def test_a_reading_may_be_missing():
    truth = curve([0.5] * 25)
    rows = rows_of("votes", "a", 1, truth, [0.5] * 25, [0.0] * 25, [0.0] * 25)
    without = [{name: v for name, v in row.items() if not name.startswith("guard/")} for row in rows]
    assert stops.stopped_runs(without, "truth", BARS) == {}
    assert "No run with readings" in stops.markdown(without, "truth", BARS)


def test_regret_and_share_by_hand():
    run = Stopped(rise_and_fall(10), {"last": 120, "kl": 45, "guard": 75}, 80, teacher=0.7)
    assert run.regret("kl") == pytest.approx(0.0) and run.keeps("kl", 0.95)
    assert run.regret("last") == pytest.approx(0.75) and not run.keeps("last", 0.95)
    assert run.regret("guard") == pytest.approx(0.2) and run.regret("teacher") == pytest.approx(0.1)
    sunk = Stopped(curve([0.4, *[0.0] * 24]), {"guard": 0, "last": 120}, 15)  # the top is the start
    assert sunk.regret("guard") == 0 and sunk.regret("last") == pytest.approx(0.4)
    assert run.cost() == pytest.approx(0.05 - 0.6) and not run.is_healthy
    healthy = Stopped(curve(np.linspace(0.4, 0.9, 25)), {"guard": 60}, 75)
    last = np.linspace(0.4, 0.9, 25)[-5:].mean()
    assert healthy.is_healthy and healthy.cost() == pytest.approx(last - 0.65)
    assert dataclasses.replace(healthy, alarm=None).cost() == 0


def test_exact_intervals():
    """(alpha / 2)^(1 / n) is the bound if all n of n count."""
    assert stops.interval(20, 20) == (pytest.approx(0.025 ** (1 / 20)), 1.0)
    assert stops.interval(0, 20) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    low, high = stops.interval(9, 10)
    assert low == pytest.approx(0.5550, abs=1e-4) and high == pytest.approx(0.9975, abs=1e-4)


def collapsed(missed=0, arms=4, alike=False):
    """20 collapsed runs. The guard stops `missed` of them at the end. alike: all collapse at the same time."""
    found = {}
    for i in range(20):
        end = 10 if alike else (4, 10, 15, 20)[i // 5]  # the last evaluation before the fall
        truth = curve([0.4, *[0.8] * end, *[0.05] * (24 - end)])
        stop = 120 if i < missed else STEPS[end]
        where = {"last": 120, "kl": 120, "fixed": STEPS[14], "guard": stop}
        found[f"arm{i % arms}", "a", i] = Stopped(truth, where, stop)
    return found


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        (collapsed(), "holds"),
        (collapsed(missed=2), "holds"),  # 18 of 20
        (collapsed(missed=3), "fails"),
        (collapsed(arms=3), "undecided"),
        (collapsed(alike=True), "undecided"),
        (dict(list(collapsed().items())[:19]), "undecided"),
        ({}, "undecided"),
    ],
)
def test_the_bar_on_collapsed_runs(runs, verdict):
    found, sentence = stops.judge_collapses(runs, BARS)
    assert found == verdict, sentence


def test_a_set_on_which_a_fixed_step_does_as_well_is_too_easy():
    runs = {run: dataclasses.replace(s, stops=s.stops | {"fixed": s.stops["guard"]}) for run, s in collapsed().items()}
    assert stops.judge_collapses(runs, BARS)[0] == "fails"


def test_the_bar_on_healthy_runs():
    good = Stopped(curve(np.linspace(0.4, 0.9, 25)), {"guard": 120}, None)
    cheap, false = (dataclasses.replace(good, stops={"guard": step}, alarm=step) for step in (115, 60))
    runs = {("votes", "a", i): good for i in range(20)}
    assert stops.judge_healthy(runs, BARS)[0] == "holds"
    assert stops.judge_healthy(runs | {("votes", "a", 0): cheap}, BARS)[0] == "holds"
    verdict, sentence = stops.judge_healthy(runs | {("votes", "a", 0): false}, BARS)
    assert verdict == "fails" and sentence.startswith("1 of 20 healthy runs")
    assert stops.judge_healthy(dict(list(runs.items())[:19]), BARS)[0] == "undecided"
    assert stops.judge_healthy(collapsed(), BARS)[0] == "undecided"  # none is healthy


def test_the_report_of_a_table():
    rows = []
    for seed in range(2):
        for setting, truth in (("rival", rise_and_fall(8)), ("mirror", curve([0.3] * 25))):
            agreement = [0.5] * 15 + [0.1] * 10
            falls = [0.0] * 15 + [float(i) for i in range(1, 11)]
            rows += rows_of("votes", setting, seed, truth, agreement, falls, [0.01] * 25)
            rows += rows_of("frozen", setting, seed, curve([0.5] * 25), [0.5] * 25, [0.0] * 25, [0.01] * 25)
    text = stops.markdown(rows, "truth", BARS)
    assert "The guard decides alike in 4 of 4 pairs." in text
    assert "| votes | rival | 2 | 2 | 85, 85 | " in text and "| frozen | mirror | 2 | 0 | none | " in text
    found = stops.stopped_runs(rows, "truth", BARS)["votes", "rival", 0]
    # The agreement has its first peak at step 0, and the best fixed step is the first of the peak.
    assert found.stops == {"last": 120, "kl": 120, "guard": 0, "fixed": 35} and found.teacher == 0.5
    assert f"step of the collapsed runs is {found.stops['fixed']:g}." in text
    assert " 0 of 8 runs fall from their peak without a collapse" in text


def test_runs_that_fall_without_a_collapse_are_counted_apart():
    kept = Stopped(rise_and_fall(10, end=0.5), {"last": 120, "fixed": 60, "guard": 50}, 80)
    runs = {("votes", "a", 0): kept, **collapsed()}
    assert [run.kind for run in runs.values()] == ["fallen", *["collapsed"] * 20]
    sentence = stops.others(runs)
    assert "1 of 21 runs fall from their peak without a collapse and count for neither bar" in sentence
    assert "an alarm in 1 of them, and its mean regret there is +0.000 (+0.300 at the last step)" in sentence


def test_collapsed_runs_that_rise_first_have_a_table_of_their_own():
    """Six rise and fall; the guard keeps four of them, and a fixed step three. Two fall from their start."""
    runs = {}
    for i, top in enumerate([4, 4, 4, 15, 15, 15]):
        truth = rise_and_fall(top)
        stop = STEPS[24] if i in (0, 3) else STEPS[top]
        runs["votes", "ab"[i // 3], i] = Stopped(truth, {"last": 120, "kl": 120, "guard": stop, "fixed": 0}, stop)
    at_once = Stopped(curve([0.4, *[0.05] * 24]), {"last": 120, "kl": 120, "guard": 0, "fixed": 0}, 15)
    runs |= {("random", "a", i): at_once for i in range(6, 8)}
    lines = stops.risen(runs, BARS).splitlines()
    assert lines[0].startswith("6 of the collapsed runs have a top more than 0.05 above their start")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:]]
    assert [row[:3] for row in cells] == [["all", "6", "4"], ["a", "3", "2"], ["b", "3", "2"]]
    assert [row[3].split()[0] for row in cells] == ["3", "3", "3"] and [row[4] for row in cells] == ["0"] * 3
    assert stops.risen({("random", "a", 6): at_once}, BARS) == ""


def test_the_report_says_how_late_healthy_runs_rise():
    def healthy(steps, kl):
        truth = curve([0.4] * steps + [0.8] * (25 - steps))
        return Stopped(truth, {"last": 120, "kl": kl, "guard": 120, "fixed": 0}, None)

    runs = {("votes", "a", i): healthy(*case) for i, case in enumerate([(1, 120), (2, 60), (12, 120), (25, 30)])}
    assert stops.healthy_kinds(runs) == (
        "3 of the 4 healthy runs rise by more than 0.05 above their start. They first do so at step 10 (median), the "
        "latest at step 60; 1 of them rise after a quarter of the run. The KL jumps before the end in 2 healthy runs."
    )
    assert stops.healthy_kinds(collapsed()) == ""


def test_the_figure_of_runs_has_a_line_and_a_dot_for_each_run(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    rows, drawn, close = [], {}, plt.close
    for arm, setting, seed, end in [("votes", "x", 0, 0.05), ("votes", "x", 1, 0.8), ("other", "y", 0, 0.5)]:
        rows += rows_of(arm, setting, seed, rise_and_fall(8, end), [0.5] * 25, [0.0] * 25, [0.01] * 25)

    def read(figure):
        for i, axis in enumerate(figure.axes):
            colours = [line.get_color() for line in axis.lines]
            drawn[i // 2, i % 2] = colours, sum(len(dots.get_offsets()) for dots in axis.collections)
        close(figure)

    monkeypatch.setattr(plt, "close", read)
    study = SimpleNamespace(column="truth", bars=BARS, arms=["votes", "unused", "other"], settings=["x", "y", "z"])
    report.draw_runs(study, rows, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    kinds = report.KINDS
    assert drawn[0, 0] == ([kinds["collapsed"], kinds["healthy"]], 2) and drawn[0, 1] == ([], 0)
    assert drawn[1, 0] == ([], 0) and drawn[1, 1] == ([kinds["fallen"]], 1)


def test_the_figure_has_a_dot_for_each_run_and_rule(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    rows = []
    for seed, end in enumerate((0.05, 0.5, 0.8)):
        truth = rise_and_fall(8, end)
        rows += rows_of("votes", "a", seed, truth, [0.5] * 25, [0.0] * 25, [0.01] * 25)
    drawn, close = {}, plt.close

    def read(figure):
        for axis in figure.axes:
            drawn[axis.get_title()] = {dots.get_label(): len(dots.get_offsets()) for dots in axis.collections}
        close(figure)

    monkeypatch.setattr(plt, "close", read)
    report.draw_stops(SimpleNamespace(column="truth", bars=BARS), rows, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    assert drawn["guard"] == drawn["last"] == {"collapsed": 1, "fallen": 1, "healthy": 1}
