"""vLLM servers in processes of their own: started, watched, restarted and stopped here, or attached by URL."""
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

from srt_jax.config import ConfigError
from srt_jax.model.config import ModelConfig, ModelError, read_hf_config
from srt_jax.rollout import vllm_client
from srt_jax.rollout.sampler import RolloutError, Sampling
from srt_jax.rollout.vllm_client import GivenUpError, ServerFailedError
from srt_jax.rollout.vllm_command import HOST, ServerSetupError, Settings, command, environment, free_port, package

GUARD = pathlib.Path(__file__).with_name("guard.py")
STOP_SECONDS = 10.0
PORT_TRIES = 3
BY_SCRIPT = "start it by launch/vllm_server.sh, which sets all that a trainer needs"


class Server:
    """A server process of this run. Nothing of it outlives this process, however that ends (rollout/guard.py)."""

    def __init__(self, name: str, settings: Settings, log: pathlib.Path, *, start_seconds: float, max_restarts: int,
                 gpu: int | None = None, seed: int = 0, choose_port=free_port):
        self.name, self.log, self.process, self.url = name, log, None, ""
        self._settings, self._gpu, self._seed, self._choose_port = settings, gpu, seed, choose_port
        self._start_seconds, self._max_restarts, self._restarts = start_seconds, max_restarts, 0
        try:
            self._kind = package(settings.python)
        except ServerSetupError as e:
            raise ConfigError(str(e)) from None
        self._model, self._log_from, self._deadline = None, 0, 0.0

    def start(self, model) -> None:
        """Starts it on a Hugging Face directory; `wait` tells when it can be used."""
        self._model = model
        port = self._choose_port()
        self.url = f"http://{HOST}:{port}"
        line = command(self._settings, self._kind, model, port, self._seed)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            log.write(f"\n==== {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(line)}\n".encode())
            log.flush()
            self._log_from = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), *line], stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, env=environment(self._settings, self._kind, self._gpu),
                start_new_session=True)
        self._deadline = time.monotonic() + self._start_seconds

    def wait(self) -> None:
        """Returns once it samples. Raises GivenUpError where it ended, or took longer than start_seconds."""
        tries = 1
        while not vllm_client.is_healthy(self.url, max(5.0, self._deadline - time.monotonic())):
            if self.process.poll() is not None:
                if self._port_was_taken() and tries < PORT_TRIES:  # by another program, after it was found free
                    tries += 1
                    self.start(self._model)
                    continue
                raise GivenUpError(f"{self.name} ended while it started ({self._last_error()}): look at {self.log}.")
            if time.monotonic() > self._deadline:
                self.stop(0)
                raise GivenUpError(f"{self.name} did not answer within {self._start_seconds:.0f} s: look at "
                                   f"{self.log}, or raise rollout.vllm.start_seconds.")
            time.sleep(0.5)

    def restart(self, model, reason) -> None:
        """Ends what is left of it and starts it anew. Raises GivenUpError after too many restarts."""
        self.stop(0)
        if self._restarts >= self._max_restarts:
            raise GivenUpError(
                f"{self.name} failed again ({reason}) after {self._restarts} restarts (rollout.vllm.max_restarts): "
                f"look at {self.log}.")
        self._restarts += 1
        print(f"{self.name} failed ({reason}): restart {self._restarts} of {self._max_restarts}", flush=True)
        self.start(model)
        self.wait()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Ends the whole process group: politely if it may take that long, then for good."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if seconds and self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(seconds)
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.process = None

    def _tail(self) -> str:
        with open(self.log, "rb") as log:
            log.seek(self._log_from)
            return log.read().decode(errors="replace")

    def _port_was_taken(self) -> bool:
        return "address already in use" in self._tail().lower()

    def _last_error(self) -> str:
        lines = [line.strip() for line in self._tail().splitlines() if "Error" in line]
        return lines[-1][-300:] if lines else "it wrote no error"


class Attached:
    """A server that was started elsewhere: it is checked, used, and never started or stopped."""

    def __init__(self, url: str, *, start_seconds: float, max_restarts: int):
        self.name = self.url = url.rstrip("/")
        self._start_seconds, self._left, self._deadline = start_seconds, max_restarts, 0.0

    def start(self, model) -> None:
        """It was started elsewhere, perhaps just now."""
        self._deadline = time.monotonic() + self._start_seconds

    def wait(self) -> None:
        """Returns once it answers, whoever it is. Raises ConfigError where nobody does within start_seconds."""
        while True:
            try:
                vllm_client.call(self.url, "GET", "/v1/models", seconds=10)
            except ServerFailedError as e:
                if time.monotonic() > self._deadline:
                    raise ConfigError(f"rollout.servers: nobody answers at {self.url} ({e}): correct the URL, or "
                                      f"{BY_SCRIPT}.") from None
                time.sleep(1.0)
            except RolloutError:
                return
            else:
                return

    def restart(self, model, reason) -> None:
        """Waits until it says that it is well. Raises GivenUpError where it fails too often, or stays away."""
        if self._left <= 0:
            raise GivenUpError(f"{self.url} failed too often ({reason}; rollout.vllm.max_restarts).")
        self._left -= 1
        print(f"{self.url} failed ({reason}): waiting for it", flush=True)
        deadline = time.monotonic() + self._start_seconds
        while True:
            try:
                vllm_client.call(self.url, "GET", "/health", seconds=5)
                return
            except ServerFailedError:
                if time.monotonic() > deadline:
                    raise GivenUpError(f"{self.url} failed ({reason}) and did not come back: start it again.") from None
                time.sleep(1.0)

    def stop(self, seconds: float = 0) -> None:
        """It goes on without us."""


