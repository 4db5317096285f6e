"""Rollouts from vLLM servers in other processes.

`load` exports the weights, then makes every server sample from them (delivery.py). At last a probe compares the
servers' log-probs of fixed token sequences with the trainer's. Wrong or stale weights end the run.

In a run of several trainer processes, only the first one starts servers and sends requests. All of them gather the
weights for an export and score the probe, and all get the rollouts, or the exception that ended the work.
"""

import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import math
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from srt_jax.config import fingerprint_fields
from srt_jax.errors import ConfigError, ExportError, RolloutError, ServerGivenUpError
from srt_jax.log import logger
from srt_jax.model import sharding
from srt_jax.model.logprobs import token_logprobs
from srt_jax.rollout.sampler import Advanced, Finished, Rollouts, Sampling
from srt_jax.rollout.vllm import client as vllm_client
from srt_jax.rollout.vllm import delivery
from srt_jax.rollout.vllm import export as vllm_export
from srt_jax.rollout.vllm import server as vllm_server
from srt_jax.rollout.vllm.client import ServerFailedError
from srt_jax.rollout.vllm.command import Settings
from srt_jax.rollout.vllm.delivery import InitialModel
from srt_jax.rollout.vllm.server import Attached, Server
from srt_jax.runtime import is_first_process, processes

PROBE_SEQUENCES, PROBE_TOKENS = 8, 64
OVERCOMMIT = 1.5  # sequences requested from a server / sequences that it decodes at a time
SPARED = 3  # failed requests of a healthy server between two loads that cause no restart
WELL_SECONDS = 20.0  # a healthy server samples a token within this time


