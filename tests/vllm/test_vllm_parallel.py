"""Servers that split the model, or have several copies of it: each part and each copy gets the new weights."""

import numpy as np
import pytest
from vllm_support import PYTHON, START_SECONDS, changed, open_vllm_sampler, vllm_config

from srt_jax.errors import RolloutError
from srt_jax.rollout.sampler import Sampling, problem_seeds
from srt_jax.rollout.vllm import client as vllm_client

PROMPTS = [[3 + p % 9, 13, 5] for p in range(8)]
SEEDS = problem_seeds(0, "train", 1, [str(p) for p in range(8)])


@pytest.mark.long
@pytest.mark.parametrize("field", ["tensor_parallel", "data_parallel"])
def test_every_part_and_copy_gets_the_weights(field, miniature, tmp_path, monkeypatch):
    config = vllm_config(miniature, tmp_path, "run")
    config.rollout.vllm.update({"python": str(PYTHON), "start_seconds": START_SECONDS, "max_sequences": 64, field: 2})
    sampler, _, params, _ = open_vllm_sampler(config)
    try:
        sampler.load(params, 0)
        url = sampler._servers[0].url
        sizes = vllm_client.call(url, "GET", "/get_world_size", params={"include_dp": "true"})
        assert sizes["world_size"] == 2
        before = sampler.generate(PROMPTS, 4, Sampling(18), SEEDS)
        sampler.load(changed(params, 1), 1)
        assert sampler.report["publish/probe_gap_max"] < 1e-4
        after = sampler.generate(PROMPTS, 4, Sampling(18), SEEDS)
        assert after.version == 1 and not np.array_equal(before.tokens, after.tokens)
        assert len(sampler._probed) == (2 if field == "data_parallel" else 1)
        if field == "data_parallel":  # the probe would notice a copy that kept other weights
            score = vllm_client.score
            stale = score(url, sampler._sequences[:8], 60, "policy", 1)
            sampler.load(params, 2)
            monkeypatch.setattr(vllm_client, "score", lambda *given: stale if given[-1] == 1 else score(*given))
            with pytest.raises(RolloutError, match="does not serve the weights of step 3"):
                sampler.load(params, 3)
    finally:
        sampler.close()