def check(url: str, model: ModelConfig, max_model_len: int) -> None:
    """Raises ConfigError, with the remedy, for what cannot serve the rollouts of this run."""
    served = _models(url)
    name, length = served.get("id"), served.get("max_model_len") or 0
    if name != vllm_client.MODEL_NAME:
        raise ConfigError(f"rollout.servers: {url} serves a model named {name!r}, not {vllm_client.MODEL_NAME!r}: "
                          f"{BY_SCRIPT}.")
    if length < max_model_len:
        raise ConfigError(f"rollout.servers: {url} takes {length} tokens, but batch.max_prompt_tokens + "
                          f"batch.max_response_tokens is {max_model_len}: start it with that --max_model_len.")
    _check_model(url, served.get("root") or "", model)
    _check_endpoints(url)
    _check_sampling(url)


def _models(url: str) -> dict:
    try:
        served = vllm_client.call(url, "GET", "/v1/models", seconds=10)["data"][0]
        if served["owned_by"] != "vllm":
            raise KeyError("owned_by")
        return served
    except (ServerFailedError, RolloutError, LookupError, TypeError) as e:
        raise ConfigError(f"rollout.servers: {url} is no vLLM server ({e}): correct the URL, or {BY_SCRIPT}.") from None


def _check_model(url: str, root: str, model: ModelConfig) -> None:
    """By its vocabulary, and where its folder can be read, by its config.json."""
    remedy = "start it with the model of this run (model.path)"
    for token, known in ((model.vocab_size - 1, True), (model.vocab_size, False)):
        request = vllm_client.completion([token], 1, Sampling(1), 0, ())
        try:
            vllm_client.complete(url, request)
            accepted = True
        except RolloutError:
            accepted = False
        if accepted != known:
            raise ConfigError(f"rollout.servers: {url} serves another vocabulary than the {model.vocab_size} tokens of "
                              f"model.path ({'refuses' if known else 'knows'} token {token}): {remedy}.")
    if not (pathlib.Path(root) / "config.json").exists():
        return
    try:
        if ModelConfig.from_hf(read_hf_config(root)) == model:
            return
    except ModelError:
        pass
    raise ConfigError(f"rollout.servers: {url} serves {root}, whose config.json is another model's: {remedy}.")


def _check_endpoints(url: str) -> None:
    try:
        vllm_client.version(url)
        vllm_client.call(url, "GET", "/is_paused")
    except RolloutError:
        raise ConfigError(f"rollout.servers: {url} has no endpoints to reload weights: start it with "
                          f"VLLM_SERVER_DEV_MODE=1 in its environment; launch/vllm_server.sh does.") from None


def _check_sampling(url: str) -> None:
    """The log-probs of the two likeliest tokens tell how the server treats temperature, and what it fills in."""
    bare = {"model": vllm_client.MODEL_NAME, "prompt": [0], "max_tokens": 1, "logprobs": 2, "seed": 0,
            "return_tokens_as_token_ids": True}

    def top_two(request):
        found = vllm_client.complete(url, request)["choices"][0]["logprobs"]["top_logprobs"][0]
        return sorted(found.values(), reverse=True)[:2]

    one, two = (top_two(vllm_client.completion([0], 1, Sampling(1, t), 0, ()) | {"logprobs": 2}) for t in (1.0, 2.0))
    gaps = one[0] - one[1], two[0] - two[1]
    if abs(gaps[0] - 2 * gaps[1]) > abs(gaps[0] - gaps[1]):  # tempered log-probs lie half as far apart
        raise ConfigError(f"rollout.servers: {url} returns log-probs from before the temperature: start it with "
                          "--logprobs-mode processed_logprobs; launch/vllm_server.sh does.")
    left_out = top_two(bare)
    if max(abs(a - b) for a, b in zip(one, left_out)) > 1e-2:
        raise ConfigError(f"rollout.servers: {url} fills in sampling fields from the model's generation_config.json "
                          f"(log-probs {left_out} instead of {one}): start it with --generation-config vllm; "
                          "launch/vllm_server.sh does.")
