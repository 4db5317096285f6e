"""A recorded run computes again bit for bit, and a replay tells what differs where it does not."""

import numpy as np
import pytest

from srt_jax.errors import ConfigError
from srt_jax.jobs.replay import replay
from srt_jax.run import recording
from srt_jax.run.metrics import read_metrics
from srt_jax.train import train
from tests.helpers import small_config


def test_a_recorded_run_is_replayed_bit_for_bit(untrained, tmp_path):
    config = small_config(untrained, tmp_path, name="run", steps=3)
    config.batch.resample_rounds = 1  # takes labels away
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

    path.unlink()
    with pytest.raises(ConfigError, match=r"step_000002\.npz does not exist: only a run with log\.rollouts_every=1"):
        replay(directory)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        replay(tmp_path)
