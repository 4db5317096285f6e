"""Faults between the trainer and its servers, acted out by fake servers; tests/vllm has the real ones."""

import concurrent.futures
import json
import pathlib
import threading
import time
import types

import pytest
from ml_collections import ConfigDict

from srt_jax import train as train_module
from srt_jax.config import base
from srt_jax.errors import ConfigError, RolloutError, ServerGivenUpError
from srt_jax.jobs.evaluate import evaluate_model
from srt_jax.jobs.label import label
from srt_jax.model.config import ModelConfig
from srt_jax.rollout.sampler import Sampling
from srt_jax.rollout.vllm import client as vllm_client
from srt_jax.rollout.vllm.client import ServerFailedError
from srt_jax.rollout.vllm.export import verify
from srt_jax.rollout.vllm.sampler import VLLMSampler
from tests.helpers import small_config
from tests.rollout.fake_vllm import choice, running
from tests.tiny_decoder import HF_CONFIG, decoder, mesh_of, place

PROMPTS, SEEDS, N = [[2, 4]] * 6, range(6), 2
SAMPLING = Sampling(4)


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    monkeypatch.setattr(vllm_client, "LOOK_SECONDS", 0.1)


# ---- one answer


def request(temperature=1.0):
    return vllm_client.completion([2], 3, Sampling(4, temperature), 0, (1,))


def test_an_answer_is_whole_or_not_taken():
    whole = [choice(2, 4), choice(0, 2, reason="stop"), choice(1, 4)]
    found = vllm_client.read_completion({"choices": whole}, request(), 3)
    assert [len(t) for t in found.tokens] == [2, 4, 4] and found.stopped == [True, False, False]
    for wrong in (
        [],
        whole[:1],
        whole[:2],
        [*whole, choice(3, 4)],
        [*whole[:2], choice(1, 5)],
        [*whole[:2], choice(1, 3)],
        [*whole[:2], choice(1, 0, reason="stop")],
        [*whole[:2], choice(1, 4, reason="abort")],
        [*whole[:2], choice(1, 4, float("nan"))],
        [*whole[:2], choice(1, 4, None)],
        [*whole[:2], {"index": 1}],
    ):
        with pytest.raises(ServerFailedError, match="answer"):
            vllm_client.read_completion({"choices": wrong}, request(), 3)


def test_one_response_counts_for_all_at_temperature_0_only():
    assert len(vllm_client.read_completion({"choices": [choice(0, 4)]}, request(0.0), 3).tokens) == 3
    with pytest.raises(ServerFailedError, match="1 of 3 responses"):
        vllm_client.read_completion({"choices": [choice(0, 4)]}, request(), 3)


# ---- many answers


def sample(servers, recover, waits=lambda: None, label="default"):
    requests = [vllm_client.completion(prompt, N, SAMPLING, 0, ()) for prompt in PROMPTS]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return vllm_client.sample(
            servers,
            requests,
            N,
            version=vllm_client.Version("policy", label),
            seconds=20,
            concurrency=2,
            waits=waits,
            recover=lambda server, reason: pool.submit(recover, server, reason),
        )


def fail_first(server, path="/v1/completions", times=1, status=500):
    """The first requests to a path get this status."""
    left = [times]

    def fault(asked, _):
        if asked != path or not left[0]:
            return None
        left[0] -= 1
        return status, {"error": "as told"}

    server.fault = fault


def test_a_proxy_in_the_environment_is_not_asked_for_the_way_to_a_server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://localhost:9")
    with running(2) as servers:
        assert len(sample(servers, pytest.fail)) == len(PROMPTS)
        assert vllm_client.version(servers[0].url) == "default"


def test_what_a_recovery_finds_is_raised_even_after_the_last_answer():
    def slowly(server, reason):
        time.sleep(0.5)
        raise error

    with running(2) as servers:
        for error in (RolloutError("other weights"), ServerGivenUpError("gone")):
            fail_first(servers[1])
            if isinstance(error, ServerGivenUpError):
                assert len(sample(servers, slowly)) == len(PROMPTS)
            else:
                with pytest.raises(RolloutError, match="other weights"):
                    sample(servers, slowly)


