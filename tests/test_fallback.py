"""guard.action = teacher: the return of a run to the chosen checkpoint, whose votes are its labels from then on."""

import json

import jax
import numpy as np
import pytest

from srt_jax import train as train_module
from srt_jax.config.levels import level_configs
from srt_jax.config.validation import validate
from srt_jax.errors import CheckpointError, ConfigError
from srt_jax.jobs.replay import replay
from srt_jax.run import anchor, budget, collapse
from srt_jax.run.checkpoint import Checkpoints
from srt_jax.run.collapse import Fallback, Reading
from srt_jax.run.fallback import undone
from srt_jax.run.metrics_log import read_metrics
from srt_jax.train import train
from tests.helpers import fast_cases, small_config

# Agreement of the evaluations after each step. The alarm comes with the third low reading.
FROM_1 = {0: 0.4, 1: 0.9, 2: 0.2, 3: 0.1, 4: 0.1, 5: 0.85, 6: 0.95}
FROM_0 = {0: 0.9, 1: 0.2, 2: 0.1, 3: 0.1, 4: 0.9, 5: 0.9, 6: 0.9}
STEPS = 6


def falling(model, out, name, **changes):
    """A run of 6 steps that reads the agreement after each step."""
    config = small_config(model, out, name, STEPS)
    config.eval.every = config.checkpoint.keep = 1
    config.guard.action, config.guard.votes, config.optimizer.learning_rate = "teacher", 8, 2e-3
    config.optimizer.schedule, config.optimizer.schedule_steps = "linear", STEPS
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(autouse=True)
def readings(monkeypatch):
    """{step: agreement}, which the guard reads instead of the real one. Tests fill it."""
    found: dict[int, float] = {}

    def read(step, *_):
        return Reading(step, np.full(8, found[step]), np.ones(8))

    monkeypatch.setattr(anchor, "take_reading", read)
    return found


def outcome(folder):
    """Everything of a finished run that must not depend on a stop."""
    kept = ("label/", "rollout/", "update/", "teacher/", "guard/", "eval/")
    records = [
        {tag: v for tag, v in r.items() if tag.startswith(kept) and tag not in ("rollout/tokens_per_second",)}
        for r in read_metrics(folder)
    ]
    summary = json.loads((folder / "summary.json").read_text())
    weights = {path.name: path.read_bytes() for path in (folder / "final").glob("*.safetensors")}
    assert weights
    return {
        "records": records,
        "weights": weights,
        "guard": Checkpoints(folder).record(summary["steps"])["guard"],
        "evals": Checkpoints(folder).record(summary["steps"])["evals"],
        **{name: summary[name] for name in ("steps", "fallback", "chosen", "ended_early", "last", "best")},
    }


