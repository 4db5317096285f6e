"""vLLM servers: processes that this module starts, watches, restarts and stops, or servers that are attached by URL."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from srt_jax.errors import ConfigError, ModelError, RolloutError, ServerGivenUpError, ServerSetupError
from srt_jax.log import logger
from srt_jax.model.config import ModelConfig, read_hf_config
from srt_jax.rollout.sampler import Sampling
from srt_jax.rollout.vllm import client as vllm_client
from srt_jax.rollout.vllm import guard
from srt_jax.rollout.vllm.client import ServerFailedError
from srt_jax.rollout.vllm.command import HOST, Settings, command, environment, free_port, package

GUARD = pathlib.Path(guard.__file__)
STOP_SECONDS = 4.0  # A server has this long to end after SIGTERM. It has no state to save.
PORT_TRIES = 3
OTHER_MODEL = "start it with the model of this run (model.path)"
COMPARED = 20  # log-probs per token, vLLM's limit; two would not suffice, because they may be equal
BY_SCRIPT = "start it with launch/vllm_server.sh, which sets all that a trainer needs"


class Server:
    """A server process of this run. It never outlives this process, not even after kill -9 (guard.py)."""

    attached = False

    def __init__(
        self,
        name: str,
        settings: Settings,
        log: pathlib.Path,
        *,
        start_seconds: float,
        max_restarts: int,
        gpus: Sequence[int] = (),
        seed: int = 0,
        choose_port: Callable[[], int] = free_port,
    ) -> None:
        self.name, self.log, self.url = name, log, ""
        self.process: subprocess.Popen | None = None
        self._record = log.parent / ".none"  # lists the files that a killed server leaves
        self._settings, self._gpus, self._seed, self._choose_port = settings, gpus, seed, choose_port
        self._start_seconds, self._max_restarts, self._restarts = start_seconds, max_restarts, 0
        try:
            self.kind = package(settings.python)
        except ServerSetupError as e:
            raise ConfigError(str(e)) from None
        self._model: str | os.PathLike[str] | None = None
        self._log_from, self._deadline = 0, 0.0

    def start(self, model: str | os.PathLike[str]) -> None:
        """Starts the server with a Hugging Face directory. `wait` returns when it can be used."""
        self._model = model
        port = self._choose_port()
        self.url = f"http://{HOST}:{port}"
        line = command(self._settings, self.kind, model, port, self._seed)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        guard.remove_old(self.log.parent)
        self._record, temporary, lock = guard.new_record(self.log.parent)
        with open(self.log, "ab") as log, os.fdopen(lock):
            log.write(f"\n==== {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(line)}\n".encode())
            log.flush()
            self._log_from = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), str(self._record), *line],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(self._settings, self.kind, self._gpus, temporary),
                pass_fds=[lock],  # the guard inherits the lock
                start_new_session=True,
            )
        self._deadline = time.monotonic() + self._start_seconds

    def wait(self) -> None:
        """Waits until the server samples. Raises ServerFailedError if it ends, or takes longer than start_seconds."""
        tries = 1
        while not vllm_client.is_healthy(self.url, max(5.0, self._deadline - time.monotonic())):
            process = self.process
            if process is None:  # another thread closes the sampler
                raise ServerFailedError(f"{self.name} was stopped while it started")
            if process.poll() is not None:
                if (
                    self._port_was_taken() and tries < PORT_TRIES
                ):  # another program took the port after it was found free
                    tries += 1
                    self.start(self._model)
                    continue
                raise ServerFailedError(
                    f"{self.name} ended while it started ({self._last_error()}): look at {self.log}."
                )
            if time.monotonic() > self._deadline:
                self.stop(0)
                raise ServerFailedError(
                    f"{self.name} did not answer within {self._start_seconds:.0f} s: look at "
                    f"{self.log}, or raise rollout.vllm.start_seconds."
                )
            time.sleep(0.5)

    def restart(self, model: str | os.PathLike[str], reason: object) -> None:
        """Ends the server's remaining processes and starts it again.

        Raises ServerFailedError if that fails, and ServerGivenUpError after too many restarts.
        """
        self.stop(0)
        if self._restarts >= self._max_restarts:
            raise ServerGivenUpError(
                f"{self.name} failed again ({reason}) after {self._restarts} restarts (rollout.vllm.max_restarts): "
                f"look at {self.log}."
            )
        self._restarts += 1
        logger.warning(f"{self.name} failed ({reason}): restart {self._restarts} of {self._max_restarts}")
        self.start(model)
        self.wait()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Ends the whole process group, first by SIGTERM and after the given time by SIGKILL, and removes its files."""
        process, self.process = self.process, None
        if process is None:
            return
        if seconds and process.poll() is None:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(seconds)
        guard.end_group(process.pid)  # even if the guard has ended: the processes that it guarded may still run
        process.wait()
        guard.remove_recorded(self._record)

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
    """A server that was started elsewhere. This class checks and uses it, and never starts or stops it."""

    attached = True

    def __init__(self, url: str, *, start_seconds: float, max_restarts: int) -> None:
        self.name = self.url = url.rstrip("/")
        self._start_seconds, self._left, self._deadline = start_seconds, max_restarts, 0.0

    def answers(self) -> bool:
        """Tells whether a server answers at the URL. A refusal is an answer, too."""
        try:
            vllm_client.call(self.url, "GET", "/v1/models", seconds=10)
        except ServerFailedError:
            return False
        except RolloutError:
            pass
        return True

    def start(self, model: str | os.PathLike[str]) -> None:
        """Does nothing: the server was started elsewhere, perhaps a moment ago."""
        self._deadline = time.monotonic() + self._start_seconds

    def wait(self) -> None:
        """Waits until a server answers at the URL. Raises ConfigError if none does within start_seconds."""
        while not self.answers():
            if time.monotonic() > self._deadline:
                raise ConfigError(f"rollout.servers: no server answers at {self.url}: correct the URL, or {BY_SCRIPT}.")
            time.sleep(1.0)

    def restart(self, model: str | os.PathLike[str], reason: object) -> None:
        """Waits until the server is healthy. Raises ServerGivenUpError if it fails too often or stays away."""
        if self._left <= 0:
            raise ServerGivenUpError(
                f"{self.url} failed too often ({reason}; rollout.vllm.max_restarts): look at its log; "
                f"it must serve the model of this run and see {model} under this very path "
                "(rollout.vllm.weights_directory)."
            )
        self._left -= 1
        logger.warning(f"{self.url} failed ({reason}): waiting for it")
        self.start(model)
        while True:
            try:
                vllm_client.call(self.url, "GET", "/health", seconds=5)
                return
            except ServerFailedError:
                if time.monotonic() > self._deadline:
                    raise ServerGivenUpError(
                        f"{self.url} failed ({reason}) and did not come back: start it again."
                    ) from None
                time.sleep(1.0)

    def stop(self, seconds: float = 0) -> None:
        """Stops waiting for the server, which continues to run."""
        self._deadline = 0.0