class VLLMSampler:
    """Samples through HTTP from servers that it starts, or from those of rollout.servers.

    `report` has measurements of the last load: seconds and bytes/s of the export, seconds of reload and probe, and the
    mean and largest difference of log-probs in the probe.
    """

    def __init__(
        self, config: ConfigDict, model: InitialModel, graphdef: nnx.GraphDef, mesh: Mesh, directory: pathlib.Path
    ) -> None:
        """model: the initial model. directory: the run folder.

        Raises ConfigError for mistakes that can be found without weights: vLLM is not installed, or no vLLM server is
        at a URL of rollout.servers.
        """
        self._config, self._model, self._mesh = config, model, mesh
        self._max_model_len = config.batch.max_prompt_tokens + config.batch.max_response_tokens
        self.exports = exports_folder(config, pathlib.Path(directory).absolute())
        fields = json.dumps(fingerprint_fields(config), sort_keys=True)
        config_hash = hashlib.sha256(fields.encode()).hexdigest()[:16]
        self._delivery = delivery.choose(config, model, self.exports, config_hash)
        self._score = _make_score(graphdef, mesh)
        self._servers: list = []  # empty in all processes but the first
        processes.from_first(lambda: self._open_servers(pathlib.Path(directory)))
        self._published: vllm_export.Published | None = None
        self._sequences: Any = None
        self._expected: np.ndarray | None = None
        self._probed = {}  # by server and copy: tensors' checksum, trainer's and server's log-probs of the last probe
        self._spared = collections.Counter()
        self._under_way, self._closed = [], threading.Event()
        self.report = {}

    def load(self, params: nnx.State, version: int, waits: Callable[[], None] | None = None) -> None:
        """Exports the weights and makes every server serve them. The first call also starts or checks the servers.

        Raises RolloutError if that fails, and ConfigError if a server of rollout.servers does not fit the run.
        """
        waits = waits or (lambda: None)
        published = self._delivery.publish(params, version)
        first, self._published = self._published is None, published
        start = time.perf_counter()

        def serve(report: processes.Report) -> np.ndarray:
            waiting = functools.partial(report, 0.0, 0)
            self._serve(first, waiting)
            return self._for_each(self._sample_sequences, waiting)[0] if first else self._sequences

        self._sequences = processes.led_by_first(serve, lambda *_: waits())
        reloaded = time.perf_counter()
        sequences = sharding.place(self._sequences, sharding.by_rows(self._mesh))
        self._expected = jax.device_get(self._score(params, sequences))

        def probe(report: processes.Report) -> list[tuple[float, float]]:
            return self._for_each(self._probe, functools.partial(report, 0.0, 0))

        gaps = processes.led_by_first(probe, lambda *_: waits())
        self.report = {
            "publish/seconds": published.seconds,
            "publish/bytes_per_second": published.bytes / published.seconds,
            "publish/reload_seconds": reloaded - start,
            "publish/probe_seconds": time.perf_counter() - reloaded,
            "publish/probe_gap_mean": max(gap for gap, _ in gaps),
            "publish/probe_gap_max": max(gap for _, gap in gaps),
        }
        processes.from_first(lambda: vllm_export.prune(self.exports, self._config.rollout.vllm.keep))

    def compile(self, *_: object) -> None:
        """The servers compile when they start."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seeds: Sequence[int] | np.ndarray,
        finished: Finished | None = None,
        advanced: Advanced | None = None,
    ) -> Rollouts:
        """Rollouts in the order of the prompts. Calls `advanced` every second, also while no server answers.

        `finished` is called in the first process only, `advanced` in all.

        Raises RolloutError if no server is left, or one serves other weights.
        """

        def draw(report: processes.Report) -> Rollouts:
            return self._draw(prompts, n, sampling, seeds, _Counted(finished, report, len(prompts)))

        return processes.led_by_first(draw, advanced or (lambda *_: None))

    def close(self) -> None:
        """Stops the servers that were started here, and removes exports outside of the run folder.

        A `generate` in another thread soon raises RolloutError.
        """
        self._closed.set()
        stopping = True
        while stopping:  # a server that is being restarted may still start
            with concurrent.futures.ThreadPoolExecutor() as pool:
                list(pool.map(lambda server: server.stop(), self._servers))
            stopping = concurrent.futures.wait(self._under_way, vllm_client.LOOK_SECONDS).not_done
        for server in self._servers:
            server.stop()
            if server.attached:
                with contextlib.suppress(ServerFailedError, RolloutError):
                    self._delivery.withdraw(server.url)
        if self._config.rollout.vllm.weights_directory and is_first_process():
            shutil.rmtree(self.exports, ignore_errors=True)

    # ---- servers

    def _open_servers(self, run_directory: pathlib.Path) -> None:
        self._servers = self._make_servers(run_directory)

    def _make_servers(self, run_directory: pathlib.Path) -> list:
        settings = self._config.rollout.vllm
        limits = dict(start_seconds=settings.start_seconds, max_restarts=settings.max_restarts)
        if self._config.rollout.servers:
            servers = [vllm_server.Attached(url, **limits) for url in self._config.rollout.servers]
            for server in servers:
                if server.answers():  # otherwise it may still be starting; the first load waits for it
                    self._check(server)
            return servers
        heads, parts = self._model.config.num_heads, settings.tensor_parallel
        if heads % parts:
            raise ConfigError(
                f"rollout.vllm.tensor_parallel is {parts}, which does not divide the {heads} attention heads of the "
                "model: choose a divisor."
            )
        shared = Settings(
            settings.python,
            self._delivery.dtype,
            self._max_model_len,
            settings.max_sequences,
            settings.memory_fraction,
            max(1, (os.cpu_count() or 1) // settings.num_servers),
            self._delivery.max_lora_rank,
            settings.tensor_parallel,
            settings.data_parallel,
            max_loras=2 + self._config.rollout.steps_ahead,
        )
        each = settings.tensor_parallel * settings.data_parallel
        gpus = [settings.gpus[i * each : (i + 1) * each] for i in range(settings.num_servers)]
        servers = [
            vllm_server.Server(
                f"vLLM server {i}", shared, run_directory / "vllm" / f"server_{i}.log", **limits, gpus=gpus[i], seed=i
            )
            for i in range(settings.num_servers)
        ]
        if len(servers) > 1 and not settings.gpus and servers[0].kind == "vllm":
            raise ConfigError(
                f"rollout.vllm.gpus is (), so that all {len(servers)} rollout.vllm.num_servers would "
                "take the same GPUs: give those of each, e.g. (4, 5)."
            )
        return servers

    def _serve(self, first: bool, waits: Callable[[], None]) -> None:
        """Makes every server serve the published weights."""
        vllm_export.verify(self._published.path)
        self._spared.clear()
        if first:
            for server in self._servers:
                server.start(self._published.served_from)
                if not server.attached:
                    logger.info(f"{server.name} starts, which takes a minute or more; its log is {server.log}")
            self._for_each(self._wait_for_start, waits)
        self._for_each(self._update, waits)
        if first:
            self._for_each(self._check_answers, waits)

    def _wait_for_start(self, server: Server | Attached) -> None:
        try:
            server.wait()
        except ServerFailedError as e:  # a server that never ran is not restarted
            raise RolloutError(str(e)) from None
        self._check(server)

    def _check(self, server: Server | Attached) -> None:
        if server.attached:
            vllm_server.check(server.url, self._model.config, self._max_model_len)
            self._delivery.check(server.url)

    def _check_answers(self, server: Server | Attached) -> None:
        if server.attached:
            vllm_server.check_answers(server.url, self._model.config.vocab_size)

    def _update(self, server: Server | Attached) -> None:
        self._delivery.deliver(server.url, self._published)

    def _for_each(self, work: Callable, waits: Callable[[], None]) -> list:
        """Runs work(server) for all servers at once. Servers that are given up are not used again.

        Calls `waits()` every second; an exception in it leaves the work to `close`.

        Raises RolloutError if none is left.
        """
        futures, results, left = [self._submit(self._attempt, server, work) for server in self._servers], [], []
        while concurrent.futures.wait(futures, vllm_client.LOOK_SECONDS).not_done:
            waits()
        for server, future in zip(self._servers, futures):
            try:
                results.append(future.result())
                left.append(server)
            except ServerGivenUpError as e:
                error = e
                logger.warning(f"continuing without it: {error}")
        if not left:
            raise error
        self._servers = left
        return results

    def _submit(self, work: Callable, server: Server | Attached, *arguments: Any) -> concurrent.futures.Future:
        """Runs work(server, ...) in a thread.

        `close` waits for it if the server is its own: a request ends when its server is killed. A request to an
        attached server that hangs may take minutes, and its thread must not delay the end of the process.
        """
        if self._closed.is_set():
            raise RolloutError("the sampler is closed.")
        future: concurrent.futures.Future = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(work(server, *arguments))
            except BaseException as e:  # the thread that waits for the future raises it
                future.set_exception(e)

        if not server.attached:
            self._under_way = [*(f for f in self._under_way if not f.done()), future]
        threading.Thread(target=run, name=f"work with {server.name}", daemon=True).start()
        return future

    def _attempt(self, server: Server | Attached, work: Callable, reason: Exception | None = None) -> object:
        """Runs work(server). Restarts the server with the exported weights if it fails, or has failed for `reason`.

        Raises ServerGivenUpError if restarts do not help. Other errors than ServerFailedError pass through.
        """
        while True:
            if self._closed.is_set():
                raise RolloutError("the sampler is closed.")
            try:
                if reason:
                    self._bring_back(server, reason)
                return work(server)
            except ServerFailedError as e:
                reason = e

    def _bring_back(self, server: Server | Attached, reason: Exception) -> None:
        try:
            vllm_export.verify(self._published.path)
        except ExportError as e:
            raise RolloutError(
                f"{server.name} failed ({reason}), and the export to restart it from is damaged: {e}"
            ) from None
        server.restart(self._published.served_from, reason)
        try:
            self._check(server)
            self._update(server)
            self._check_answers(server)
        except ConfigError as e:  # another server was started at this URL
            raise ServerGivenUpError(f"{server.name} failed ({reason}) and came back unfit: {e}") from None

    # ---- samples

    def _draw(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seeds: Sequence[int] | np.ndarray,
        counted: "_Counted",
    ) -> Rollouts:
        """`generate`, in the process that speaks to the servers."""
        published, settings = self._published, self._config.rollout.vllm
        requests = [
            vllm_client.completion(prompt, n, sampling, seed, self._model.stop_ids, published.version.name)
            for prompt, seed in zip(prompts, seeds)
        ]

        def waits() -> None:
            if self._closed.is_set():
                raise RolloutError("the sampler was closed while it sampled.")
            counted.report()

        answers = vllm_client.sample(
            self._servers,
            requests,
            n,
            version=published.version,
            finished=counted.finished,
            waits=waits,
            recover=lambda server, reason: self._submit(self._recover, server, reason),
            seconds=vllm_client.BASE_SECONDS + settings.seconds_per_token * sampling.max_tokens,
            concurrency=max(1, math.ceil(OVERCOMMIT * settings.max_sequences * settings.data_parallel / n)),
        )
        tokens = np.zeros((len(prompts), n, sampling.max_tokens), np.int32)
        logprobs = np.zeros(tokens.shape, np.float32)
        lengths, stopped = np.zeros(tokens.shape[:2], np.int32), np.zeros(tokens.shape[:2], bool)
        for p, responses in enumerate(answers):
            for i, (ids, values) in enumerate(zip(responses.tokens, responses.logprobs)):
                tokens[p, i, : len(ids)], logprobs[p, i, : len(ids)], lengths[p, i] = ids, values, len(ids)
            stopped[p] = responses.stopped
        return Rollouts([list(p) for p in prompts], tokens, lengths, logprobs, stopped, published.step)

    def _recover(self, server: Server | Attached, reason: Exception) -> None:
        """Makes a server ready to sample again after a failed request. Raises RolloutError if that fails."""
        if self._spared[server.name] < SPARED and self._is_well(server):  # e.g. a dropped connection
            self._spared[server.name] += 1
            logger.warning(f"{server.name} failed ({reason}), but is healthy: its requests are repeated")
        else:
            self._attempt(server, self._probe, reason)

    def _is_well(self, server: Server | Attached) -> bool:
        try:
            return (
                vllm_client.is_healthy(server.url, WELL_SECONDS, self._published.version.name)
                and vllm_client.version(server.url) == self._published.version.label
            )
        except (ServerFailedError, RolloutError):
            return False

    # ---- probe

    def _sample_sequences(self, server: Server | Attached) -> np.ndarray:
        """[B, S] token sequences, sampled from the first weights. Likely tokens keep the rounding errors small."""
        rows = math.lcm(PROBE_SEQUENCES, sharding.num_row_shards(self._mesh))
        length = min(PROBE_TOKENS, self._max_model_len - 1)
        first = self._model.stop_ids[0]
        name = self._published.version.name
        request = vllm_client.completion([first], PROBE_SEQUENCES, Sampling(length - 1), 0, (), name)
        answer = vllm_client.complete(server.url, request, self._config.rollout.vllm.start_seconds)
        sampled = np.stack(vllm_client.read_completion(answer, request, PROBE_SEQUENCES).tokens)
        sampled = np.pad(sampled, ((0, 0), (1, 0)), constant_values=first)
        return np.resize(sampled, (rows, length)).astype(np.int32)

    def _probe(self, server: Server | Attached) -> tuple[float, float]:
        """(mean, max) |log-prob difference| between server and trainer, of the worst copy of the model in the server.

        Raises RolloutError as `_probe_copy`.
        """
        copies = self._config.rollout.vllm.data_parallel
        gaps = [self._probe_copy(server, copy) for copy in (range(copies) if copies > 1 else [None])]
        return max(mean for mean, _ in gaps), max(largest for _, largest in gaps)

    def _probe_copy(self, server: Server | Attached, copy: int | None) -> tuple[float, float]:
        """`_probe` of one copy; None: of the only one.

        Raises RolloutError if it is too large, or if the server's log-probs are unchanged after the weights changed.
        """
        sequences, expected = self._sequences[:PROBE_SEQUENCES], self._expected[:PROBE_SEQUENCES]
        found = vllm_client.score(
            server.url,
            sequences,
            vllm_client.BASE_SECONDS + self._config.rollout.vllm.seconds_per_token * sequences.shape[1],
            self._published.version.name,
            copy,
        )
        gap, limit = np.abs(found - expected), self._config.rollout.max_logprob_gap
        if not gap.mean() <= limit:
            raise RolloutError(
                f"{server.name} does not serve the weights of step {self._published.step}: the mean log-prob of the "
                f"probe's tokens is {found.mean():.4f} there and {expected.mean():.4f} in the trainer, the mean gap is "
                f"{gap.mean():.4f}, and rollout.max_logprob_gap is {limit}; look in its log for another model, another "
                "dtype or a failed reload."
            )
        key, unknown = (server.name, copy), (self._published.tensors, None, None)
        tensors, expected_before, found_before = self._probed.get(key, unknown)
        # An update may be too small for the limit above. But if it changed most of the trainer's log-probs, it must
        # change at least one of the server's hundreds.
        if (
            tensors != self._published.tensors
            and np.array_equal(found, found_before)
            and (expected != expected_before).mean() > 0.5
        ):
            raise RolloutError(
                f"{server.name} still serves the weights before those of step {self._published.step}: its log-probs of "
                "the probe's tokens are the same to the last bit; look for a failed reload in its log."
            )
        self._probed[key] = self._published.tensors, expected, found
        return float(gap.mean()), float(gap.max())


def exports_folder(config: ConfigDict, directory: pathlib.Path) -> pathlib.Path:
    """The folder for the exports of a run with this folder. No two runs share one, even if they have the same name."""
    if elsewhere := config.rollout.vllm.weights_directory:
        mark = hashlib.sha256(str(directory).encode()).hexdigest()[:8]
        return pathlib.Path(elsewhere).absolute() / f"{config.name}-{mark}"
    return directory / "weights"


def _make_score(graphdef: nnx.GraphDef, mesh: Mesh) -> Callable[[nnx.State, jax.Array], jax.Array]:
    """score(params, tokens [B, S]) -> log-probs [B, S - 1] of all but the first, as the trainer computes them."""

    def score(params: nnx.State, tokens: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, params)
        return token_logprobs(model(tokens)[:, :-1], model.head_weights(), tokens[:, 1:], mesh=mesh)[0]

    return jax.jit(score, out_shardings=sharding.replicated(mesh))


class _Counted:
    """Counts the finished prompts and their tokens for `advanced`."""

    def __init__(self, finished: Finished | None, advanced: Advanced, prompts: int) -> None:
        self._finished, self._advanced, self._prompts = finished, advanced, prompts
        self._done, self._tokens = 0, 0

    def finished(self, p: int, responses: Sequence[np.ndarray], stopped: Sequence[bool]) -> None:
        """Takes note of prompt p, and passes it on."""
        self._done, self._tokens = self._done + 1, self._tokens + sum(len(response) for response in responses)
        if self._finished:
            self._finished(p, responses, stopped)
        self.report()

    def report(self) -> None:
        """Calls `advanced` with the share of finished prompts and the number of tokens. It may raise, to end it all."""
        self._advanced(self._done / self._prompts, self._tokens)