def test_answers_are_returned_when_the_failed_server_is_back():
    back = []
    with running(2) as servers:
        fail_first(servers[1])
        answers = sample(servers, lambda server, reason: (time.sleep(0.3), back.append(str(reason))))
    assert len(answers) == len(PROMPTS) and back == ['HTTP 500 {"error": "as told"}']


def test_an_answer_from_other_weights_ends_it():
    with running() as servers, pytest.raises(RolloutError, match=r"serves weights version 'default', not '3-abc'"):
        sample(servers, None, label="3-abc")


class StopRequestedError(Exception):
    """The exception that a trainer raises in its callback."""


def stop_after(seconds):
    """A callback, for any arguments, that raises StopRequestedError once the seconds are over."""
    started = time.monotonic()

    def stop(*_):
        if time.monotonic() - started > seconds:
            raise StopRequestedError

    return stop


def test_an_exception_ends_sampling_that_waits_for_a_server():
    started = time.monotonic()
    with running() as servers:
        servers[0].resumed.clear()
        with pytest.raises(StopRequestedError):
            sample(servers, None, stop_after(0.2))
    assert time.monotonic() - started < 15  # a request would wait 20 s


# ---- the sampler


def config_of(servers, out, **fields):
    config = base()
    config.name, config.out, config.model.dtype = "run", str(out), "float32"
    config.batch.max_prompt_tokens, config.batch.max_response_tokens = 8, 8
    config.rollout.sampler, config.rollout.servers = "vllm", tuple(server.url for server in servers)
    config.rollout.max_logprob_gap = 100.0  # a fake server knows no model
    config.rollout.vllm.update({"start_seconds": 1.0, "max_restarts": 2, **fields})
    return config


@pytest.fixture
def opened():
    """open(servers, out, **fields of rollout.vllm) -> VLLMSampler; all are closed in the end."""
    samplers = []

    def open_sampler(servers, out, **fields):
        model = types.SimpleNamespace(
            directory=None,
            hf_config=HF_CONFIG,
            config=ModelConfig.from_hf(HF_CONFIG),
            stop_ids=(1,),
            exported_files={"generation_config.json": '{"eos_token_id": [1]}'},
        )
        mesh = mesh_of()
        samplers.append(VLLMSampler(config_of(servers, out, **fields), model, decoder(mesh=mesh)[0], mesh, out))
        return samplers[-1]

    yield open_sampler
    for sampler in samplers:
        sampler.close()


def params(seed=0):
    return place(decoder(seed=seed)[1], mesh_of())


def test_servers_get_the_weights_whether_paused_or_not(opened, tmp_path):
    with running(2) as servers:
        servers[0].resumed.clear()  # a trainer was killed between pause and resume
        sampler = opened(servers, tmp_path)
        for step in (0, 1):
            sampler.load(params(step), step)
            rollouts = sampler.generate(PROMPTS, N, SAMPLING, SEEDS)
            assert rollouts.version == step and (rollouts.tokens == 3).all()
            assert {server.loaded for server in servers} == {str(tmp_path / "weights" / f"step_{step:06d}")}
            assert len({server.label for server in servers}) == 1 and servers[0].label.startswith(f"{step}-")
            export = sampler.exports / f"step_{step:06d}"
            assert "generation_config.json" in verify(export)["files"]
            assert json.loads((export / "generation_config.json").read_text()) == {"eos_token_id": [1]}


def test_a_stop_request_ends_the_wait_for_a_server_that_hangs(opened, tmp_path):
    with running() as servers:
        sampler, started = opened(servers, tmp_path), time.monotonic()
        sampler.load(params(), 0)
        servers[0].resumed.clear()
        with pytest.raises(StopRequestedError):
            sampler.generate(PROMPTS, N, SAMPLING, SEEDS, advanced=stop_after(0.2))
        answers = threading.Event()
        servers[0].fault = lambda path, _: answers.wait(60) and None
        with pytest.raises(StopRequestedError):
            sampler.load(params(1), 1, stop_after(0.2))
        sampler.close()
        assert time.monotonic() - started < 50
        answers.set()


