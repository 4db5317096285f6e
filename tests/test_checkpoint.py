"""What is kept, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from srt_jax.errors import CheckpointError
from srt_jax.run.checkpoint import Checkpoints, best_step, check_same_run


def saved(directory, *steps_and_scores):
    """The steps that are kept where each was saved with all the scores so far (None: not evaluated)."""
    checkpoints, scores = Checkpoints(directory), {}
    for step, score in steps_and_scores:
        scores |= {} if score is None else {step: score}
        checkpoints.save(step, {"x": jnp.full(3, step)}, {"step": step}, scores)
    found = checkpoints.steps()
    checkpoints.close()
    return found


def test_the_last_and_the_best_are_kept(tmp_path):
    assert Checkpoints(tmp_path).last_step() is None
    assert saved(tmp_path, (1, 0.9), (2, None), (3, 0.5), (4, None)) == [1, 4]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "4"]
    again = Checkpoints(tmp_path)
    assert again.last_step() == 4 and again.record() == {"step": 4}
    np.testing.assert_array_equal(again.restore({"x": jnp.zeros(3, jnp.int32)})["x"], [4, 4, 4])


def test_of_equal_scores_the_later_step_is_kept_and_chosen(tmp_path):
    scored = ((1, 0.5), (2, 0.9), (3, 0.9), (4, 0.1))
    assert saved(tmp_path, *scored) == [3, 4]
    assert best_step(dict(scored), [0, 3, 4]) == 3
    assert best_step({0: 0.9, **dict(scored)}, [0, 4]) == 0  # of the steps that are still there
    assert best_step({}, [0, 4]) is None


def test_a_step_that_was_evaluated_after_it_was_saved_can_be_the_best(tmp_path):
    assert saved(tmp_path, (1, 0.5), (2, None)) == [1, 2]
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"x": jnp.zeros(3)}, {}, {1: 0.5, 2: 0.9})
    assert checkpoints.steps() == [2, 3]
    checkpoints.close()


def test_a_run_is_the_same_only_with_config_data_labels_and_model():
    identity = {"config": {"a": {"b": 1}}, "data": "d", "prompts": "p", "labels": ["l"], "model": "m"}
    check_same_run(identity, identity, "run")
    for change, message in (
        ({"config": {"a": {"b": 2}}}, r"run holds a run that differs in a\.b \(1 there, 2 here\)"),
        ({"data": "e"}, "differs in data contents: restore the data file"),
        ({"prompts": "q"}, "differs in prompts contents: restore the tokenizer"),
        ({"labels": []}, "differs in labels contents: restore the label files"),
        ({"model": "n"}, "differs in model contents: restore the initial model"),
    ):
        with pytest.raises(CheckpointError, match=message):
            check_same_run(identity, {**identity, **change}, "run")


def test_a_run_on_other_hardware_is_told_what_followed_the_hardware():
    there = {"mesh": {"data": 8}, "batch": {"microbatch_sequences": 32}, "model": {"dtype": "bfloat16"}}
    here = {"mesh": {"data": 1}, "batch": {"microbatch_sequences": 1}, "model": {"dtype": "float32"}}
    with pytest.raises(CheckpointError, match=r"mesh\.data \(8 there, 1 here\); model\.dtype .*: give it the devices"):
        check_same_run({"config": there}, {"config": here}, "run")
    with pytest.raises(CheckpointError, match=r"seed .0 there, 1 here.: give the run another name, or the old"):
        check_same_run({"config": {**there, "seed": 0}}, {"config": {**here, "seed": 1}}, "run")
