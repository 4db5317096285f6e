"""Three real updates of a tied Qwen3, a Qwen2 with biases and a Llama: the servers' log-probs stay the trainer's."""

import json
import shutil

import jax
import numpy as np
import pytest
from vllm_support import started, vllm_config

from srt_jax.errors import TrainingStoppedError
from srt_jax.model import weights
from srt_jax.model.config import ModelConfig
from srt_jax.model.decoder import abstract
from srt_jax.rollout.vllm import client as vllm_client
from srt_jax.rollout.vllm import export as vllm_export
from srt_jax.run.metrics_log import read_metrics
from srt_jax.train import train

COMMON = {
    "vocab_size": 25,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "qwen2": {**COMMON, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": False},
    "llama": {
        **COMMON,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": False,
        "rope_scaling": LLAMA3,
    },
}


def random_model(directory, hf_config, miniature):
    """A model of the family with random matrices, biases and norm scales, and the miniature's tokenizer."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        width = x.shape[-2] if path.endswith("kernel") else 4
        return (path.endswith("scale") + rng.standard_normal(x.shape) / np.sqrt(width)).astype(np.float32)

    params = jax.device_put(weights.map_with_path(draw, abstract(ModelConfig.from_hf(hf_config))[1]))
    weights.save(directory, params, hf_config, "float32", tokenizer_from=miniature)
    for file in ("train.jsonl", "heldout.jsonl"):
        shutil.copy(miniature / file, directory / file)
    return directory


@pytest.fixture(scope="module")
def families(server, miniature, tmp_path_factory):
    """{family: (model directory, server of it)}."""
    folder = tmp_path_factory.mktemp("families")
    models = {name: random_model(folder / name, fields, miniature) for name, fields in FAMILIES.items()}
    with started(folder, models) as servers:
        yield {"qwen3 tied": (miniature, server)} | {name: (models[name], servers[name]) for name in models}


def own_samples(config):
    """Trains on its own samples as they are, so that there is a gradient whatever they say; every weight moves far."""
    config.labels.source, config.rl.objective, config.rl.kl_coef = "none", "cross_entropy", 0.0
    config.optimizer.learning_rate = 0.02
    config.rollout.vllm.keep = 4
    return config


@pytest.mark.parametrize("family", ["qwen3 tied", *FAMILIES])
def test_logprobs_agree_before_and_after_updates_that_move_every_tensor(family, families, tmp_path):
    model, server = families[family]
    train(own_samples(vllm_config(model, tmp_path, "run", [server.url])))
    exports = [tmp_path / "run" / "weights" / f"step_{s:06d}" for s in range(4)]
    before, *after = [dict(weights.flat_paths(weights.load(path)[1])) for path in exports]
    assert "layers.q.bias" in before or family != "qwen2"
    assert ("head" in before) == (family != "qwen3 tied")
    for params in after:
        for name, value in before.items():
            moved = np.abs(np.asarray(params[name]) - np.asarray(value))
            assert moved.mean() > 5e-3, name
        before = params
    records = read_metrics(tmp_path / "run")
    assert [r["step"] for r in records] == [0, 1, 2, 3]
    for record in records[1:]:
        assert record["publish/probe_gap_max"] < 1e-4
        assert record["update/logprob_gap_max"] < 1e-4
        assert record["rollout/weights_version"] == record["step"] - 1


def test_one_step_ahead_rollouts_come_from_the_weights_of_the_step_before(server, miniature, tmp_path):
    vllm_client.call(server.url, "POST", "/pause")  # as a trainer that was killed in the middle of a load leaves it
    config = vllm_config(miniature, tmp_path, "run", [server.url])
    config.rollout.steps_ahead, config.rollout.old_logprobs, config.rl.tis_cap = 1, "trainer", 2.0
    summary = train(config)
    assert summary["steps"] == 3
    records = {r["step"]: r for r in read_metrics(tmp_path / "run")}
    assert [records[step]["rollout/weights_version"] for step in (1, 2, 3)] == [0, 0, 1]
    assert all(0.5 < records[step]["update/importance_weight"] < 2 for step in (1, 2, 3))
    assert records[1]["update/logprob_gap_max"] < 1e-4 < records[2]["update/logprob_gap_max"]
    assert all(records[step]["publish/probe_gap_max"] < 1e-4 for step in (1, 2, 3))


def test_a_run_that_a_damaged_export_stopped_goes_on_where_it_was(server, miniature, tmp_path, monkeypatch):
    config = vllm_config(miniature, tmp_path, "run", [server.url])
    write = vllm_export.publish

    def damage(params, step, *rest):
        done = write(params, step, *rest)
        if step == 2:
            file = done.path / "model.safetensors"
            file.write_bytes(file.read_bytes()[:-8])
        return done

    with monkeypatch.context() as patch:
        patch.setattr(vllm_export, "publish", damage)
        with pytest.raises(TrainingStoppedError, match=r"cut short or changed. The state after step 2 is saved"):
            train(config)
    summary = train(config)
    assert summary["steps"] == 3
    steps = [r["step"] for r in read_metrics(tmp_path / "run")]
    assert steps == [0, 1, 2, 3]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["last"] == summary["last"]
