"""Checkpoints: which are kept, which are trusted, and which runs may resume from them."""

import errno
import json
import os
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from srt_jax.errors import CheckpointError
from srt_jax.run import checkpoint
from srt_jax.run.checkpoint import Checkpoints, best_step, retained
from srt_jax.run.identity import check_same_run
from srt_jax.run.setup import step_to_go_on_from


def saved(directory, *steps_and_scores, keep=1):
    """The steps that are kept where each was saved with all the scores so far (None: not evaluated)."""
    checkpoints, scores = Checkpoints(directory, keep), {}
    for step, score in steps_and_scores:
        scores |= {} if score is None else {step: score}
        checkpoints.save(step, {"x": jnp.full(3, step)}, {"step": step}, scores)
    checkpoints.close()
    return checkpoints.steps()


def test_the_newest_and_the_best_are_kept(tmp_path):
    assert Checkpoints(tmp_path).newest_whole() == (None, [])
    assert saved(tmp_path, (1, 0.9), (2, None), (3, 0.5), (4, None)) == [1, 4]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "4", "newest"]
    again = Checkpoints(tmp_path)
    assert again.newest_whole() == (4, []) and again.record(4) == {"step": 4}
    for step in (1, 4):
        np.testing.assert_array_equal(again.restore({"x": jnp.zeros(3, jnp.int32)}, step)["x"], [step] * 3)


@pytest.mark.parametrize(
    ("steps", "scores", "keep", "kept"),
    [
        ([], {}, 3, set()),
        ([1, 2, 3, 4], {}, 3, {2, 3, 4}),
        ([1, 2, 3, 4], {1: 0.5, 3: 0.4}, 2, {1, 3, 4}),
        ([1, 2, 3], {1: 0.5, 2: 0.5}, 1, {2, 3}),  # of equal scores the later step
        ([2, 3], {0: 0.9, 1: 0.8}, 1, {3}),  # scores of steps that are not there
    ],
)
def test_the_ring_of_the_newest_and_the_best(steps, scores, keep, kept):
    assert retained(steps, scores, keep) == kept


def test_the_ring_keeps_the_chosen_checkpoint_if_it_is_there():
    assert retained([1, 2, 3, 4], {2: 0.5}, 1, needed={1}) == {1, 2, 4}
    assert retained([2, 3], {}, 1, needed={1}) == {3}


def test_the_checkpoint_of_a_stop_stays_only_as_the_newest():
    kept = set()
    for step, expected in ((10, {10}), (20, {10, 20}), (21, {10, 20, 21}), (22, {10, 20, 22}), (30, {20, 30})):
        kept = retained({*kept, step}, {}, 2, is_planned=lambda step: step % 10 == 0)
        assert kept == expected


def test_of_equal_scores_the_later_step_is_chosen():
    scores = {1: 0.5, 2: 0.9, 3: 0.9, 4: 0.1}
    assert best_step(scores, [0, 3, 4]) == 3
    assert best_step({0: 0.9, **scores}, [0, 4]) == 0
    assert best_step({}, [0, 4]) is None


def test_a_step_that_was_evaluated_after_it_was_saved_can_be_the_best(tmp_path):
    assert saved(tmp_path, (1, 0.5), (2, None)) == [1, 2]
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(3, {"x": jnp.zeros(3)}, {}, {1: 0.5, 2: 0.9})
    checkpoints.close()
    assert checkpoints.steps() == [2, 3]


def test_a_save_in_the_background_has_the_values_of_its_call(tmp_path):
    """The caller donates the state to the next update and changes the record while they are being written."""
    import jax

    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    checkpoints, state, record = Checkpoints(tmp_path, 9), jnp.zeros(1 << 20), {"seen": []}
    for step in range(1, 6):
        state = add(state)
        record["seen"].append(step)
        checkpoints.save(step, {"x": state}, record)
    checkpoints.close()
    again = Checkpoints(tmp_path)
    for step in range(1, 6):
        x = np.asarray(again.restore({"x": jnp.zeros(1 << 20)}, step)["x"])
        assert (x == step).all() and again.record(step) == {"seen": list(range(1, step + 1))}


