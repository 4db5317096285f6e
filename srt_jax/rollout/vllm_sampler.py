"""Rollouts from vLLM servers in other processes.

`load` is export -> pause -> reload -> resume on every server -> probe: the servers' log-probs of fixed token sequences
against the trainer's own. A wrong or stale weight ends the run there.
"""
import concurrent.futures
import hashlib
import json
import math
import os
import pathlib
import time

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from srt_jax.config import fingerprint_fields
from srt_jax.model import sharding
from srt_jax.model.logprobs import token_logprobs
from srt_jax.rollout import publish, vllm_client, vllm_server
from srt_jax.rollout.sampler import Finished, RolloutError, Rollouts, Sampling
from srt_jax.rollout.vllm_client import GivenUpError, ServerFailedError
from srt_jax.rollout.vllm_command import Settings

PROBE_SEQUENCES, PROBE_TOKENS = 8, 64
OVERCOMMIT = 1.5  # requests sent to a server, relative to what it decodes at a time: so that it never runs dry


class VLLMSampler:
    """Samples through HTTP from servers that are started here, or named by rollout.servers.

    `report` holds figures of the last load: seconds and bytes/s of the export, seconds of reload and probe, its gaps.
    """

    def __init__(self, config, model, graphdef, mesh, directory):
        """`model`: directory, hf_config, config and stop_ids of the initial model; `directory`: the run folder."""
        self._config, self._model, self._mesh = config, model, mesh
        self._max_model_len = config.batch.max_prompt_tokens + config.batch.max_response_tokens
        elsewhere = config.rollout.vllm.weights_directory
        self._directory = (
            pathlib.Path(elsewhere) / config.name if elsewhere else pathlib.Path(directory) / "weights").absolute()
        self._dtype = config.rollout.vllm.dtype or config.model.dtype
        fields = json.dumps(fingerprint_fields(config), sort_keys=True)
        self._config_hash = hashlib.sha256(fields.encode()).hexdigest()[:16]
        self._score = _make_score(graphdef, mesh)
        self._servers = self._make_servers(pathlib.Path(directory)) if jax.process_index() == 0 else []
        self._published = self._sequences = self._expected = None
        self.report = {}

    def load(self, params, version: int) -> None:
        """Publishes the weights and has every server serve them; the first time starts, or checks, the servers.

        Raises RolloutError where they do not get there, ConfigError for servers elsewhere that do not fit the run.
        """
        published = publish.publish(params, version, self._directory, self._model.hf_config, self._dtype,
                                    self._model.directory, self._config_hash)
        first, self._published = self._published is None, published
        start = time.perf_counter()
        self._on_first_process(lambda: self._serve(first))
        reloaded = time.perf_counter()
        if first:
            self._sequences = self._sample_sequences()
        self._expected = np.asarray(self._score(params, sharding.place(self._sequences, sharding.by_rows(self._mesh))))
        gaps = self._on_first_process(lambda: [self._probe(server) for server in self._servers]) or [(0.0, 0.0)]
        self.report = {
            "publish/seconds": published.seconds,
            "publish/bytes_per_second": published.bytes / published.seconds,
            "publish/reload_seconds": reloaded - start,
            "publish/probe_seconds": time.perf_counter() - reloaded,
            "publish/probe_gap_mean": max(gap for gap, _ in gaps),
            "publish/probe_gap_max": max(gap for _, gap in gaps),
        }
        if jax.process_index() == 0:
            publish.prune(self._directory, self._config.rollout.vllm.keep)

    def generate(self, prompts, n: int, sampling: Sampling, seeds, finished: Finished | None = None) -> Rollouts:
        """Rollouts in the order of the prompts. Raises RolloutError where no server is left, or one serves others."""
        tokens = np.zeros((len(prompts), n, sampling.max_tokens), np.int32)
        logprobs = np.zeros(tokens.shape, np.float32)
        lengths, stopped = np.zeros(tokens.shape[:2], np.int32), np.zeros(tokens.shape[:2], bool)
        if jax.process_index() == 0:
            for p, responses in enumerate(self._ask(prompts, n, sampling, seeds, finished)):
                for i, (ids, values) in enumerate(zip(responses.tokens, responses.logprobs)):
                    tokens[p, i, :len(ids)], logprobs[p, i, :len(ids)], lengths[p, i] = ids, values, len(ids)
                stopped[p] = responses.stopped
        if jax.process_count() > 1:
            tokens, lengths, logprobs, stopped = map(np.asarray, multihost_utils.broadcast_one_to_all(
                (tokens, lengths, logprobs, stopped)))
        rollouts = Rollouts([list(p) for p in prompts], tokens, lengths, logprobs, stopped, self._published.step)
        if finished and jax.process_index():
            for p, responses in enumerate(rollouts.responses()):
                finished(p, responses)
        return rollouts

    def close(self) -> None:
        """Stops the servers that were started here."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda server: server.stop(), self._servers))

    # ---- servers

    def _make_servers(self, run_directory: pathlib.Path) -> list:
        settings = self._config.rollout.vllm
        limits = dict(start_seconds=settings.start_seconds, max_restarts=settings.max_restarts)
        if self._config.rollout.servers:
            return [vllm_server.Attached(url, **limits) for url in self._config.rollout.servers]
        shared = Settings(settings.python, self._dtype, self._max_model_len, settings.max_sequences,
                          settings.memory_fraction, max(1, (os.cpu_count() or 1) // settings.num_servers))
        gpus = settings.gpus or [None] * settings.num_servers
        return [vllm_server.Server(f"vLLM server {i}", shared, run_directory / "vllm" / f"server_{i}.log", **limits,
                                   gpu=gpus[i], seed=i) for i in range(settings.num_servers)]

    def _serve(self, first: bool) -> None:
        """Every server serves the published weights."""
        publish.verify(self._published.path)
        if first:
            for server in self._servers:
                server.start(self._published.path)
            for server in self._servers:
                server.wait()
                vllm_server.check(server.url, self._model.config, self._max_model_len)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            given_up = list(pool.map(self._update, self._servers))
        if all(given_up):
            raise given_up[0]
        for error in filter(None, given_up):
            print(f"going on without it: {error}", flush=True)
        self._servers = [server for server, error in zip(self._servers, given_up) if not error]

    def _update(self, server) -> GivenUpError | None:
        try:
            vllm_client.update_weights(server.url, self._published.path, self._published.step, self._published.bytes)
        except ServerFailedError as e:
            try:
                self._recover(server, e, probe=False)
            except GivenUpError as e:
                return e
        return None

    def _recover(self, server, reason, probe: bool = True) -> None:
        """Brings a server back with the published weights. Raises RolloutError where it cannot be."""
        while True:
            try:
                publish.verify(self._published.path)
            except publish.ExportError as e:
                raise RolloutError(
                    f"{server.name} failed ({reason}), and the export to restart it from is damaged: {e}") from None
            server.restart(self._published.path, reason)
            try:
                vllm_client.update_weights(
                    server.url, self._published.path, self._published.step, self._published.bytes)
                if probe:
                    self._probe(server)
                return
            except ServerFailedError as e:
                reason = e

    def _ask(self, prompts, n, sampling, seeds, finished):
        requests = [vllm_client.completion(prompt, n, sampling, seed, self._model.stop_ids)
                    for prompt, seed in zip(prompts, seeds)]
        settings = self._config.rollout.vllm
        self._check_versions()
        responses = vllm_client.sample(
            self._servers, requests, n, finished=finished, recover=self._recover,
            seconds=vllm_client.BASE_SECONDS + settings.seconds_per_token * sampling.max_tokens,
            concurrency=max(1, math.ceil(OVERCOMMIT * settings.max_sequences / n)))
        self._check_versions()
        return responses

    def _check_versions(self) -> None:
        """Raises RolloutError where a server that answers serves other weights than the published ones."""
        for server in self._servers:
            try:
                served = vllm_client.version(server.url)
            except ServerFailedError:
                continue  # sampling finds out, and recovers it
            if served != str(self._published.step):
                raise RolloutError(
                    f"{server.name} serves weights version {served!r}, not {self._published.step}: somebody else "
                    "restarted or updated it.")

    # ---- probe

    def _sample_sequences(self) -> np.ndarray:
        """[B, S] token sequences that the first weights sampled: likely ones, so that rounding stays small."""
        rows = math.lcm(PROBE_SEQUENCES, sharding.num_row_shards(self._mesh))
        length = min(PROBE_TOKENS, self._max_model_len - 1)
        sequences = np.zeros((rows, length), np.int32)
        if jax.process_index() == 0:
            first = self._model.stop_ids[0]
            request = vllm_client.completion([first], PROBE_SEQUENCES, Sampling(length - 1), 0, ())
            answer = vllm_client.complete(self._servers[0].url, request, self._config.rollout.vllm.start_seconds)
            sampled = np.stack(vllm_client.read_completion(answer, PROBE_SEQUENCES).tokens)
            sampled = np.pad(sampled, ((0, 0), (1, 0)), constant_values=first)
            sequences = np.resize(sampled, sequences.shape)
        return multihost_utils.broadcast_one_to_all(sequences) if jax.process_count() > 1 else sequences

    def _probe(self, server) -> tuple[float, float]:
        """(mean, max) |log-prob difference| between server and trainer. Raises RolloutError where it is too large."""
        found = vllm_client.score(server.url, self._sequences[:PROBE_SEQUENCES])
        expected = self._expected[:PROBE_SEQUENCES]
        gap, limit = np.abs(found - expected), self._config.rollout.max_logprob_gap
        if not gap.mean() <= limit:
            raise RolloutError(
                f"{server.name} does not serve the weights of step {self._published.step}: to the probe's tokens it "
                f"gives a mean log-prob of {found.mean():.4f}, the trainer {expected.mean():.4f}, a mean gap of "
                f"{gap.mean():.4f} where rollout.max_logprob_gap is {limit}; look for another model, dtype or a failed "
                "reload in its log.")
        return float(gap.mean()), float(gap.max())

    def _on_first_process(self, function):
        """Its result there; the other processes wait."""
        result = function() if jax.process_index() == 0 else None
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("vllm")
        return result


def _make_score(graphdef, mesh):
    """score(params, tokens [B, S]) -> log-probs [B, S - 1] of all but the first, as the trainer computes them."""
    def score(params, tokens):
        model = nnx.merge(graphdef, params)
        return token_logprobs(model(tokens)[:, :-1], model.head_weights(), tokens[:, 1:], mesh=mesh)[0]

    return jax.jit(score, out_shardings=sharding.replicated(mesh))
