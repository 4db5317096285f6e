"""The guard's return to a checkpoint (guard.action = teacher) in two processes, as on two hosts."""

import json

import pytest

from srt_jax.run.metrics_log import read_metrics
from tests.multihost import test_processes

CONFIG = """
import pathlib

from tests.helpers import small_config


def get_config():
    config = small_config(pathlib.Path({model!r}), pathlib.Path({out!r}), "run", 5)
    config.optimizer.learning_rate, config.eval.every, config.checkpoint.keep = 5e-3, 1, 1
    config.eval.sets.heldout.limit, config.guard.action, config.guard.votes = 32, "teacher", 16
    config.mesh.fsdp = 4
    return config
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_processes_return_as_one_does(miniature, tmp_path, monkeypatch):
    """The rate is too high, so that three evaluations fall at once. Sums over devices have another order."""
    monkeypatch.setattr(test_processes, "CONFIG", CONFIG)
    found = {}
    for processes in (1, 2):
        printed = test_processes.run(miniature, tmp_path / str(processes), processes)
        warned = ["warning: after step 3 the run returns to" in errors for _, errors in printed]
        assert warned == [True, False][:processes]
        folder = tmp_path / str(processes) / "run"
        found[processes] = json.loads((folder / "summary.json").read_text()), read_metrics(folder)
    (one, records), (two, others) = found[1], found[2]
    assert one["fallback"] == two["fallback"] and one["fallback"]["step"] == 3
    assert [r["step"] for r in others if "teacher/step" in r] == [4, 5]
    for record, other in zip(records, others, strict=True):
        for tag in ("guard/agreement", "label/pseudo_reward", "teacher/vote_share"):
            assert other.get(tag) == pytest.approx(record.get(tag), abs=0.03), (record["step"], tag)