def test_a_checkpoint_is_replaced_only_on_request(tmp_path):
    checkpoints, again = Checkpoints(tmp_path, 9), Checkpoints(tmp_path, 9)
    for value, replace in ((1, False), (2, False), (3, True)):  # the last one while the first one may be written
        checkpoints.save(7, {"x": jnp.full(3, value)}, {"value": value}, replace=replace)
    checkpoints.close()
    assert again.newest_whole() == (7, []) and again.record(7) == {"value": 3}
    assert np.asarray(again.restore({"x": jnp.zeros(3)}, 7)["x"]).tolist() == [3, 3, 3]
    again.save(7, {"x": jnp.full(3, 4)}, {"value": 4})
    again.close()
    assert again.record(7) == {"value": 3}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()] == ["7"]


@pytest.mark.parametrize(("call", "value"), [("rename", 1), ("rename", 2), ("remove", 1)])
def test_an_end_while_a_checkpoint_is_replaced_leaves_the_old_or_the_new_one(tmp_path, monkeypatch, call, value):
    """It is the run's only checkpoint. call, value: the operation that does not happen."""
    checkpoints, done = Checkpoints(tmp_path, 9), []
    checkpoints.save(7, {"x": jnp.full(3, 1)}, {"value": "old"})
    checkpoints.wait()
    owner = pathlib.Path if call == "rename" else checkpoint
    real = getattr(owner, call)

    def stop(*arguments):
        if pathlib.Path(arguments[0]).parent.name == "checkpoints":
            done.append(arguments)
            if len(done) == value:
                raise OSError(errno.EIO, "the process ends here")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, stop)
        checkpoints.save(7, {"x": jnp.full(3, 2)}, {"value": "new"}, replace=True)
        with pytest.raises(CheckpointError):
            checkpoints.close()
    again = Checkpoints(tmp_path)
    assert again.newest_whole() == (7, [])
    again.open([])
    assert again.newest_whole() == (7, [])
    assert again.record(7) == {"value": "new" if call == "remove" else "old"}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()] == ["7"]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "free some space"),
        (ValueError("Error writing b\n[OS error 28: ENOSPC No space left on device]"), "free some space"),
        (RuntimeError("Gloo: Connection closed by peer [::1]:7"), "remove the cause"),
    ],
)
def test_the_remedy_fits_the_cause(error, remedy, tmp_path, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(Checkpoints, "_begin", fail)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": jnp.zeros(3)}, {})
    with pytest.raises(CheckpointError, match=rf"could not be written to .*\): {remedy} and start the run again\. It "):
        checkpoints.close()


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_byte(folder):
    path = largest(folder / "state")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped": flip_a_byte,
    "cut": lambda f: largest(f / "state").write_bytes(largest(f / "state").read_bytes()[:-1]),
    "emptied": lambda f: largest(f / "state").write_bytes(b""),
    "without record": lambda f: (f / "record.json").unlink(),
    "record cut": lambda f: (f / "record.json").write_text('{"st'),
    "without state": lambda f: shutil.rmtree(f / "state"),
    "without checksums": lambda f: (f / "checksums.json").unlink(),
    "checksums of nothing": lambda f: (f / "checksums.json").write_text("{}"),
    "checksums cut": lambda f: (f / "checksums.json").write_text('{"record.json": ['),
    "half copied": lambda f: [p.unlink() for p in sorted(f.rglob("*")) if p.is_file()][3:],
    "empty folder": lambda f: (shutil.rmtree(f), f.mkdir()),
    "a file of that name": lambda f: (shutil.rmtree(f), f.write_text("")),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run folder with the checkpoints of steps 1 and 2."""
    directory = tmp_path_factory.mktemp("two")
    assert saved(directory, (1, None), (2, None), keep=2) == [1, 2]
    return directory


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(damage, two, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two, run)
    DAMAGES[damage](run / "checkpoints/2")
    checkpoints = Checkpoints(run)
    step, [(bad, fault)] = checkpoints.newest_whole()
    assert (step, bad) == (1, 2) and fault
    checkpoints.open([bad])
    assert checkpoints.steps() == [1] and (run / "checkpoints/2.damaged").exists()
    checkpoints.save(2, {"x": jnp.full(3, 2)}, {"step": 2})
    checkpoints.close()
    assert checkpoints.newest_whole() == (2, [])


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(two, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two, run)
    flip_a_byte(run / "checkpoints/1")
    flip_a_byte(run / "checkpoints/2")
    with pytest.raises(CheckpointError, match=r"is whole \(that of step 2: state/.* has changed\): restore one from"):
        Checkpoints(run).newest_whole()
    shutil.rmtree(run / "checkpoints/1")
    shutil.rmtree(run / "checkpoints/2")
    with pytest.raises(CheckpointError, match=r"is whole \(all were removed\)"):
        Checkpoints(run).newest_whole()


@pytest.mark.parametrize("gone", ["checkpoints", "checkpoints/*"])
def test_a_run_that_lost_its_checkpoints_does_not_start_again(gone, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(4)))
    if gone == "checkpoints":
        (tmp_path / "checkpoints").rmdir()
    with pytest.raises(CheckpointError, match="has the metrics of 3 steps, but its checkpoints are missing: restore"):
        step_to_go_on_from(Checkpoints(tmp_path), tmp_path, 1)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    assert step_to_go_on_from(Checkpoints(tmp_path), tmp_path, 1) == 0  # killed while it wrote its first one


def test_a_run_killed_before_its_first_checkpoint_may_go_on_with_more_of_them(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(61)))
    (tmp_path / "config.json").write_text('{"checkpoint": {"every": 100}}')
    assert step_to_go_on_from(Checkpoints(tmp_path), tmp_path, 20) == 0
    (tmp_path / "config.json").write_text('{"checkpoint": {"every": 20}}')
    with pytest.raises(CheckpointError, match="has the metrics of 60 steps, but its checkpoints are missing"):
        step_to_go_on_from(Checkpoints(tmp_path), tmp_path, 100)


def test_what_a_killed_process_left_behind_is_no_checkpoint_and_goes(two, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two, run)
    for name in (".partial", ".deleted"):
        shutil.copytree(run / "checkpoints/1", run / "checkpoints" / name)
    checkpoints = Checkpoints(run)
    assert checkpoints.newest_whole() == (2, [])
    checkpoints.open([])
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["1", "2", "newest"]


def test_a_checkpoint_from_before_there_were_checksums_is_used(two, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two, run)
    folder = run / "checkpoints/2"
    (folder / "checksums.json").unlink()
    (folder / "record.json").unlink()
    (folder / "record").mkdir()
    (folder / "record/metadata").write_text(json.dumps({"step": 2}))
    checkpoints = Checkpoints(run)
    assert checkpoints.newest_whole() == (2, []) and checkpoints.record(2) == {"step": 2}


def test_a_run_is_the_same_only_with_config_data_labels_and_model():
    identity = {"config": {"a": {"b": 1}}, "data": "d", "prompts": "p", "labels": ["l"], "model": "m"}
    check_same_run({"identity": identity}, identity, "run")
    for change, message in (
        ({"config": {"a": {"b": 2}}}, r"run holds a run that differs in a\.b \(1 there, 2 here\)"),
        ({"data": "e"}, "differs in data contents: restore the data file"),
        ({"prompts": "q"}, "differs in prompts contents: restore the tokenizer"),
        ({"labels": []}, "differs in labels contents: restore the label files"),
        ({"model": "n"}, "differs in model contents: restore the initial model"),
    ):
        with pytest.raises(CheckpointError, match=message):
            check_same_run({"identity": identity}, {**identity, **change}, "run")


def test_a_run_on_other_hardware_is_told_what_followed_the_hardware():
    there = {"mesh": {"data": 8}, "batch": {"microbatch_sequences": 32}, "model": {"dtype": "bfloat16"}}
    here = {"mesh": {"data": 1}, "batch": {"microbatch_sequences": 1}, "model": {"dtype": "float32"}}
    with pytest.raises(CheckpointError, match=r"mesh\.data \(8 there, 1 here\); model\.dtype .*: give it the devices"):
        check_same_run({"identity": {"config": there}}, {"config": here}, "run")
    with pytest.raises(CheckpointError, match=r"seed .0 there, 1 here.: use the old config, give"):
        check_same_run({"identity": {"config": {**there, "seed": 0}}}, {"config": {**here, "seed": 1}}, "run")
