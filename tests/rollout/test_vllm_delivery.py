"""Adapters between the trainer and its servers, which are fake; tests/vllm/test_vllm_adapters.py has real ones."""

import json
import types

import pytest

from srt_jax.config import base
from srt_jax.errors import ConfigError, RolloutError
from srt_jax.model import lora, peft
from srt_jax.model.config import ModelConfig
from srt_jax.rollout.sampler import Sampling
from srt_jax.rollout.vllm import client as vllm_client
from srt_jax.rollout.vllm import command as vllm_command
from srt_jax.rollout.vllm import delivery
from srt_jax.rollout.vllm.export import verify
from srt_jax.rollout.vllm.sampler import VLLMSampler
from tests.rollout.fake_vllm import running
from tests.tiny_decoder import HF_CONFIG, LORA, adapted, mesh_of, place

PROMPTS, SEEDS, N, SAMPLING = [[2, 4]] * 6, range(6), 2, Sampling(4)


def config_of(servers, out, rank=LORA.rank):
    config = base()
    config.name, config.out, config.model.dtype = "run", str(out), "float32"
    config.model.lora.rank, config.model.lora.alpha = rank, LORA.alpha
    config.batch.max_prompt_tokens, config.batch.max_response_tokens = 8, 8
    config.rollout.sampler, config.rollout.servers = "vllm", tuple(server.url for server in servers)
    config.rollout.max_logprob_gap = 100.0  # a fake server knows no model
    config.rollout.vllm.update({"start_seconds": 1.0, "max_restarts": 2})
    return config


MODEL = types.SimpleNamespace(
    directory="/base", base_id="a/base", hf_config=HF_CONFIG, config=ModelConfig.from_hf(HF_CONFIG), stop_ids=(1,)
)


@pytest.fixture
def opened():
    """open(servers, out, rank) -> VLLMSampler; all are closed in the end."""
    samplers = []

    def open_sampler(servers, out, rank=LORA.rank):
        mesh = mesh_of()
        samplers.append(VLLMSampler(config_of(servers, out, rank), MODEL, adapted(mesh=mesh)[0], mesh, out))
        return samplers[-1]

    yield open_sampler
    for sampler in samplers:
        sampler.close()


def params(seed=0):
    _, frozen, adapters = adapted(seed=seed)
    return place(lora.join(adapters, frozen), mesh_of())


def with_adapters(servers, rank=8):
    for server in servers:
        server.max_lora_rank = rank
    return servers


def test_each_version_has_its_own_name_and_folder_and_older_ones_are_unloaded(opened, tmp_path):
    with running(2) as servers:
        with_adapters(servers)[0].resumed.clear()  # a trainer was killed between pause and resume
        sampler = opened(servers, tmp_path)
        names = []
        for step in (0, 1, 2):
            sampler.load(params(step), step)
            path = tmp_path / "weights" / f"step_{step:06d}"
            assert verify(path)["files"].keys() == {peft.CONFIG, peft.WEIGHTS}
            assert peft.read_adapter(path).settings == LORA
            for server in servers:
                ((name, directory),) = server.adapters.items()
                assert directory == str(path) and name.startswith(f"policy-{step}-")
            names.append(name)
            assert sampler.generate(PROMPTS, N, SAMPLING, SEEDS).version == step
        assert len(set(names)) == 3
        assert {server.loaded for server in servers} == {"default"}  # nobody touched the base
        asked = [path for path in servers[0].asked if path.endswith("_lora_adapter")]
        loads = ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"]
        assert asked[-4:] == loads * 2  # a version is always there
        sampler.close()
        assert not servers[0].adapters


def test_a_server_that_lost_the_adapter_gets_it_again(opened, tmp_path, capsys):
    with running(2) as servers:
        sampler = opened(with_adapters(servers), tmp_path)
        sampler.load(params(1), 1)
        before = dict(servers[0].adapters)
        servers[0].adapters.clear()  # it was restarted
        rollouts = sampler.generate(PROMPTS, N, SAMPLING, SEEDS)
        assert rollouts.version == 1 and servers[0].adapters == before
        assert "HTTP 404" in capsys.readouterr().err


def test_an_answer_from_the_base_or_another_version_ends_it(opened, tmp_path):
    with running() as servers:
        sampler = opened(with_adapters(servers), tmp_path)
        for step, name in ((1, "policy"), (3, "policy-0-abc")):
            servers[0].fault = lambda *_: None
            sampler.load(params(step), step)

            def other(path, asked, name=name):
                if path != "/v1/completions":
                    return None
                return 200, servers[0].v1_completions(asked) | {"model": name}

            servers[0].fault = other
            with pytest.raises(RolloutError, match=rf"answers as the model '{name}', not as 'policy-{step}-"):
                sampler.generate(PROMPTS, N, SAMPLING, SEEDS)
            with pytest.raises(RolloutError, match=rf"answers as the model '{name}', not as 'policy-{step + 1}-"):
                sampler.load(params(step + 1), step + 1)