# The requests of the first load in their order; the last is one of three that test the server's answers.
@pytest.mark.parametrize("hangs", ["/v1/models", "/pause", "/collective_rpc", "/resume", "/v1/completions"])
def test_a_stop_request_ends_the_first_load(hangs, opened, tmp_path):
    with running() as servers:
        sampler, answers, started = opened(servers, tmp_path), threading.Event(), time.monotonic()
        servers[0].fault = lambda path, _: answers.wait(60) and None if path == hangs else None
        with pytest.raises(StopRequestedError):
            sampler.load(params(), 0, stop_after(0.2))
        sampler.close()
        assert time.monotonic() - started < 50
        answers.set()


def test_closing_ends_sampling_in_another_thread(opened, tmp_path):
    with running() as servers:
        sampler, started = opened(servers, tmp_path), time.monotonic()
        sampler.load(params(), 0)
        servers[0].resumed.clear()
        threading.Timer(0.2, sampler._closed.set).start()
        with pytest.raises(RolloutError, match="closed"):
            sampler.generate(PROMPTS, N, SAMPLING, SEEDS)
        assert time.monotonic() - started < 15


def test_another_trainers_weights_of_the_same_step_do_not_pass_as_ours(opened, tmp_path):
    with running() as servers:
        ours, theirs = opened(servers, tmp_path / "a"), opened(servers, tmp_path / "b")
        ours.load(params(1), 1)
        theirs.load(params(2), 1)
        theirs.generate(PROMPTS, N, SAMPLING, SEEDS)
        with pytest.raises(RolloutError, match=r"serves weights version '1-.*', not '1-.*': another program"):
            ours.generate(PROMPTS, N, SAMPLING, SEEDS)


def test_a_server_whose_logprobs_stay_when_the_weights_change_is_noticed(opened, tmp_path):
    with running() as servers:
        sampler = opened(servers, tmp_path)
        sampler.load(params(1), 1)
        servers[0].fault = lambda path, _: (200, {}) if path == "/collective_rpc" else None  # it reads nothing
        sampler.load(params(1), 2)  # nothing changed
        with pytest.raises(RolloutError, match="still serves the weights before those of step 3"):
            sampler.load(params(2), 3)


def test_a_failure_between_reload_and_probe_is_recovered_from(opened, tmp_path):
    with running() as servers:
        sampler = opened(servers, tmp_path)
        fail_first(servers[0], "/collective_rpc")
        sampler.load(params(1), 1)
        fail_first(servers[0])  # the probe is the only sample that a second load asks for
        sampler.load(params(2), 2)
        assert sampler.generate(PROMPTS, N, SAMPLING, SEEDS).version == 2
        servers[0].fault = lambda _, asked: (
            (200, {"model": "policy", "choices": [{"index": 0}]}) if "prompt_logprobs" in asked else None
        )
        with pytest.raises(RolloutError, match=r"failed too often .*without the prompt's log-probs"):
            sampler.load(params(3), 3)


def test_one_failed_request_of_a_server_that_is_well_restarts_nothing(opened, tmp_path, capsys):
    with running() as servers:
        sampler = opened(servers, tmp_path, max_restarts=0)
        sampler.load(params(), 0)
        loads = servers[0].asked.count("/collective_rpc")
        fail_first(servers[0])
        assert sampler.generate(PROMPTS, N, SAMPLING, SEEDS).version == 0
        assert "is healthy: its requests are repeated" in capsys.readouterr().err
        assert servers[0].asked.count("/collective_rpc") == loads
        servers[0].fault = lambda path, asked: (500, {}) if asked.get("n") == N else None  # but not for ever
        with pytest.raises(RolloutError, match="failed too often"):
            sampler.generate(PROMPTS, N, SAMPLING, SEEDS)