@pytest.fixture(scope="module")
def straight(untrained, tmp_path_factory):
    """The outcome of a run that returns to step 1 after step 4, and its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anchor, "take_reading", lambda step, *_: Reading(step, np.full(8, FROM_1[step]), np.ones(8)))
        out = tmp_path_factory.mktemp("fallback")
        train(falling(untrained, out, "run"))
    return outcome(out / "run"), out / "run"


def test_the_run_returns_to_the_chosen_checkpoint_whose_votes_are_the_labels(straight):
    found, folder = straight
    assert found["steps"] == STEPS and found["ended_early"] is None
    assert found["fallback"]["step"] == 4 and found["fallback"]["chosen"] == 1
    assert "anchored agreement" in found["fallback"]["rule"] and "its peak was at step 1" in found["fallback"]["alarm"]
    assert found["guard"]["fallback"] == found["fallback"]
    assert [row["step"] for row in found["guard"]["readings"]] == [0, 1, 5, 6]
    assert found["evals"]["4"] == found["evals"]["1"] != found["evals"]["3"]
    assert found["best"]["step"] != 4 and found["last"]["step"] == STEPS
    assert found["chosen"]["step"] == 6  # the last reading is high
    records = read_metrics(folder)
    assert [r["step"] for r in records if "teacher/step" in r] == [5, 6]
    assert all(r["teacher/step"] == 1 and "teacher/vote_share" in r for r in records[5:])
    assert [r["guard/falls"] for r in records] == [0, 0, 1, 2, 3, 0, 0]
    assert 1 in Checkpoints(folder).steps()  # the teacher's weights stay
    assert any("returns to the chosen checkpoint" in r.get("warning", "") for r in records)
    # The policy of step 5 is the one that made step 2: its loss has the KL of weights after one update.
    assert records[5]["update/kl"] < records[4]["update/kl"]


def test_after_a_return_no_checkpoint_of_an_undone_step_may_be_chosen():
    """The checkpoint of the step of the alarm has the restored weights."""
    assert undone(range(12), Fallback(8, 3, "", "")) == {4, 5, 6, 7}
    assert undone(range(12), Fallback(8, 0, "", "")) == {1, 2, 3, 4, 5, 6, 7}
    assert undone(range(12), None) == set()


@pytest.mark.slow
def test_a_sign_in_the_steps_after_a_return_does_not_choose_an_undone_step(untrained, tmp_path, readings, monkeypatch):
    """The return is from step 4 to step 1, and the sign comes at step 6: the newest step before it would be 3."""
    readings |= FROM_1

    def one_answer(top):
        return "one answer." if len(top) >= 3 and readings.get("low") else None

    monkeypatch.setattr(collapse, "_one_answer", one_answer)
    monkeypatch.setattr(collapse.Reading, "is_anchored", property(lambda self: not readings.get("low")))
    fall_back = train_module.fall_back

    def then_low(run, now):
        fall_back(run, now)
        readings["low"] = True

    monkeypatch.setattr(train_module, "fall_back", then_low)
    summary = train(falling(untrained, tmp_path, "run", **{"checkpoint.keep": 6}))
    assert summary["fallback"]["step"] == 4 and summary["ended_early"] == "one answer." and summary["steps"] == 6
    assert Checkpoints(tmp_path / "run").steps() == [1, 2, 3, 4, 5, 6]
    assert summary["chosen"]["step"] == 1


def test_the_learning_rate_goes_on_from_the_chosen_step(straight):
    rates = [record["update/learning_rate"] for record in read_metrics(straight[1])[1:]]
    np.testing.assert_allclose(rates, [2e-3 * (1 - done / STEPS) for done in (0, 1, 2, 3, 1, 2)], rtol=1e-6)


def test_replay_makes_the_same_updates(straight):
    assert replay(straight[1]) == {step: {} for step in range(1, STEPS + 1)}


class Killed(BaseException):
    """The end of a process."""


def train_killed_before_the_save(config, monkeypatch):
    """Trains until the run has returned to a checkpoint, and dies before that is saved."""
    save = train_module.save

    def dying(run, now):
        if now.fallback:
            raise Killed
        save(run, now)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "save", dying)
        with pytest.raises(Killed):
            train(config)


@pytest.mark.parametrize("stopped_at", fast_cases([3, 4, 5, "the return"], "the return"))
def test_a_stop_before_during_and_after_the_return_changes_no_bit(
    straight, untrained, tmp_path, readings, monkeypatch, stopped_at
):
    readings.update(FROM_1)
    config = falling(untrained, tmp_path, "run")
    if stopped_at == "the return":
        train_killed_before_the_save(config, monkeypatch)
    else:
        config.steps = stopped_at
        train(config)
    config.steps = STEPS
    train(config)
    found = outcome(tmp_path / "run")
    for name, expected in straight[0].items():
        assert found[name] == expected, name


def stored_weights(folder, step):
    """The parameters in a checkpoint, as NumPy arrays."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        return jax.tree.map(np.asarray, checkpointer.restore(folder / "checkpoints" / str(step) / "state")["params"])


