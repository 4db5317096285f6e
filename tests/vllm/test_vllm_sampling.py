"""One server, one trainer: the right distribution, log-probs and weights, and every reason to refuse a server."""

import http.server
import json
import threading

import jax
import numpy as np
import pytest
from vllm_support import changed, open_vllm_sampler, vllm_config

from srt_jax.errors import ConfigError, RolloutError
from srt_jax.model import weights
from srt_jax.model.config import ModelConfig, read_hf_config
from srt_jax.model.decoder import abstract
from srt_jax.rollout.jax.sampler import JaxSampler
from srt_jax.rollout.sampler import Sampling, problem_seeds
from srt_jax.rollout.vllm import client as vllm_client
from srt_jax.rollout.vllm import export as vllm_export
from srt_jax.rollout.vllm import server as vllm_server
from tests.several_processes import reserved_port
from tests.tiny_decoder import direct_logprobs

PROMPTS = [[3, 13, 5], [4, 13, 8, 13, 9], [5], [10, 14, 8, 18]]  # The last is a sum. Its samples reach a stop token.
SEEDS = problem_seeds(0, "train", 1, [str(p) for p in PROMPTS])


@pytest.fixture
def opened(server, miniature, tmp_path):
    """(sampler attached to the shared server, with weights 1 loaded; graphdef; those weights; mesh)."""
    sampler, graphdef, params, mesh = open_vllm_sampler(vllm_config(miniature, tmp_path, "run", [server.url]))
    sampler.load(params, 1)
    return sampler, graphdef, params, mesh


@pytest.fixture(scope="module")
def on_one_device(miniature):
    """The graphdef of the miniature without a mesh."""
    return abstract(ModelConfig.from_hf(read_hf_config(miniature)))[0]


def exact_logprobs(graphdef, params, rollouts, temperature):
    """Log-probs of the rollouts' response tokens, each row by itself, padded as they are."""
    out = np.zeros_like(rollouts.logprobs)
    for p, prompt in enumerate(rollouts.prompts):
        width = len(prompt) + rollouts.tokens.shape[2]
        rows = np.zeros((rollouts.tokens.shape[1], width), np.int32)
        rows[:, : len(prompt)] = prompt
        rows[:, len(prompt) :] = rollouts.tokens[p]
        out[p] = direct_logprobs(graphdef, params, rows, temperature)[0][:, len(prompt) :]
    inside = np.arange(out.shape[2]) < rollouts.lengths[..., None]
    return np.where(inside, out, 0.0)


def test_rollouts_have_the_trainers_logprobs_and_end_where_it_ends_them(opened, on_one_device):
    sampler, _, params, _ = opened
    stops = sampler._model.stop_ids
    for temperature in (1.0, 0.6):
        called = {}
        rollouts = sampler.generate(
            PROMPTS, 6, Sampling(18, temperature), SEEDS, lambda p, *given, called=called: called.update({p: given})
        )
        assert rollouts.version == 1 and rollouts.tokens.shape == (4, 6, 18) and rollouts.prompts == PROMPTS
        host = jax.device_get(params)
        np.testing.assert_allclose(
            rollouts.logprobs, exact_logprobs(on_one_device, host, rollouts, temperature), atol=1e-4
        )
        for p, responses in enumerate(rollouts.responses()):
            for i, response in enumerate(responses):
                np.testing.assert_array_equal(response, called[p][0][i])
                assert not np.isin(response[:-1], stops).any()
                assert rollouts.stopped[p, i] == called[p][1][i] == (response[-1] in stops)
                assert rollouts.stopped[p, i] or len(response) == 18
        assert 0 < rollouts.stopped.mean()
        assert (rollouts.tokens[np.arange(18) >= rollouts.lengths[..., None]] == 0).all()


def test_samples_depend_on_their_seed_only_and_all_differ(opened):
    sampler = opened[0]
    first = sampler.generate(PROMPTS, 6, Sampling(18), SEEDS)
    again = sampler.generate(PROMPTS[::-1], 6, Sampling(18), SEEDS[::-1])
    np.testing.assert_array_equal(first.tokens, again.tokens[::-1])
    long_sum = [10, 14, 8, 14, 9, 14, 7, 14, 12, 18]  # of many answers at this temperature
    same_prompt = sampler.generate([long_sum] * 4, 6, Sampling(18, 2.0), SEEDS)
    assert len({row.tobytes() for row in same_prompt.tokens.reshape(24, 18)}) == 24


def test_more_prompts_at_a_time_than_one_batch_takes(opened):
    """256 sequences of 10 tokens are more than the 2,048 of a batch: a prompt cut in two would end a CPU server."""
    prompts = [[3 + p % 9, *[4, 13] * 4, 5] for p in range(64)]
    rollouts = opened[0].generate(prompts, 8, Sampling(4), problem_seeds(0, "train", 3, [str(p) for p in range(64)]))
    assert (rollouts.lengths > 0).all()


