"""The guard of a run: the base's votes, its decisions in a run, and that they need no answers."""

import json
import shutil

import numpy as np
import pytest

from srt_jax import train as train_module
from srt_jax.config.levels import level_configs
from srt_jax.config.validation import LEAST_READINGS, validate
from srt_jax.config.versions import FORMAT
from srt_jax.data.base import Problem
from srt_jax.data.prompts import EvalSet
from srt_jax.errors import CheckpointError, ConfigError
from srt_jax.reward.rewards import grade
from srt_jax.run import anchor, collapse
from srt_jax.run.anchor import Anchor
from srt_jax.run.checkpoint import Checkpoints, retained
from srt_jax.run.collapse import IN_A_ROW, Detector, Reading
from srt_jax.run.fallback import kept_without_answers
from srt_jax.run.identity import check_same_run
from srt_jax.run.metrics_log import read_metrics
from srt_jax.run.prepare import guard_line
from srt_jax.train import train
from tests.helpers import small_config


def row(id, majority, lead, name="a"):
    return {"set": name, "id": id, "majority": majority, "lead": lead}


ROWS = [row("p", "4", 1.0), row("q", "5", 0.29), row("r", None, 0.0), row("s", "1/2", 0.3, "b")]


# ---- the base's votes


def test_a_reading_by_hand(grader):
    """Only prompts count of which the base is sure, and equal answers of another form agree with it."""
    answers = {"p": ["4", "4.0", "3", None], "q": ["5"] * 4, "r": ["1"] * 4, "s": ["0.5", "2/4", "1/2", "3"]}
    graded = {id: grade(Problem(id, id, None, "test"), row, grader) for id, row in answers.items()}
    found = anchor.take_reading(7, Anchor(ROWS), {"a": [graded[x] for x in "pqr"], "b": [graded["s"]]}, grader)
    assert found.step == 7 and found.agreement.tolist() == [0.5, 0.75] and found.information.shape == (4,)
    metrics = anchor.metrics(found, 2)
    assert np.isnan(metrics["guard/agreement"]) and metrics["guard/falls"] == 2  # two prompts are too few


def test_a_base_that_is_sure_of_too_few_prompts_is_reported():
    assert "0.3 or more on 2 of 4 prompts, fewer than 8: the anchored agreement is off" in Anchor(ROWS).describe()
    enough = Anchor([row(str(i), "1", 0.5) for i in range(8)])
    assert enough.describe() == "guard: the base's majority leads by 0.3 or more on 8 of 8 prompts"


def test_the_votes_are_read_again_or_refused(tmp_path):
    sets = [
        EvalSet("a", [Problem(x, x, None, "test") for x in "pqr"], [[1]] * 3),
        EvalSet("b", [Problem("s", "s", None, "test")], [[1]]),
    ]
    stored = Anchor(ROWS)
    anchor.write(tmp_path, stored, "run")
    assert anchor.read(tmp_path) == (stored, "run")
    assert anchor.read_again(tmp_path, stored.checksum, sets) == stored
    with pytest.raises(CheckpointError, match="has no votes of the base, which the guard draws before step 1 only: "):
        anchor.read_again(tmp_path, None, sets)
    with pytest.raises(CheckpointError, match=r"guard\.json is not the one that the checkpoint records: restore it"):
        anchor.read_again(tmp_path, "0" * 64, sets)
    with pytest.raises(CheckpointError, match=r"guard\.json has the votes of other evaluation prompts: restore"):
        anchor.read_again(tmp_path, stored.checksum, sets[::-1])
    path = tmp_path / anchor.FILE
    text = path.read_text()
    for damaged in (text[:50], text.replace('"4"', '"5"'), "[]", '{"sha256": 1}', ""):
        path.write_text(damaged)
        assert anchor.read(tmp_path) is None
        with pytest.raises(CheckpointError, match=r"guard\.json is missing or damaged: restore it from a copy, give"):
            anchor.read_again(tmp_path, stored.checksum, sets)


# ---- wrong input


