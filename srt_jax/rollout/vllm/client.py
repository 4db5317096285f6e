"""The HTTP client of vLLM servers: token ids in, token ids and log-probs out. Spreads one request per prompt."""

import asyncio
import concurrent.futures
import dataclasses
import functools
import math
import os
import ssl
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import httpx2
import numpy as np

from srt_jax.errors import RolloutError, ServerGivenUpError
from srt_jax.log import logger
from srt_jax.rollout.sampler import Finished, Sampling
from srt_jax.rollout.vllm.command import MODEL_NAME

LOOK_SECONDS = 1.0  # between two looks for a request to stop
BASE_SECONDS = 60.0  # the constant part of every time limit; another part grows with the work
RELOAD_BYTES_PER_SECOND = 50e6  # a slower disk counts as hung
INITIAL_LABEL = "default"  # vLLM's label of the weights that a server started with


class Endpoint(Protocol):
    """A server: its name in messages, and its URL."""

    name: str
    url: str


class ServerFailedError(Exception):
    """A server gave no valid answer. Its work can be repeated."""


Recover = Callable[[Any, ServerFailedError], concurrent.futures.Future]


@dataclasses.dataclass(frozen=True)
class Responses:
    """The n responses to one prompt: for each its token ids [length], log-probs [length], and whether it stopped."""

    tokens: list[np.ndarray]
    logprobs: list[np.ndarray]
    stopped: list[bool]


@dataclasses.dataclass(frozen=True)
class Version:
    """The weights that must answer.

    name: the model in requests and answers, which is the adapter if there is one. label: the server's label of the
    weights that it last loaded as a whole.
    """

    name: str
    label: str