def test_a_server_that_cannot_read_the_exports_is_told_what_it_must_see(opened, tmp_path):
    with running() as servers:
        servers[0].fault = lambda path, _: (500, {"error": "no such folder"}) if path == "/collective_rpc" else None
        with pytest.raises(RolloutError, match=r"must serve the model of this run and see .*step_000000 under this"):
            opened(servers, tmp_path).load(params(), 0)


def test_a_server_that_comes_back_as_another_one_is_given_up(opened, tmp_path, capsys):
    with running(2) as servers:
        sampler = opened(servers, tmp_path)
        sampler.load(params(1), 1)
        fail_first(servers[1], "/collective_rpc")
        servers[1].max_model_len = 8
        sampler.load(params(2), 2)
        assert "came back unfit: rollout.servers:" in capsys.readouterr().err
        asked = len(servers[1].asked)
        assert sampler.generate(PROMPTS, N, SAMPLING, SEEDS).version == 2 and len(servers[1].asked) == asked


def test_a_server_that_cannot_serve_is_refused_before_there_are_weights(opened, tmp_path):
    with running() as servers:
        servers[0].max_model_len = 8
        with pytest.raises(ConfigError, match="takes 8 tokens"):
            opened(servers, tmp_path)


def test_runs_of_one_name_do_not_share_a_folder_elsewhere_and_leave_nothing_there(opened, tmp_path):
    with running() as servers:
        samplers = [opened(servers, tmp_path / out, weights_directory=str(tmp_path / "shm")) for out in "ab"]
        assert len({sampler.exports for sampler in samplers}) == 2
        for step, sampler in enumerate(samplers):
            sampler.load(params(), 1 - step)
        assert all((sampler.exports / f"step_00000{1 - step}").exists() for step, sampler in enumerate(samplers))
        for sampler in samplers:
            sampler.close()
    assert not list((tmp_path / "shm").iterdir())


@pytest.mark.parametrize("job", ["evaluate", "label"])
def test_other_jobs_leave_the_exports_of_a_run_alone(job, miniature, tmp_path):
    exports_of_a_run = tmp_path / "run" / "weights" / "step_000005"
    exports_of_a_run.mkdir(parents=True)
    with running() as servers:
        config, servers[0].vocab_size = small_config(miniature, tmp_path, "run", 3), 25
        config.rollout.update(config_of(servers, tmp_path).rollout)
        config.data.limit = 4
        if job == "evaluate":
            assert evaluate_model(config, None)[1.0]["heldout"]["avg@4"] == 0
        else:
            assert label(config, tmp_path / "labels.jsonl", 2)["problems"] == 4
        assert servers[0].loaded == str(tmp_path / "run" / job / "weights" / "step_000000")
    assert exports_of_a_run.exists()


def test_an_interrupted_run_does_not_wait_for_the_samples_of_the_next_step(miniature, tmp_path, monkeypatch):
    asked, interrupted = [], []

    def slow(path, request):  # all but the first step's
        if request.get("max_tokens") == 18:
            asked.append(path)
            time.sleep(30 if len(asked) > 8 else 0)

    def interrupt(*_):
        interrupted.append(time.monotonic())
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "learn", interrupt)
    with running() as servers:
        config, servers[0].vocab_size, servers[0].fault = small_config(miniature, tmp_path, "run", 3), 25, slow
        config.rollout.update(config_of(servers, tmp_path).rollout)
        config.rollout.steps_ahead, config.rl.tis_cap, config.rollout.old_logprobs = 1, 2.0, "trainer"
        with config.eval.unlocked():
            config.eval.sets = ConfigDict()
        with pytest.raises(KeyboardInterrupt):
            train_module.train(config)
    assert time.monotonic() - interrupted[0] < 20


def test_a_folder_that_takes_no_exports_is_named(opened, tmp_path):
    pathlib.Path(tmp_path / "weights").write_text("a file")
    with running() as servers, pytest.raises(RolloutError, match=r"does not take the weights of .*: name another"):
        opened(servers, tmp_path).load(params(), 0)