def test_a_guard_needs_prompts_and_samples_that_differ(tmp_path):
    config = small_config(tmp_path, tmp_path, "x", 3)
    config.eval.temperature, config.eval.every = 0.0, 1
    validate(config)
    config.guard.action = "stop"
    with pytest.raises(ConfigError, match=r"^eval\.temperature is 0, .* but guard\.action is 'stop': set a temp"):
        validate(config)
    config.eval.temperature, config.eval.top_k = 1.0, 1
    with pytest.raises(ConfigError, match=r"^eval\.top_k is 1, so all votes .* guard\.action is 'stop': set it to -1"):
        validate(config)
    config.eval.top_k = -1
    validate(config)
    with config.eval.unlocked():
        del config.eval.sets["heldout"]
    with pytest.raises(ConfigError, match=r"^guard\.action is 'stop', but there are no evaluation prompts on which"):
        validate(config)
    config.guard.votes = 0
    validate(config)
    config.guard.votes, config.stop.validation_fraction = 8, 0.1
    validate(config)
    config.eval.every = 2
    with pytest.raises(
        ConfigError, match=r"alarm needs 4 evaluations, but 3 steps with eval\.every=2 have 3: give more"
    ):
        validate(config)
    config.guard.votes = 7
    with pytest.raises(ConfigError, match=r"^guard\.votes is 7: so few votes do not show .*; give at least 8, or 0\."):
        validate(config)


def test_too_few_evaluation_prompts_for_a_reading_are_refused_before_the_run(tmp_path):
    config = small_config(tmp_path, tmp_path, "x", 3)
    config.guard.action, config.guard.votes = "warn", 8

    def sets(*sizes):
        return [EvalSet(str(i), [], [[1]] * size) for i, size in enumerate(sizes)]

    assert "8 votes of the base on each of 8 evaluation prompts" in guard_line(config, sets(5, 3))[0]
    message = (
        r"^guard\.action is 'warn', but the evaluation sets have 7 prompts, and the .*8: .* with --allow_change=guard"
    )
    with pytest.raises(ConfigError, match=message):
        guard_line(config, sets(4, 3))
    there, config.guard.votes = {"config": config.to_dict()}, 0
    found = check_same_run({"identity": there, "format": FORMAT}, {"config": config.to_dict()}, "run", ["guard"])
    assert [name for name, _, _ in found] == ["guard.votes"]
    assert guard_line(config, sets(4, 3)) == ["guard: warn at signs of a collapse, from the metrics of steps"]


def test_a_level_does_not_start_from_weights_that_the_guard_left(tmp_path):
    config = small_config(tmp_path, tmp_path, "x", 3)
    config.levels, config.guard.action = ({"name": "easy"}, {"name": "hard"}), "stop"
    with pytest.raises(ConfigError, match=r"^guard\.action is 'stop' in level 'easy', but the next level"):
        level_configs(config)


def test_the_check_knows_how_many_readings_an_alarm_needs():
    assert LEAST_READINGS == IN_A_ROW + 1


# ---- whole runs


def guarded(model, out, name, steps=24, action="stop"):
    """A run that collapses within a few steps, because its learning rate is too high."""
    config = small_config(model, out, name, steps)
    config.optimizer.learning_rate, config.eval.every, config.checkpoint.keep = 5e-3, 1, 1
    config.eval.sets.heldout.limit, config.guard.action, config.guard.votes = 32, action, 16
    return config


def state(folder):
    """The exported weights of the last step."""
    return (folder / "final/model.safetensors").read_bytes()


def decisions(folder):
    """Everything that the guard drew, read and decided in a run."""
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "votes": json.loads((folder / anchor.FILE).read_text())["rows"],
        "record": Checkpoints(folder).record(summary["steps"])["guard"],
        "metrics": [{tag: v for tag, v in r.items() if tag.startswith("guard/")} for r in read_metrics(folder)],
        "ended": summary["ended_early"],
        "fallback": summary["fallback"],
        "chosen": {name: summary["chosen"][name] for name in ("step", "rule")},
    }


@pytest.fixture(scope="module")
def stopped(miniature, tmp_path_factory):
    """The folder of a run that the guard stops."""
    out = tmp_path_factory.mktemp("guard")
    train(guarded(miniature, out, "straight"))
    return out / "straight"


