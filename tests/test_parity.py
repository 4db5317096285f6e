"""The comparison of benchmarks/parity_trl.py. The runs themselves need an environment with TRL."""

import numpy as np
import pytest

from tests.helpers import REPOSITORY


@pytest.fixture
def parity(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import parity_trl

    return parity_trl


def test_the_band_is_the_interval_of_the_mean_and_both_means_must_lie_in_the_other_band(parity):
    from scipy import stats

    ours = np.random.default_rng(0).normal(0.5, 0.1, (5, 3))
    mean, width = parity.band(ours)
    low, high = stats.t.interval(0.95, 4, loc=ours.mean(0), scale=stats.sem(ours))
    np.testing.assert_allclose((mean - width, mean + width), (low, high))
    assert parity.compare(ours, ours)[4].all()
    assert not parity.compare(ours, ours + 2 * width)[4].any()
    narrow = ours.mean(0) + 0.1 * (ours - ours.mean(0)) + 0.5 * width  # inside our band, but we are outside of theirs
    assert not parity.compare(ours, narrow)[4].any()


def test_completions_become_rollouts_and_the_settings_are_one_algorithm(parity, tmp_path):
    found = parity.as_rollouts([[5], [6, 7]], [[8, 1], [9], [8, 8, 8], [1]], 3, (1,))
    assert found.tokens.tolist() == [[[8, 1, 0], [9, 0, 0]], [[8, 8, 8], [1, 0, 0]]]
    assert found.lengths.tolist() == [[2, 1], [3, 1]] and found.stopped.tolist() == [[True, False], [False, True]]
    config = parity.our_config(tmp_path, 3)
    assert (config.rl.kl, config.rl.kl_in, config.rl.kl_coef) == ("k1", "reward", parity.SETTINGS["kl_coef"])
    assert (config.rl.advantage, config.rl.loss_aggregation) == ("rloo", "seq-mean-token-sum")
    assert config.batch.minibatches_per_step == config.batch.epochs_per_step == 1 and config.seed == 3