def test_first_tokens_are_distributed_as_the_models_softmax(opened, on_one_device):
    sampler, _, params, _ = opened
    n, prompt = 2000, PROMPTS[0]
    seeds = problem_seeds(0, "train", 2, [str(i) for i in range(20)])
    rollouts = sampler.generate([prompt] * 20, n // 20, Sampling(1, 2.0), seeds)
    counts = np.bincount(rollouts.tokens.reshape(-1), minlength=25)
    rows = np.array([[*prompt, token] for token in range(25)], np.int32)
    p = np.exp(direct_logprobs(on_one_device, jax.device_get(params), rows, 2.0)[0][:, -1])
    assert p.sum() == pytest.approx(1, abs=1e-5)
    likely = n * p > 5
    statistic = ((counts - n * p)[likely] ** 2 / (n * p)[likely]).sum()
    degrees = likely.sum() - 1
    assert degrees > 5 and statistic < degrees + 4 * np.sqrt(2 * degrees)


def test_evaluation_is_greedy_at_temperature_0_and_truncates(opened):  # the in-process sampler is the reference
    sampler, graphdef, params, mesh = opened
    greedy = sampler.generate(PROMPTS, 3, Sampling(18, 0.0), SEEDS)
    ours = JaxSampler(graphdef, mesh, sampler._model.stop_ids, (10,), 8)
    ours.load(params, 1)
    want = ours.generate(PROMPTS, 3, Sampling(18, 0.0), SEEDS)
    np.testing.assert_array_equal(greedy.tokens, want.tokens)
    np.testing.assert_allclose(greedy.logprobs, want.logprobs, atol=1e-4)
    np.testing.assert_array_equal(greedy.stopped, want.stopped)
    one = sampler.generate(PROMPTS, 3, Sampling(18, 1.0, top_k=1), SEEDS)
    np.testing.assert_array_equal(one.tokens, want.tokens)
    nucleus = sampler.generate(PROMPTS, 8, Sampling(18, 1.0, top_p=0.5), SEEDS)
    assert (nucleus.logprobs > -2).all()  # half of the mass, renormalised


def test_weights_that_are_not_the_trainers_end_the_run_with_both_numbers(opened, monkeypatch):
    sampler, _, params, _ = opened
    fresh, stale = changed(params, 2), sampler._published.path
    update = vllm_client.update_weights
    with monkeypatch.context() as patch:  # the server is told the folder of the step before
        patch.setattr(vllm_client, "update_weights", lambda url, path, *rest: update(url, stale, *rest))
        with pytest.raises(
            RolloutError, match=r"weights of step 2: the mean log-prob .* is -\d.* there and -\d.* gap is \d"
        ):
            sampler.load(fresh, 2)
    with monkeypatch.context() as patch:  # without its head, which vLLM then keeps, though it is tied
        names = weights.tensor_names
        patch.setattr(weights, "tensor_names", lambda p: (n for n in names(p) if n != "lm_head.weight"))
        with pytest.raises(RolloutError, match="does not serve the weights of step 2"):
            sampler.load(fresh, 2)
    sampler.load(fresh, 2)  # nothing of it stays behind
    assert sampler.report["publish/probe_gap_max"] < 1e-4
    assert sampler.generate(PROMPTS, 2, Sampling(18), SEEDS).version == 2


def test_a_damaged_export_reaches_no_server(opened, server, monkeypatch):
    sampler, _, params, _ = opened
    before = sampler.generate(PROMPTS, 2, Sampling(18), SEEDS)
    write = vllm_export.publish

    def cut_short(*args):
        done = write(*args)
        file = done.path / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        return done

    def wrong_checksum(*args):
        done = write(*args)
        manifest = vllm_export.verify(done.path)
        manifest["tensors"]["model.norm.weight"]["xxh3_64"] = "0" * 16
        manifest["xxh3_64"] = vllm_export._checksum_of(manifest)
        (done.path / "manifest.json").write_text(json.dumps(manifest))
        return done

    for damage, words in (
        (cut_short, "was cut short or changed"),
        (wrong_checksum, "model.norm.weight does not match the checksum"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(vllm_export, "publish", damage)
            with pytest.raises(RolloutError, match=words):
                sampler.load(changed(params, 3), 2)
        assert vllm_client.version(server.url).startswith("1-")
    sampler.load(params, 1)
    again = sampler.generate(PROMPTS, 2, Sampling(18), SEEDS)
    np.testing.assert_array_equal(again.tokens, before.tokens)


def test_a_server_that_somebody_else_updated_is_noticed(opened, server):
    vllm_client.call(server.url, "POST", "/update_weight_version", json={"new_version": "7"})
    with pytest.raises(RolloutError, match="serves weights version '7', not '1-"):
        opened[0].generate(PROMPTS, 2, Sampling(18), SEEDS)


def test_a_server_of_another_length_or_vocabulary_is_refused(server, miniature, tmp_path):
    model = open_vllm_sampler(vllm_config(miniature, tmp_path, "run", [server.url]))[0]._model.config
    vllm_server.check(server.url, model, 28)
    with pytest.raises(ConfigError, match=r"takes 28 tokens, but .* is 29: start it with that --max_model_len"):
        vllm_server.check(server.url, model, 29)
    for size, does in ((24, "knows token 24"), (26, "refuses token 25")):
        with pytest.raises(ConfigError, match=rf"another vocabulary than the {size} tokens of model.path \({does}\)"):
            vllm_server.check_answers(server.url, size)
    with pytest.raises(ConfigError, match=r"config.json is another model's: start it with the model of this run"):
        vllm_server.check(server.url, model.__class__(**{**vars(model), "rms_norm_eps": 1e-5}), 28)


def test_a_url_that_is_no_vllm_server_is_refused(miniature, tmp_path):
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        for port, words in ((web.server_port, "is no vLLM server"), (reserved_port(), "no server answers")):
            config = vllm_config(miniature, tmp_path, "run", [f"http://127.0.0.1:{port}"])
            config.rollout.vllm.start_seconds = 1.0
            with pytest.raises(ConfigError, match=rf"rollout.servers: .*{words}") as refused:
                sampler, _, params, _ = open_vllm_sampler(config)
                sampler.load(params, 0)  # somebody might just be starting it
            assert f"http://127.0.0.1:{port}" in str(refused.value)
    finally:
        web.shutdown()


def test_a_server_with_all_flags_passes_the_checks(server):
    vllm_server._check_endpoints(server.url)
    vllm_server.check_answers(server.url, 25)