@pytest.fixture(scope="module")
def returned(miniature, tmp_path_factory):
    """The folder of a run that the guard returns to a checkpoint, whose votes are its labels from then on."""
    out = tmp_path_factory.mktemp("guard")
    summary = train(guarded(miniature, out, "returned", action="teacher"))
    assert summary["fallback"]["step"] < summary["steps"]
    return out / "returned"


@pytest.fixture(params=["stop", "teacher"])
def straight(request):
    """(guard.action, the folder of a run with it)."""
    return request.param, request.getfixturevalue({"stop": "stopped", "teacher": "returned"}[request.param])


def test_a_collapse_ends_the_run_and_the_chosen_checkpoint_is_named(stopped):
    summary = json.loads((stopped / "summary.json").read_text())
    chosen, last = summary["chosen"], summary["steps"]
    assert last < 24 and "agreement with the base's majority fell" in summary["ended_early"]
    assert chosen["step"] <= last - 3 and "the step with the highest anchored agreement" in chosen["rule"]
    assert chosen["guard/agreement"] > summary["last"]["guard/agreement"] and summary["last"]["guard/falls"] == 3
    warnings = [record["warning"] for record in read_metrics(stopped) if "warning" in record]
    assert sum("the vote seems to collapse" in text for text in warnings) == 1


def test_after_a_return_to_the_initial_weights_the_best_step_is_0(returned):
    """The step of the alarm has the same weights and scores, but they are no trained ones."""
    summary = json.loads((returned / "summary.json").read_text())
    assert summary["fallback"]["chosen"] == summary["best"]["step"] == 0 < summary["fallback"]["step"]
    assert summary["last"]["step"] == summary["steps"]
    assert not (returned / "best").exists() and (returned / "final").exists()


@pytest.mark.slow
def test_the_chosen_checkpoint_stays_and_is_exported_beside_the_best_one(untrained, tmp_path, monkeypatch):
    """The readings of three evaluations are replaced by ones that fall after step 1."""
    shares = iter([0.4, 0.9, 0.2, 0.1])

    def reading(step, *_):
        return Reading(step, np.full(8, next(shares)), np.ones(8))

    monkeypatch.setattr(anchor, "take_reading", reading)
    monkeypatch.setattr(train_module, "scores", lambda config, evals: {int(step): int(step == "2") for step in evals})
    config = small_config(untrained, tmp_path, "ring", steps=3)
    config.eval.every = config.checkpoint.keep = 1
    config.guard.action, config.guard.votes = "warn", 8
    summary = train(config)
    assert summary["steps"] == 3 and summary["ended_early"] is None
    assert summary["best"]["step"] == 2 and summary["chosen"]["step"] == 1 and summary["chosen"]["folder"] == "chosen"
    assert Checkpoints(tmp_path / "ring").steps() == [1, 2, 3]
    exported = [(tmp_path / "ring" / name / "model.safetensors").read_bytes() for name in ("chosen", "best", "final")]
    assert len(set(exported)) == 3


@pytest.mark.parametrize("readings", [True, False])
def test_the_guard_sees_neither_the_best_checkpoint_by_answers_nor_that_of_a_stop(readings):
    """Only a run with answers or with stops has these, so a choice among all checkpoints would depend on them."""
    rng, extra, chosen = np.random.default_rng(0), 0, set()
    for _ in range(30):
        every, saved, keep = rng.integers(1, 5), rng.integers(1, 5), int(rng.integers(1, 4))
        detector, known, blind, scores = Detector(), set(), set(), {}
        is_planned = lambda step, every=every, saved=saved: step % every == 0 or step % saved == 0  # noqa: E731
        for step in range(40):
            detector.update({"label/top_answer_share": 0.1 if step < 30 else 0.9})
            if step % every == 0:
                scores[step] = rng.random()
                if readings:
                    detector.read(Reading(step, rng.random(7), rng.random(8)))
            for _ in ("before it is saved", "after"):
                found = kept_without_answers(sorted(known), detector, keep, None, is_planned)
                assert found == blind
                assert detector.choice(step, [0, *found]) == detector.choice(step, [0, *blind])
                extra += detector.choice(step, [0, *known]) != detector.choice(step, [0, *found])
                if step and (is_planned(step) or rng.random() < 0.2):  # a stop also saves a checkpoint
                    known = retained({*known, step}, scores, keep, detector.needed(), is_planned)
                if step and is_planned(step):
                    blind = retained({*blind, step}, {}, keep, detector.needed(), is_planned)
            chosen.add(detector.choice(step, [0, *blind]).step)
    assert extra and len(chosen) > 10  # the checkpoint of the best answers would be chosen at times


