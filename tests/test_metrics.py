"""The output of a run: records, rollouts, TensorBoard, the figure."""

import ast
import json
import math
import re

import jax
import jax.numpy as jnp
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from srt_jax.config import base
from srt_jax.run import board, metrics, metrics_log, recording, timing
from srt_jax.run.setup import pace
from tests.helpers import REPOSITORY


def test_records_scalars_and_texts_reach_file_and_board(tmp_path):
    log = metrics_log.RunLog(tmp_path, total_steps=3)
    log.write(0, {"eval/set/avg@4": 0.5, "label/true_reward": math.nan})
    log.write(1, {"label/pseudo_reward": 0.25})
    log.text("probes", board.table([{"problem": "1|2", "response": "a\n<b>"}]), 1)
    log.close()
    records = metrics_log.read_metrics(tmp_path)
    assert records == [{"step": 0, "eval/set/avg@4": 0.5}, {"step": 1, "label/pseudo_reward": 0.25}]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"eval/set/avg@4", "label/pseudo_reward"}  # the very tags of the records
    assert [(e.step, e.value) for e in events.Scalars("label/pseudo_reward")] == [(1, 0.25)]
    meaning = events.SummaryMetadata("label/pseudo_reward").summary_description
    assert meaning == metrics.TAGS["label/pseudo_reward"]
    assert text_of(events, "probes").endswith("| 1&#124;2 | a &#60;b&#62; |")


LINE = b'{"step": 2, "label/pseudo_reward": 2.5}\n'
DAMAGES = {
    "cut line": lambda text: text.replace(LINE, LINE[:-9] + b"\n"),
    "not UTF-8": lambda text: text.replace(LINE, LINE.replace(b"pseudo", b"pse\xffdo")),
    "no record": lambda text: text.replace(LINE, b'{"a": 1}\n'),
    "no object": lambda text: text.replace(LINE, b"[2]\n"),
    "text for a number": lambda text: text.replace(b"2.5", b'"2.5"'),
    "nested": lambda text: text.replace(LINE, b"[" * 100_000 + b"\n"),
    "line gone": lambda text: text.replace(LINE, b""),
    "zeros at the end": lambda text: text + b"\0" * 4096,
    "emptied": lambda text: b"",
}


def recorded_run(directory) -> bytes:
    """A folder with the records and events of steps 0 to 4; returns its metrics.jsonl."""
    log = metrics_log.RunLog(directory, total_steps=4)
    for step in range(5):
        log.write(step, {"label/pseudo_reward": step + 0.5} if step else {"eval/set/avg@4": 0.5})
    log.close()
    return (directory / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_records_are_read_back_from_tensorboard_and_hide_no_other(damage, tmp_path, capsys):
    whole = recorded_run(tmp_path)
    damaged = DAMAGES[damage](whole)
    (tmp_path / "metrics.jsonl").write_bytes(damaged)
    assert metrics_log.last_recorded_step(tmp_path) == (4 if damage != "emptied" else 0)
    metrics_log.restore_records(tmp_path, 3)
    kept = b"".join(line + b"\n" for line in whole.splitlines()[:4])
    log = metrics_log.RunLog(tmp_path, 4, last_step=3)
    log.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == kept
    said = capsys.readouterr().err
    assert ("read back from TensorBoard's files" in said) == (damage != "zeros at the end"), said


def test_records_that_nothing_has_are_lost_aloud(tmp_path, capsys):
    whole = recorded_run(tmp_path)
    next(tmp_path.glob("events.out*")).unlink()
    (tmp_path / "metrics.jsonl").write_bytes(whole.replace(LINE, b"\xff\n"))
    metrics_log.restore_records(tmp_path, 4)
    assert [record["step"] for record in metrics_log.read_metrics(tmp_path)] == [0, 1, 3, 4]
    assert "misses 1 records (its lines 3 are damaged): those of steps 2 are lost." in capsys.readouterr().err
    metrics_log.restore_records(tmp_path / "none", 0)  # a run that begins


def text_of(events, tag):
    """The last text of a tag."""
    return events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()


def test_resuming_drops_records_after_the_checkpoint_and_half_lines(tmp_path):
    lines = [json.dumps({"step": s, "update/loss": s}) for s in range(5)] + ['{"step": 5, "update/loss"']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    log = metrics_log.RunLog(tmp_path, total_steps=9, last_step=2)
    log.write(3, {"update/loss": 30.0})
    log.close()
    assert [(r["step"], r["update/loss"]) for r in metrics_log.read_metrics(tmp_path)] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 30.0),
    ]


def test_a_run_that_starts_afresh_drops_what_a_crash_left(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 0, "update/loss": 1}) + "\n")
    log = metrics_log.RunLog(tmp_path, total_steps=9)
    log.write(0, {"update/loss": 2.0})
    log.close()
    assert metrics_log.read_metrics(tmp_path) == [{"step": 0, "update/loss": 2.0}]


def test_rollout_files_are_identical_for_identical_rows(tmp_path):
    rows = [{"id": "a", "response": "é"}]
    recording.write_rows(tmp_path, 1, rows)
    first = (tmp_path / "rollouts" / "step_000001.jsonl.gz").read_bytes()
    recording.write_rows(tmp_path, 1, rows)
    assert (tmp_path / "rollouts" / "step_000001.jsonl.gz").read_bytes() == first


