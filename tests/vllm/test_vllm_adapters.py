"""A run with adapters and a real server: the base stays, adapters come and go, and a stale one is found."""

import os
import signal

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from vllm_support import PYTHON, START_SECONDS, begin, open_vllm_sampler, vllm_config

from srt_jax.errors import ConfigError, RolloutError
from srt_jax.model import lora, peft, weights
from srt_jax.rollout.sampler import Sampling, problem_seeds
from srt_jax.rollout.vllm import client as vllm_client
from srt_jax.rollout.vllm import delivery
from srt_jax.rollout.vllm import export as vllm_export
from srt_jax.run.metrics_log import read_metrics
from srt_jax.train import train
from tests.several_processes import finish

RANK = 5  # vLLM accepts 8
PROMPTS = [[3 + p % 9, 13, 3 + p // 9] for p in range(8)]
SEEDS = problem_seeds(0, "train", 1, [str(p) for p in range(8)])


def adapter_config(model, out, servers=(), rank=RANK):
    config = vllm_config(model, out, "run", servers)
    config.model.lora.rank, config.model.lora.alpha = rank, 2.0 * rank
    return config


def moved(params, seed):
    """Other adapters on the same base."""
    adapters, frozen = lora.split(params)
    rng = np.random.default_rng(seed)

    def move(_, x):
        return jax.device_put(np.asarray(x) + 0.05 * rng.standard_normal(x.shape, np.float32), x.sharding)

    return lora.join(weights.map_with_path(move, adapters), frozen)


@pytest.fixture(scope="module")
def own(miniature, tmp_path_factory):
    """(a sampler that started its own server, with the adapters of step 0 loaded; their parameters)."""
    config = adapter_config(miniature, tmp_path_factory.mktemp("own"))
    config.rollout.vllm.update({"python": str(PYTHON), "start_seconds": START_SECONDS, "max_sequences": 64})
    sampler, _, params, _ = open_vllm_sampler(config)
    try:
        sampler.load(params, 0)
        yield sampler, params
    finally:
        sampler.close()


def test_new_adapters_are_served_under_their_own_name_and_the_base_stays(own):
    sampler, params = own
    url = sampler._servers[0].url
    base = vllm_client.score(url, sampler._sequences[:8], 60, "policy")
    np.testing.assert_allclose(sampler._expected[:8], base, atol=1e-4)  # B is 0 at first
    for step in (1, 2):
        sampler.load(moved(params, step), step)
        assert sampler.report["publish/probe_gap_max"] < 1e-4
        ((name, directory),) = vllm_client.adapters(url).items()
        assert name.startswith(f"policy-{step}-") and directory == str(sampler.exports / f"step_{step:06d}")
        assert np.abs(sampler._expected[:8] - base).mean() > 0.01
    np.testing.assert_array_equal(vllm_client.score(url, sampler._sequences[:8], 60, "policy"), base)
    assert sampler.generate(PROMPTS, 4, Sampling(18), SEEDS).version == 2


def test_a_stale_adapter_and_the_base_are_found(own, monkeypatch):
    sampler, params = own
    sampler.load(moved(params, 3), 3)
    stale, load = sampler._published.path, vllm_client.load_adapter
    with monkeypatch.context() as patch:  # the new name has the old content
        patch.setattr(vllm_client, "load_adapter", lambda url, name, path, size: load(url, name, stale, size))
        with pytest.raises(RolloutError, match=r"does not serve the weights of step 4: the mean log-prob"):
            sampler.load(moved(params, 4), 4)
        sampler._config.rollout.max_logprob_gap = 100.0
        sampler.load(moved(params, 3), 4)
        with pytest.raises(RolloutError, match=r"still serves the weights before those of step 5: .* to the last bit"):
            sampler.load(moved(params, 5), 5)
        sampler._config.rollout.max_logprob_gap = 1e-4
    sampler.load(moved(params, 6), 6)
    complete = vllm_client.completion
    with monkeypatch.context() as patch:  # requests name the base
        patch.setattr(vllm_client, "completion", lambda *args: complete(*args[:5]))
        with pytest.raises(RolloutError, match=r"answers as the model 'policy', not as 'policy-6-"):
            sampler.generate(PROMPTS, 4, Sampling(18), SEEDS)
    assert sampler.generate(PROMPTS, 4, Sampling(18), SEEDS).version == 6


@pytest.mark.long
def test_a_run_with_adapters_is_sampled_by_an_attached_server(own, miniature, tmp_path):
    url = own[0]._servers[0].url
    others = vllm_client.adapters(url)
    config = adapter_config(miniature, tmp_path, [url])
    config.optimizer.learning_rate = 0.01
    config.rollout.steps_ahead, config.rl.tis_cap, config.rollout.old_logprobs = 1, 2.0, "trainer"
    assert train(config)["steps"] == 3
    records = read_metrics(tmp_path / "run")
    assert [r["rollout/weights_version"] for r in records[1:]] == [0, 0, 1]
    assert all(r["publish/probe_gap_max"] < 1e-4 for r in records[1:])
    assert records[1]["update/logprob_gap_max"] < 1e-4 < records[2]["update/logprob_gap_max"]
    assert peft.read_adapter(tmp_path / "run" / "final").settings.rank == RANK
    assert vllm_client.adapters(url) == others  # its own are unloaded


def test_a_server_with_a_smaller_rank_is_refused(own, miniature, tmp_path):
    with pytest.raises(ConfigError, match=r"serves adapters up to rank 8, but model.lora.rank is 9: start it"):
        open_vllm_sampler(adapter_config(miniature, tmp_path, [own[0]._servers[0].url], 9))


@pytest.mark.long
def test_a_server_without_adapters_is_refused(server, miniature, tmp_path):
    with pytest.raises(ConfigError, match=f"has no endpoint to load adapters, but model.lora.rank is {RANK}: start it"):
        open_vllm_sampler(adapter_config(miniature, tmp_path, [server.url]))


@pytest.mark.long
def test_merged_models_are_served_where_adapters_cannot_be(server, miniature, tmp_path, monkeypatch):
    config = adapter_config(miniature, tmp_path)
    monkeypatch.setattr(delivery, "adapter_ranks", lambda python: ())
    config.rollout.vllm.python = str(PYTHON)
    sampler, _, params, _ = open_vllm_sampler(config)  # it would start its own server
    sampler._servers = open_vllm_sampler(vllm_config(miniature, tmp_path, "b", [server.url]))[0]._servers
    sampler.load(params, 0)
    sampler.load(moved(params, 1), 1)
    assert sampler.report["publish/probe_gap_max"] < 1e-4
    assert sampler.generate(PROMPTS, 4, Sampling(18), SEEDS).version == 1


@pytest.mark.long
def test_a_server_that_is_killed_gets_the_adapter_again(own):
    sampler, params = own
    sampler.load(moved(params, 7), 7)
    prompts = PROMPTS * 16  # so many that the first answer comes long before the last
    seeds = problem_seeds(0, "train", 1, [str(p) for p in range(len(prompts))])
    want = sampler.generate(prompts, 4, Sampling(18), seeds)
    server = sampler._servers[0]
    killed = []

    def strike(*_):
        if not killed:
            killed.append(os.killpg(server.process.pid, signal.SIGKILL))

    found = sampler.generate(prompts, 4, Sampling(18), seeds, strike)
    assert server._restarts == 1 and found.version == 7
    assert list(vllm_client.adapters(server.url)) == [sampler._published.version.name]
    assert (found.tokens == want.tokens).all(-1).mean() > 0.9


@pytest.mark.long
def test_two_processes_train_adapters_with_one_server(own, miniature, tmp_path):
    url = own[0]._servers[0].url
    finish(begin(miniature, tmp_path, url, 2, f"--config.model.lora.rank={RANK}", "--config.eval.sets={}"))
    directory = tmp_path / "run"
    records = read_metrics(directory)
    assert [record["step"] for record in records] == [0, 1, 2]
    assert [record["rollout/weights_version"] for record in records[1:]] == [0, 1]
    assert max(record["publish/probe_gap_max"] for record in records[1:]) < 1e-4
    assert max(record["update/logprob_gap_max"] for record in records[1:]) < 1e-4
    assert vllm_export.verify(directory / "weights/step_000002")["step"] == 2
    served, final = (load_file(directory / f / peft.WEIGHTS) for f in ("weights/step_000002", "final"))
    assert served.keys() == final.keys() and min(np.abs(v).max() for v in final.values()) > 0
    for name, value in final.items():
        np.testing.assert_array_equal(served[name], value, err_msg=name)
    assert not [path for path in vllm_client.adapters(url).values() if path.startswith(str(tmp_path))]