@pytest.mark.slow
def test_after_a_sign_in_the_steps_a_run_with_answers_chooses_as_one_without(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr(collapse, "_one_answer", lambda top: "one answer." if len(top) >= 6 else None)
    monkeypatch.setattr(train_module, "scores", lambda config, evals: {int(step): int(step == "2") for step in evals})
    config = small_config(untrained, tmp_path, "sign", steps=6)
    config.eval.every = config.checkpoint.keep = 1
    config.guard.action, config.guard.votes = "warn", 0
    summary = train(config)
    assert Checkpoints(tmp_path / "sign").steps() == [2, 6]
    assert summary["best"]["step"] == 2 and summary["chosen"]["step"] == 0


@pytest.mark.slow
def test_a_summary_has_no_number_that_is_unknown(untrained, tmp_path):
    """The base is sure of no prompt, so there is no anchored agreement. JSON of other programs has no NaN."""
    config = small_config(untrained, tmp_path, "unsure", steps=3)
    config.eval.every, config.guard.action, config.guard.votes = 1, "warn", 8
    train(config)

    def refuse(name):
        raise AssertionError(name)

    summary = json.loads((tmp_path / "unsure/summary.json").read_text(), parse_constant=refuse)
    assert "eval/heldout/vote_share" in summary["last"] and "guard/agreement" not in summary["last"]


def without_answers(model, folder):
    """A copy of a model's folder whose problems have no answers."""
    shutil.copytree(model, folder)
    for path in folder.glob("*.jsonl"):
        rows = map(json.loads, path.read_text().splitlines())
        path.write_text("".join(json.dumps({"problem": row["problem"]}) + "\n" for row in rows))
    return folder


def test_blind_and_resumed_without_any_answer_every_decision_and_every_bit_is_the_same(straight, miniature, tmp_path):
    action, folder = straight
    config = guarded(miniature, tmp_path, "blind", steps=3, action=action)
    data = without_answers(miniature, tmp_path / "data")
    config.data.path, config.eval.sets.heldout.path = str(data / "train.jsonl"), str(data / "heldout.jsonl")
    train(config)
    votes = (tmp_path / "blind" / anchor.FILE).read_bytes()
    config.steps = 24
    train(config)
    assert (tmp_path / "blind" / anchor.FILE).read_bytes() == votes
    assert json.loads((tmp_path / "blind/summary.json").read_text())["best"] == {}
    assert decisions(tmp_path / "blind") == decisions(folder)
    assert state(tmp_path / "blind") == state(folder)


def with_rivals(model, folder):
    """A copy of a model's folder with other known answers: the rival of x is |x - 10|."""
    shutil.copytree(model, folder)
    for path in (folder / "train.jsonl", folder / "heldout.jsonl"):
        rows = map(json.loads, path.read_text().splitlines())
        rivals = (row | {"answer": str(abs(int(row["answer"]) - 10))} for row in rows)
        path.write_text("".join(json.dumps(row) + "\n" for row in rivals))
    return folder


def test_mirror_the_decisions_are_the_same_whichever_of_two_rival_answers_is_right(straight, miniature, tmp_path):
    """No rule without labels can be right on both kinds of data."""
    action, folder = straight
    config = guarded(miniature, tmp_path, "mirror", action=action)
    data = with_rivals(miniature, tmp_path / "data")
    config.data.path, config.eval.sets.heldout.path = str(data / "train.jsonl"), str(data / "heldout.jsonl")
    train(config)
    assert decisions(tmp_path / "mirror") == decisions(folder)
    assert state(tmp_path / "mirror") == state(folder)
    tags = ("eval/heldout/avg@4", "label/true_reward", "label/label_accuracy")
    truths = [[[record.get(tag) for tag in tags] for record in read_metrics(f)] for f in (tmp_path / "mirror", folder)]
    assert truths[0] != truths[1] and truths[0][0][0] < truths[1][0][0]  # the known answers differ
