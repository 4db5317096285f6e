"""A recorded run computes again bit for bit, and a replay tells what differs where it does not."""

import json

import numpy as np
import pytest

from srt_jax.config import recorded
from srt_jax.errors import ConfigError, RolloutError
from srt_jax.jobs.replay import replay
from srt_jax.run import budget, recording, setup
from srt_jax.run.metrics_log import read_metrics
from srt_jax.run.prepare import read_model
from srt_jax.train import train
from tests.helpers import small_config


def test_a_recorded_run_is_replayed_bit_for_bit(untrained, tmp_path):
    config = small_config(untrained, tmp_path, name="run", steps=3)
    config.batch.resample_rounds = 1  # leaves prompts with a label out of the loss
    config.batch.samples_per_prompt, config.batch.votes_per_prompt, config.batch.microbatch_sequences = 2, 8, 16
    train(config)
    directory = tmp_path / "run"
    assert replay(directory) == {1: {}, 2: {}, 3: {}}
    assert replay(directory, steps=1) == {1: {}}

    path = recording.rollouts_path(directory, 2, recording.RECORDED)
    with np.load(path) as saved:
        arrays = dict(saved)
    arrays["logprobs"][0, 0, 0] += 1e-3
    np.savez_compressed(path, **arrays)
    differing = replay(directory)
    assert not differing[1] and "update/logprob_gap_max" in differing[2]
    record = read_metrics(directory)[2]
    assert differing[2]["update/logprob_gap_max"][0] == record["update/logprob_gap_max"]

    # As an older version wrote it: the prompts that are left out have no label, also in the metrics of the run.
    path = recording.rollouts_path(directory, 1, recording.RECORDED)
    with np.load(path) as saved:
        arrays = dict(saved)
    left_out = arrays.pop("left_out")
    assert (left_out & arrays["labelled"]).any()
    arrays["labelled"] &= ~left_out
    np.savez_compressed(path, **arrays)
    differing = replay(directory, steps=1)[1]
    assert differing.pop("label/labelled")[1] == arrays["labelled"].mean()
    assert all(name.startswith("label/") for name in differing) and "label/informative" not in differing

    recording.rollouts_path(directory, 2, recording.RECORDED).unlink()
    with pytest.raises(ConfigError, match=r"step_000002\.npz does not exist: only a run with log\.rollouts_every=1"):
        replay(directory)


@pytest.mark.slow
def test_a_replay_needs_no_sampler(untrained, tmp_path, monkeypatch):
    """Neither memory for sampling nor vLLM, which the machine of the replay need not have; and it writes nothing."""
    config = small_config(untrained, tmp_path, name="run", steps=1)
    config.rollout.old_logprobs = "trainer"
    train(config)
    directory = tmp_path / "run"
    monkeypatch.setattr(setup, "open_sampler", lambda *_, **__: pytest.fail("a sampler was opened"))
    monkeypatch.setattr(budget, "sampler_memory", lambda *_, **__: 0.0)
    model = read_model(config).config
    with pytest.raises(RolloutError, match="leave no memory for sampling"):
        budget.check(recorded(directory), model)
    saved = json.loads((directory / "config.json").read_text())
    saved["rollout"] |= {"sampler": "vllm", "servers": []}
    saved["rollout"]["vllm"]["python"] = str(tmp_path / "no/python")
    before = sorted(path for path in tmp_path.rglob("*"))
    for sampler in ("jax", "vllm"):
        assert recorded(directory).rollout.sampler == sampler
        assert replay(directory) == {1: {}}
        (directory / "config.json").write_text(json.dumps(saved))
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        replay(tmp_path)