def test_a_base_that_another_run_replaced_is_noticed(opened, tmp_path):
    with running() as servers:
        sampler = opened(with_adapters(servers), tmp_path)
        sampler.load(params(1), 1)
        servers[0].label = "7-abc"
        with pytest.raises(RolloutError, match="serves weights version '7-abc', not 'default'"):
            sampler.generate(PROMPTS, N, SAMPLING, SEEDS)
        with pytest.raises(ConfigError, match=r"has the weights '7-abc' of another run, .*: start it again"):
            opened(servers, tmp_path / "b")


def test_servers_that_cannot_serve_the_rank_are_refused_before_there_are_weights(opened, tmp_path):
    for rank, words in (
        (0, r"has no endpoint to load adapters, but model.lora.rank is 4: start it .* --max_lora_rank=4"),
        (1, r"serves adapters up to rank 1, but model.lora.rank is 4: start it .* --max_lora_rank=4"),
    ):
        with running() as servers, pytest.raises(ConfigError, match=words):
            opened(with_adapters(servers, rank), tmp_path)


def test_a_server_that_does_not_see_the_folder_is_refused(opened, tmp_path):
    with running() as servers:
        with_adapters(servers)[0].fault = lambda path, _: (
            (404, {"error": "Loading lora failed: No adapter found for <path>"}) if "load_lora" in path else None
        )
        with pytest.raises(ConfigError, match=r"does not see .*check_rank_4: name a folder .*weights_directory"):
            opened(servers, tmp_path)


def test_the_flag_is_the_smallest_rank_that_vllm_accepts(monkeypatch, tmp_path):
    monkeypatch.setattr(delivery, "adapter_ranks", lambda python: (1, 8, 16))
    for rank, served in ((1, 1), (2, 8), (8, 8), (9, 16)):
        chosen = delivery.choose(config_of([], tmp_path, rank), MODEL, tmp_path, "hash")
        assert (chosen.max_lora_rank, chosen.dtype) == (served, "float32")
    settings = vllm_command.Settings("python", "bfloat16", max_lora_rank=8, max_loras=3)
    line = vllm_command.command(settings, "vllm", "model", 1)
    assert line[line.index("--max-lora-rank") + 1] == "8" and "--enable-lora" in line
    assert line[line.index("--max-loras") + 1] == line[line.index("--max-cpu-loras") + 1] == "3"
    first = line.index("--lora-target-modules") + 1
    assert line[first : first + 7] == list(lora.TARGETS)
    assert vllm_command.environment(settings, "vllm")["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


def test_a_vllm_that_cannot_serve_the_rank_gets_merged_models_in_float32(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(delivery, "adapter_ranks", lambda python: (1, 2))
    config = config_of([], tmp_path)
    config.model.dtype = "bfloat16"
    chosen = delivery.choose(config, MODEL, tmp_path, "hash")
    assert (chosen.dtype, chosen.max_lora_rank) == ("float32", 0)
    assert "cannot serve adapters of rank 4: its servers get whole models in float32" in capsys.readouterr().err
    config.rollout.vllm.dtype = "bfloat16"
    with pytest.raises(ConfigError, match=r"rollout.vllm.dtype is 'bfloat16': set it to 'float32', or choose"):
        delivery.choose(config, MODEL, tmp_path, "hash")


def test_ranks_are_read_from_the_installed_source(tmp_path):
    python = tmp_path / "python"
    for text, ranks in (
        ("MaxLoRARanks = Literal[1, 16, 8]\n", (1, 8, 16)),
        ("nothing of the kind\n", ()),
        (None, ()),
    ):
        package = tmp_path / "vllm" / "config"
        package.mkdir(parents=True, exist_ok=True)
        (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('it takes many seconds')")
        (package / "lora.py").unlink(missing_ok=True)
        if text:
            (package / "lora.py").write_text(text)
        python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {json.dumps(vllm_command.sys.executable)} "$@"\n')
        python.chmod(0o755)
        assert vllm_command.adapter_ranks(str(python)) == ranks
    assert vllm_command.adapter_ranks("no/python") == ()


def test_an_adapter_that_is_there_already_is_not_loaded_again(tmp_path):
    with running() as servers:
        url = with_adapters(servers)[0].url
        delivery.write_zeros(tmp_path / "a", LORA, MODEL)
        for _ in range(2):
            vllm_client.load_adapter(url, "a", tmp_path / "a", 0)
        assert servers[0].asked.count("/v1/load_lora_adapter") == 1
        with pytest.raises(RolloutError, match="already been loaded"):  # under this name, but from another folder
            vllm_client.load_adapter(url, "a", tmp_path / "b", 0)