def check(url: str, model: ModelConfig, max_model_len: int) -> None:
    """Raises ConfigError, with the remedy, if a server cannot serve the rollouts of this run.

    Requests no sample, since a trainer that was killed may have left the server paused.
    """
    with _answering(url):
        served = _models(url)
        name, length = served.get("id"), served.get("max_model_len") or 0
        if name != vllm_client.MODEL_NAME:
            raise ConfigError(
                f"rollout.servers: {url} serves a model named {name!r}, not {vllm_client.MODEL_NAME!r}: {BY_SCRIPT}."
            )
        if length < max_model_len:
            raise ConfigError(
                f"rollout.servers: {url} takes {length} tokens, but batch.max_prompt_tokens + "
                f"batch.max_response_tokens is {max_model_len}: start it with that --max_model_len."
            )
        _check_folder(url, served.get("root") or "", model)
        _check_endpoints(url)


def check_answers(url: str, vocab_size: int) -> None:
    """Raises ConfigError, with the remedy, if a server with the run's weights ignores fields of a request."""
    with _answering(url):
        _check_vocabulary(url, vocab_size)
        _check_sampling(url)


@contextlib.contextmanager
def _answering(url: str) -> Iterator[None]:
    try:
        yield
    except (ServerFailedError, RolloutError) as e:
        raise ConfigError(
            f"rollout.servers: {url} does not answer as it should ({e}): look at its log, or {BY_SCRIPT}."
        ) from None