def test_phases_add_up_and_start_over():
    phases = timing.Phases({"sample": 1.0})
    for _ in range(2):
        with phases("sample"):
            pass
    popped = phases.pop()
    assert set(popped) == {"time/sample", "time/step"} and popped["time/step"] == popped["time/sample"]
    assert phases.pop() == {"time/step": 0} and phases.total["sample"] > 1.0


def test_compilations_are_counted():
    counter = timing.CompilationCounter()
    function = jax.jit(lambda x: x * 3 + 1)
    x, y = jnp.ones(7), jnp.ones(8)
    before = counter.count
    function(x).block_until_ready()
    assert counter.count == before + 1
    function(x).block_until_ready()
    assert counter.count == before + 1
    counter.close()
    function(y).block_until_ready()
    assert counter.count == before + 1


def test_the_manual_has_the_registry_s_table():
    manual = (REPOSITORY / "docs" / "operations.md").read_text()
    assert metrics.with_manual_table(manual) == manual, "python -m srt_jax.run.metrics docs/operations.md"
    for text in metrics.TEXTS:
        assert f"`{text}`" in manual


def test_every_tag_in_the_code_is_in_the_registry():
    groups = {tag.split("/")[0] for tag in metrics.TAGS}
    tags = re.compile(rf"({'|'.join(groups)})/[a-z0-9_@]+")
    found = {
        node.value
        for path in (REPOSITORY / "srt_jax").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and tags.fullmatch(node.value)
    }
    assert len(found) > 50 and not found - metrics.TAGS.keys()


def test_a_metric_without_a_description_is_an_error_in_tests(tmp_path):
    """conftest.py checks the metrics of every run that a test makes."""
    with pytest.raises(AssertionError, match="'label/surprise', 'eval/set/surprise'"):
        metrics_log.RunLog(tmp_path, total_steps=1).write(
            1, {"label/surprise": 0.5, "eval/set/surprise": 0.5, "eval/set/avg@4": 0.5}
        )


def simulate(total, eval_every, save_every, cost, first=0.0, start=0, evaluations=()):
    """[(seconds that a run says are left after a step, those that are)] for made-up costs of step, eval and save."""
    pace, now, said = timing.Pace(total, eval_every, save_every, list(evaluations)), 0.0, []
    step_cost, eval_cost, save_cost = cost
    if start == 0:
        pace.add({"time/eval": eval_cost, "time/step": eval_cost})
        now += eval_cost
    pending = 0.0
    for step in range(start + 1, total + 1):
        work = step_cost(step) + (first if step == start + 1 else 0)
        evaluated = step % eval_every == 0 or step == total
        seconds = (
            {"time/update": work}
            | ({"time/eval": eval_cost} if evaluated else {})
            | ({"time/save": pending} if pending else {})
        )
        now += work + (eval_cost if evaluated else 0)
        pace.add(seconds | {"time/step": sum(seconds.values())})
        said.append((pace.seconds_left(step), now))
        pending = save_cost if evaluated or step % save_every == 0 else 0.0
        now += pending
    return [(left, now - at) for left, at in said]


def test_the_eta_counts_steps_evaluations_and_checkpoints():
    """An evaluation of a minute, steps of 10 s, the first of which compiles for 5 minutes."""
    found = simulate(100, 25, 10, (lambda step: 10.0, 60.0, 5.0), first=300.0)
    for step, (said, true) in enumerate(found, 1):
        if 1 < step < 11:  # no checkpoint has been measured yet
            assert said == (100 - step) * 10 + 4 * 60
        if 11 <= step:
            assert said == pytest.approx(true, abs=5.1), step
    assert found[0][0] == 99 * 310 + 240  # all that is known


def test_the_eta_follows_responses_that_grow_and_knows_evaluations_of_before():
    found = simulate(400, 400, 400, (lambda step: 1.0 if step < 200 else 3.0, 0.0, 0.0))
    assert found[-100][0] == pytest.approx(found[-100][1])
    resumed = simulate(60, 10, 100, (lambda step: 2.0, 50.0, 0.0), start=50, evaluations=[50.0] * 6)
    assert [said for said, _ in resumed] == [18 + 50, 16 + 50, 14 + 50, 12 + 50, 10 + 50, 8 + 50, 6 + 50, 4 + 50, 52, 0]
    assert all(said == true for said, true in resumed)
    assert timing.Pace(5, 1, 1).seconds_left(0) is None


def test_a_run_that_goes_on_knows_what_an_evaluation_costs():
    config = base()
    config.steps, config.eval.every, config.checkpoint.every = 4, 1, 1
    for evals, left in (({}, 3 * 2.0), ({"0": {}, "1": {}}, 3 * 2.0 + 3 * 5.0)):
        known = pace(config, {"evals": evals, "seconds": {"eval": 10.0} if evals else {}})
        known.add({"time/update": 2.0, "time/step": 2.0})
        assert known.seconds_left(1) == left
