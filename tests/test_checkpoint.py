"""What is kept, what is refused."""
import jax.numpy as jnp
import numpy as np
import pytest

from srt_jax.checkpoint import CheckpointError, Checkpoints, check_same_run


def test_the_last_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.last_step() is None
    for step, score in ((1, 0.9), (2, None), (3, 0.5), (4, None)):
        checkpoints.save(step, {"x": jnp.full(3, step)}, {"step": step}, score)
    checkpoints.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "4"]
    again = Checkpoints(tmp_path)
    assert again.last_step() == 4 and again.record() == {"step": 4}
    np.testing.assert_array_equal(again.restore({"x": jnp.zeros(3, jnp.int32)})["x"], [4, 4, 4])


def test_a_run_is_the_same_only_with_config_data_labels_and_model():
    identity = {"config": {"a": {"b": 1}}, "data": "d", "labels": ["l"], "model": "m"}
    check_same_run(identity, identity, "run")
    for change, message in (({"config": {"a": {"b": 2}}}, r"run holds a run that differs in a\.b \(1 there, 2 here\)"),
                            ({"data": "e"}, "differs in data contents: restore the data file"),
                            ({"labels": []}, "differs in labels contents: restore the label files"),
                            ({"model": "n"}, "differs in model contents: restore the initial model")):
        with pytest.raises(CheckpointError, match=message):
            check_same_run(identity, {**identity, **change}, "run")