def _models(url: str) -> dict:
    try:
        served = vllm_client.call(url, "GET", "/v1/models", seconds=10)["data"][0]
        if served["owned_by"] != "vllm":
            raise KeyError("owned_by")
        return served
    except (ServerFailedError, RolloutError, LookupError, TypeError) as e:
        raise ConfigError(f"rollout.servers: {url} is no vLLM server ({e}): correct the URL, or {BY_SCRIPT}.") from None


def _check_folder(url: str, root: str, model: ModelConfig) -> None:
    """Compares the config.json of the served folder with the run's model, if this process can read it."""
    if not (pathlib.Path(root) / "config.json").exists():
        return
    try:
        if ModelConfig.from_hf(read_hf_config(root)) == model:
            return
    except ModelError:
        pass
    raise ConfigError(f"rollout.servers: {url} serves {root}, whose config.json is another model's: {OTHER_MODEL}.")


def _check_vocabulary(url: str, vocab_size: int) -> None:
    for token, known in ((vocab_size - 1, True), (vocab_size, False)):
        request = vllm_client.completion([token], 1, Sampling(1), 0, ())
        try:
            vllm_client.complete(url, request)
            accepted = True
        except RolloutError:
            accepted = False
        if accepted != known:
            raise ConfigError(
                f"rollout.servers: {url} serves another vocabulary than the {vocab_size} tokens of "
                f"model.path ({'refuses' if known else 'knows'} token {token}): {OTHER_MODEL}."
            )


def _check_endpoints(url: str) -> None:
    try:
        vllm_client.version(url)
        vllm_client.call(url, "GET", "/is_paused")
    except RolloutError:
        raise ConfigError(
            f"rollout.servers: {url} has no endpoints to reload weights: start it with "
            f"VLLM_SERVER_DEV_MODE=1 in its environment; launch/vllm_server.sh does."
        ) from None


def _check_sampling(url: str) -> None:
    """Checks, by the log-probs of the likeliest tokens, that temperature and defaults have the effect that we need."""
    bare = {
        "model": vllm_client.MODEL_NAME,
        "prompt": [0],
        "max_tokens": 1,
        "seed": 0,
        "return_tokens_as_token_ids": True,
    }

    def likeliest(request: dict) -> list[float]:
        answer = vllm_client.complete(url, request | {"logprobs": COMPARED})
        try:
            values = answer["choices"][0]["logprobs"]["top_logprobs"][0].values()
            return sorted(values, reverse=True)[:COMPARED]  # the sampled token comes on top if it is not among them
        except (KeyError, TypeError, IndexError, AttributeError):
            raise ServerFailedError("an answer without top_logprobs") from None

    one, two = (likeliest(vllm_client.completion([0], 1, Sampling(1, t), 0, ())) for t in (1.0, 2.0))
    gaps = one[0] - one[-1], two[0] - two[-1]
    if abs(gaps[0] - 2 * gaps[1]) > abs(
        gaps[0] - gaps[1]
    ):  # at temperature 2 the differences of log-probs are half as large
        raise ConfigError(
            f"rollout.servers: {url} returns log-probs from before the temperature: start it with "
            "--logprobs-mode processed_logprobs; launch/vllm_server.sh does."
        )
    left_out = likeliest(bare)
    if max(abs(a - b) for a, b in zip(one, left_out)) > 1e-2:
        raise ConfigError(
            f"rollout.servers: {url} fills in sampling fields from the model's generation_config.json "
            f"(log-probs {left_out[:2]} ... instead of {one[:2]} ...): start it with --generation-config "
            "vllm; launch/vllm_server.sh does."
        )
