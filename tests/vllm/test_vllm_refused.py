"""Servers that were started without the flags that a trainer needs: each is refused, with the remedy."""

import json
import shutil

import pytest
from vllm_support import open_vllm_sampler, started, vllm_config

from srt_jax.errors import ConfigError
from srt_jax.rollout.vllm import server as vllm_server
from srt_jax.rollout.vllm.command import command, environment


def without(line, *flags):
    """A command line without these flags and their values."""
    kept = list(line)
    for flag in flags:
        at = kept.index(flag)
        del kept[at : at + 2]
    return kept


def outsiders_command(settings, kind, model, *rest):
    """As somebody would start it who has not read our documentation; the raw one at least has vLLM's own defaults."""
    flags = ("--logprobs-mode",) if model.name == "raw" else ("--generation-config",)
    return without(command(settings, kind, model, *rest), *flags)


def outsiders_environment(*arguments):
    """Without the endpoints to reload weights."""
    variables = environment(*arguments)
    del variables["VLLM_SERVER_DEV_MODE"]
    return variables


@pytest.fixture(scope="module")
def outsiders(miniature, tmp_path_factory):
    """Two servers: 'raw' returns log-probs from before the temperature, 'filled' fills in the model's own top_k."""
    folder = tmp_path_factory.mktemp("outsiders")
    for name in ("raw", "filled"):
        shutil.copytree(miniature, folder / name)
        config = folder / name / "generation_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "top_k": 3, "temperature": 0.6}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_server, "command", outsiders_command)
        patch.setattr(vllm_server, "environment", outsiders_environment)
        with started(folder, {name: folder / name for name in ("raw", "filled")}) as servers:
            patch.undo()
            yield servers


def test_a_server_without_reload_endpoints_is_refused_before_the_run_starts(outsiders, miniature, tmp_path):
    with pytest.raises(ConfigError, match=r"no endpoints to reload weights: start it with VLLM_SERVER_DEV_MODE=1"):
        open_vllm_sampler(vllm_config(miniature, tmp_path, "run", [outsiders["raw"].url]))


def test_a_server_with_raw_logprobs_is_refused(outsiders):
    with pytest.raises(ConfigError, match=r"before the temperature: start it with --logprobs-mode processed_logprobs"):
        vllm_server._check_sampling(outsiders["raw"].url)


def test_a_server_that_fills_in_sampling_fields_is_refused(outsiders):
    with pytest.raises(ConfigError, match=r"fills in sampling fields .* start it with --generation-config vllm"):
        vllm_server._check_sampling(outsiders["filled"].url)