def completion(
    prompt: Sequence[int],
    n: int,
    sampling: Sampling,
    seed: int,
    stop_ids: Sequence[int],
    model: str = MODEL_NAME,
) -> dict:
    """The request for n responses. It sets every field that changes the distribution, so no server default applies.

    model: the name of an adapter, or of the model that the server started with.
    vLLM draws response i of a request from seed + i. Seeds are multiples of n, so that no two problems share one.
    """
    if sampling.temperature == 0:
        n = 1  # all would be equal, and vLLM allows only one
    return {
        "model": model,
        "prompt": [int(t) for t in prompt],
        "n": n,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_tokens": 0,
        "logit_bias": {},
        "watermarking": False,
        "seed": int(seed) % (2**63 // n) * n,
        "logprobs": 0,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "stop": [],
        "stop_token_ids": [int(i) for i in stop_ids],
        "ignore_eos": True,  # only the trainer's stop tokens end a response
        "skip_special_tokens": False,
    }


def read_completion(answer: dict, request: dict, n: int) -> Responses:
    """The n responses of an answer. Raises ServerFailedError if it is incomplete or does not match the request."""
    try:
        choices = sorted(answer["choices"], key=lambda c: c["index"])
        tokens = [np.asarray(c["token_ids"], np.int32) for c in choices]
        logprobs = [np.asarray(c["logprobs"]["token_logprobs"], np.float32) for c in choices]
        reasons = [c["finish_reason"] for c in choices]
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise ServerFailedError(f"an answer without token ids and log-probs ({type(e).__name__} {e})") from None
    longest = request["max_tokens"]
    whole = len(choices) == request["n"] and all(
        len(t) == len(p)
        and 0 < len(t) <= longest
        and np.isfinite(p).all()
        and (reason == "stop" or (reason == "length" and len(t) == longest))
        for t, p, reason in zip(tokens, logprobs, reasons)
    )
    if not whole:
        raise ServerFailedError(
            f"an incomplete answer ({len(choices)} of {request['n']} responses, {reasons} after "
            f"{[len(t) for t in tokens]} of {longest} tokens)"[:300]
        )
    copies = n // request["n"]  # the one response at temperature 0 counts n times
    return Responses(tokens * copies, logprobs * copies, [reason == "stop" for reason in reasons] * copies)


# ---- one server, one request at a time


def call(
    url: str,
    method: str,
    path: str,
    *,
    seconds: float = BASE_SECONDS,
    json: dict | None = None,
    params: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    answers_json: bool = True,
) -> dict:
    """The JSON answer of an endpoint, {} if it is empty. Raises RolloutError for a refusal, else ServerFailedError.

    answers_json: False for an endpoint that answers with a text, which is not returned.
    """
    try:
        with httpx2.Client(timeout=seconds, trust_env=False, verify=_tls()) as client:
            response = client.request(method, url + path, json=json, params=params, headers=headers)
            if answers_json:
                return _read(response)
            _check_status(response)
            return {}
    except httpx2.RequestError as e:
        raise ServerFailedError(f"{path}: {type(e).__name__} {e}".strip()) from None


def complete(url: str, request: dict, seconds: float = BASE_SECONDS) -> dict:
    """The answer to one completion request."""
    return call(url, "POST", "/v1/completions", seconds=seconds, json=request)


def score(url: str, sequences: np.ndarray, seconds: float, model: str, copy: int | None = None) -> np.ndarray:
    """log p of tokens 1 ... of each sequence, given those before: [B, S] -> [B, S - 1], at temperature 1.

    copy: the copy of the model that must score them, in a server with several (rollout.vllm.data_parallel).
    Raises ServerFailedError if the answer does not contain them, and RolloutError if another model answers.
    """
    request = completion(sequences[0], 1, Sampling(1), 0, (), model)
    request |= {"prompt": sequences.tolist(), "prompt_logprobs": 0}
    headers = {} if copy is None else {"X-data-parallel-rank": str(copy)}
    answer = call(url, "POST", "/v1/completions", seconds=seconds, json=request, headers=headers)
    check_model(url, answer, model)
    try:
        choices = sorted(answer["choices"], key=lambda c: c["index"])
        return np.asarray(
            [
                [at[str(token)]["logprob"] for at, token in zip(choice["prompt_logprobs"][1:], tokens[1:], strict=True)]
                for choice, tokens in zip(choices, sequences.tolist(), strict=True)
            ],
            np.float32,
        )
    except (KeyError, TypeError, ValueError) as e:
        raise ServerFailedError(f"an answer without the prompt's log-probs ({type(e).__name__} {e})") from None


def check_model(server: str, answer: dict, model: str) -> None:
    """Raises RolloutError unless this model gave the answer. A request that names the base samples from the base."""
    if (found := answer.get("model")) != model:
        raise RolloutError(f"{server} answers as the model {found!r}, not as {model!r}: its tokens have other weights.")


def version(url: str) -> str:
    """The label of the weights that a server serves. Raises ServerFailedError if its answer has none."""
    return _version_in(call(url, "GET", "/weight_info"))


def _version_in(answer: dict) -> str:
    try:
        return answer["weight_version"]
    except (KeyError, TypeError):
        raise ServerFailedError("/weight_info: an answer without weight_version") from None


def update_weights(url: str, directory: str | os.PathLike[str], label: str, num_bytes: int) -> None:
    """Makes a server load an export and sample from it, whether it was paused or not.

    Raises ServerFailedError if that fails. The server may then be paused, or have read a part of the export. Raises
    RolloutError if the server refuses.
    """
    # Nobody waits for requests that are still running. The pause also clears the caches of the old weights.
    call(url, "POST", "/pause", params={"mode": "abort", "clear_cache": "true"})
    call(
        url,
        "POST",
        "/collective_rpc",
        seconds=BASE_SECONDS + num_bytes / RELOAD_BYTES_PER_SECOND,
        json={"method": "reload_weights", "kwargs": {"weights_path": str(directory)}},
    )
    call(url, "POST", "/update_weight_version", json={"new_version": label})
    call(url, "POST", "/resume")


def adapters(url: str, seconds: float = BASE_SECONDS) -> dict[str, str]:
    """The adapters of a server: name -> directory. Raises ServerFailedError if its answer has no list of models."""
    try:
        models = call(url, "GET", "/v1/models", seconds=seconds)["data"]
        return {model["id"]: model["root"] for model in models if model.get("parent")}
    except (KeyError, TypeError, AttributeError):
        raise ServerFailedError("/v1/models: an answer without models") from None


def load_adapter(url: str, name: str, directory: str | os.PathLike[str], num_bytes: int) -> None:
    """Makes a server load a PEFT directory under a name. Raises ServerFailedError if it fails, RolloutError if refused.

    Each version needs its own name and directory: vLLM's prefix cache knows adapters by both, and would serve stale
    blocks. An adapter that has this name and directory already is not loaded again.
    """
    if adapters(url).get(name) != str(directory):
        seconds = BASE_SECONDS + num_bytes / RELOAD_BYTES_PER_SECOND
        request = {"lora_name": name, "lora_path": str(directory)}
        call(url, "POST", "/v1/load_lora_adapter", seconds=seconds, json=request, answers_json=False)


def unload_adapters(
    url: str, folder: str | os.PathLike[str], keep: str | None = None, seconds: float = BASE_SECONDS
) -> None:
    """Makes a server forget all adapters from directories in this folder, except the one with the name `keep`."""
    for name, directory in adapters(url, seconds).items():
        if name != keep and os.path.dirname(directory) == str(folder):
            request = {"lora_name": name}
            call(url, "POST", "/v1/unload_lora_adapter", seconds=seconds, json=request, answers_json=False)


def is_healthy(url: str, seconds: float, model: str = MODEL_NAME) -> bool:
    """Tells whether the server reports that it is healthy, and samples a token from the model within the time."""
    try:
        call(url, "GET", "/health", seconds=5)
        request = completion([0], 1, Sampling(1), 0, (), model)
        read_completion(complete(url, request, seconds), request, 1)
    except (ServerFailedError, RolloutError):
        return False
    return True


@functools.cache
def _tls() -> ssl.SSLContext:
    """Cached, because making it takes longer than a request."""
    return ssl.create_default_context()


def _check_status(response: httpx2.Response) -> None:
    if response.status_code >= 500:
        raise ServerFailedError(f"HTTP {response.status_code} {_reason(response)}")
    if response.status_code >= 400:
        raise RolloutError(f"{response.url} refused a request (HTTP {response.status_code}: {_reason(response)}).")


def _read(response: httpx2.Response) -> dict:
    _check_status(response)
    try:
        return response.json() if response.content else {}
    except ValueError:
        raise RolloutError(f"{response.url} answers with something that is not JSON.") from None


def _reason(response: httpx2.Response) -> str:
    return " ".join(response.text.split())[:300]


# ---- many requests


def sample(
    servers: Sequence[Endpoint],
    requests: list[dict],
    n: int,
    *,
    version: Version,
    seconds: float,
    concurrency: int,
    recover: Recover,
    waits: Callable[[], None],
    finished: Finished | None = None,
) -> list[Responses]:
    """The responses to every request, in order. A request is repeated until its answer is complete, and counts once.

    Each server works on at most `concurrency` requests at a time, and takes the next ones from a common queue. An
    answer counts only if it comes from the weights `version`, and the server still serves them after it. A reload of
    the whole model drops all running requests, so these weights sampled the whole answer. If a server fails or takes
    longer than `seconds`, its requests return to the queue, and recover(server, reason) starts its recovery and returns
    a future. `sample` returns only after all recoveries have ended, so the next requests go to tested servers.
    `finished(p, tokens, stopped)` is called in this thread as soon as request p is answered, and `waits()` at least
    every second. An exception in one of them ends the sampling; a recovery may then still be running.

    Raises RolloutError for other weights, and the error of `recover`, a ServerGivenUpError only if no server is left.
    """
    return asyncio.run(_sample(servers, requests, n, version, seconds, concurrency, recover, waits, finished))


async def _sample(
    servers: Sequence[Endpoint],
    requests: list[dict],
    n: int,
    version: Version,
    seconds: float,
    concurrency: int,
    recover: Recover,
    waits: Callable[[], None],
    finished: Finished | None,
) -> list[Responses]:
    waiting: asyncio.Queue[int] = asyncio.Queue()
    results: list[Any] = [None] * len(requests)
    for p in range(len(requests)):
        waiting.put_nowait(p)
    missing, recovering = set(range(len(requests))), set()
    complete = asyncio.Event()
    # Each server begins with its share at most. Otherwise the first one would take all requests.
    workers_per_server = max(1, min(concurrency, math.ceil(len(requests) / len(servers))))

    async def work(server: Endpoint, client: httpx2.AsyncClient) -> None:
        while True:
            p = await waiting.get()
            try:
                result = await _answer(server, client, requests[p], n, version, seconds)
            except BaseException:
                waiting.put_nowait(p)
                raise
            results[p] = result
            missing.remove(p)
            if finished:
                finished(p, result.tokens, result.stopped)
            if not missing:
                complete.set()

    async def serve(server: Endpoint) -> None:
        while True:
            limits = httpx2.Limits(max_connections=None)
            async with httpx2.AsyncClient(timeout=None, limits=limits, trust_env=False, verify=_tls()) as client:
                workers = [asyncio.create_task(work(server, client)) for _ in range(workers_per_server)]
                try:
                    await asyncio.gather(*workers)
                except ServerFailedError as e:
                    reason = e
                    recovering.add(server)  # at once: the other servers may answer all requests in the meantime
                finally:
                    await _cancel(workers)
            try:
                await asyncio.wrap_future(recover(server, reason))
            finally:
                recovering.remove(server)

    tasks = {asyncio.create_task(serve(server)) for server in servers}
    done = asyncio.create_task(complete.wait())
    try:
        while missing or recovering:
            waiting_for = {done, *tasks} if missing else tasks
            await asyncio.wait(waiting_for, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            waits()
            for task in [t for t in tasks if t.done()]:
                tasks.remove(task)
                _raise_unless_given_up(task, tasks)
    finally:
        await _cancel([done, *tasks])
    return results


async def _answer(
    server: Endpoint, client: httpx2.AsyncClient, request: dict, n: int, version: Version, seconds: float
) -> Responses:
    """The answer to one request from these weights. Raises ServerFailedError; RolloutError for other weights."""
    try:
        async with asyncio.timeout(seconds):
            response = await client.post(f"{server.url}/v1/completions", json=request)
            if response.status_code == 404:  # a server that was restarted does not know the adapter
                raise ServerFailedError(f"HTTP 404 {_reason(response)}")
            answer = _read(response)
            served = _version_in(_read(await client.get(f"{server.url}/weight_info")))
    except (TimeoutError, httpx2.RequestError) as e:
        raise ServerFailedError(f"{type(e).__name__} {e} after up to {seconds:.0f} s".strip()) from None
    check_model(server.name, answer, version.name)
    if served != version.label:
        raise RolloutError(
            f"{server.name} serves weights version {served!r}, not {version.label!r}: another program restarted or "
            "updated it."
        )
    return read_completion(answer, request, n)


def _raise_unless_given_up(task: asyncio.Task, others: Collection[asyncio.Task]) -> None:
    """Raises the error that ended a server's task. If the server was given up and others remain, it raises nothing."""
    error = task.exception()
    if isinstance(error, ServerGivenUpError) and others:
        logger.warning(f"continuing without it: {error}")
    else:
        raise error


async def _cancel(tasks: Sequence[asyncio.Task]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