def test_a_return_after_a_resume_replaces_the_checkpoint_of_the_alarm(untrained, tmp_path, readings):
    """The run had ended at the step of the alarm, so that step had a checkpoint with the weights that are left."""
    readings.update(FROM_1)
    config = falling(untrained, tmp_path, "run", **{"checkpoint.keep": 9})
    config.steps = 4
    assert train(config)["fallback"] is None and "fallback" not in Checkpoints(tmp_path / "run").record(4)["guard"]
    left = stored_weights(tmp_path / "run", 4)
    config.steps = STEPS
    assert train(config)["fallback"]["step"] == 4
    found, chosen = (jax.tree.leaves(stored_weights(tmp_path / "run", step)) for step in (4, 1))
    assert all(np.array_equal(a, b) for a, b in zip(found, chosen, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(found, jax.tree.leaves(left), strict=True))
    assert Checkpoints(tmp_path / "run").record(4)["guard"]["fallback"]["chosen"] == 1


@pytest.mark.parametrize("rank", fast_cases([0, 2], 2))
def test_a_return_to_the_initial_weights_and_from_another_reward(miniature, tmp_path, readings, rank):
    """Intuitor's reward is replaced by the agreement with the teacher's labels. With adapters they are restored."""
    readings.update(FROM_0)
    changes = {"reward.shape": "self_certainty", "rl.advantage": "grpo", "rl.kl_in": "loss", "model.lora.rank": rank}
    train(falling(miniature, tmp_path, "straight", **changes))
    expected = outcome(tmp_path / "straight")
    assert expected["fallback"]["step"] == 3 and expected["fallback"]["chosen"] == 0
    records = read_metrics(tmp_path / "straight")
    # Step 1 and step 4 start from the same weights, so the policy is the reference.
    assert records[1]["update/kl"] == records[4]["update/kl"] == pytest.approx(0, abs=1e-6)
    assert all(r["label/pseudo_reward"] > 1 for r in records[1:4])  # nats
    assert all(0 < r["label/pseudo_reward"] == r["label/agreement"] <= 1 for r in records[4:])
    assert replay(tmp_path / "straight") == {step: {} for step in range(1, STEPS + 1)}
    config = falling(miniature, tmp_path, "stopped", **changes)
    for config.steps in (5, STEPS):
        train(config)
    found = outcome(tmp_path / "stopped")
    for name, value in expected.items():
        assert found[name] == value, name


@pytest.mark.slow
def test_a_second_alarm_ends_the_run(untrained, tmp_path, readings):
    readings.update(FROM_0 | {4: 0.3, 5: 0.2, 6: 0.1})
    summary = train(falling(untrained, tmp_path, "run"))
    assert summary["fallback"]["step"] == 3 and summary["steps"] == 6
    assert summary["ended_early"].startswith("the agreement with the base's majority fell from 0.900 to 0.100")
    assert summary["chosen"]["step"] == 0
    warned = [r["step"] for r in read_metrics(tmp_path / "run") if "seems to collapse" in r.get("warning", "")]
    assert warned == [3, 6]


def test_a_damaged_checkpoint_of_the_teacher_is_one_sentence(straight, untrained, tmp_path, readings):
    readings.update(FROM_1)
    config = falling(untrained, tmp_path, "run", steps=5)
    train(config)
    (tmp_path / "run/checkpoints/1/record.json").write_text("{}")
    config.steps = STEPS
    with pytest.raises(CheckpointError, match=r"step 1 in .*, whose votes are the labels from step 5 on .* restore it"):
        train(config)


def test_the_steps_that_a_return_undoes():
    fallback = Fallback(step=4, chosen=1, rule="", alarm="")
    assert [step for step in range(7) if fallback.undoes(step)] == [2, 3, 4]


# ---- wrong input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels.source": "wrong"},
            r"^guard\.action is 'teacher', .* but labels\.source is 'wrong': set it",
        ),
        ({"labels.source": "ema"}, r"^guard\.action is 'teacher', .* but labels\.source is 'ema': set it to 'vote'"),
        (
            {"rollout.sampler": "vllm"},
            r"^guard\.action is 'teacher', whose teacher samples in this process, but rollout\.sampler is 'vllm'",
        ),
        (
            {"rollout.sampler": "vllm", "rollout.steps_ahead": 1, "rl.tis_cap": 2.0, "rollout.old_logprobs": "trainer"},
            r"^guard\.action is 'teacher', whose teacher samples in this process, but rollout\.sampler is 'vllm'",
        ),
    ],
)
def test_wrong_settings_are_refused(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        validate(falling(tmp_path, tmp_path, "x", **changes))


def test_levels_are_refused(tmp_path):
    config = falling(tmp_path, tmp_path, "x")
    config.levels = ({"name": "easy"}, {"name": "hard"})
    with pytest.raises(ConfigError, match=r"^guard\.action is 'teacher' in level 'easy', but the next level"):
        level_configs(config)


def test_memory_counts_the_teacher_from_the_start(untrained, tmp_path, monkeypatch):
    from srt_jax.model.config import ModelConfig

    model = ModelConfig.from_hf(json.loads((untrained / "config.json").read_text()))
    with_it, without = (falling(untrained, tmp_path, "x") for _ in range(2))
    without.guard.action = "stop"
    kinds = budget.resident(with_it, model, training=True)
    assert kinds.pop("teacher") == kinds["weights"] and kinds == budget.resident(without, model, training=True)
    room = budget.total(budget.step(without, model)) / budget.TOLERANCE + kinds["weights"] / 4
    monkeypatch.setattr(budget, "available", lambda: room)
    budget.check(without, model)
    with pytest.raises(ConfigError, match=r"^guard\.action is 'teacher', whose teacher takes .* to 'stop'"):
        budget.check(with_it, model)
    assert "this machine: guard.action is 'teacher', whose teacher takes" in budget.report(with_it, model)
    room /= 2  # too little for a run without the teacher, too
    assert "does not fit on this machine: " in budget.report(with_it, model)
    assert "teacher takes" not in budget.report(with_it, model)
