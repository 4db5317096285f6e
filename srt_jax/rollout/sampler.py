"""The protocol of a sampler, and the rollouts that it returns."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The settings of a draw.

    top_p < 1 and top_k >= 1 are for evaluation only, since the trainer computes the log-probs of the whole
    distribution. A token whose logit equals the smallest logit that top_k or top_p keeps is kept, too.
    """

    max_tokens: int
    temperature: float = 1.0  # 0: the most likely token
    top_p: float = 1.0
    top_k: int = -1  # -1: all
    prompts_per_call: int = 0  # The in-process sampler has at most this many in a call (0: its own limit).


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """n responses to each of P prompts, as token ids.

    tokens [P, n, T] int32: right-padded with 0, the stop token included. lengths [P, n] int32.
    logprobs [P, n, T] float32: those of the sampled tokens under the distribution from which they were drawn (at
    temperature 0 under that of temperature 1).
    stopped [P, n] bool: True if a stop token ended the response, False if max_tokens did.
    version: the version of the weights that sampled.
    """

    prompts: list[list[int]]
    tokens: np.ndarray
    lengths: np.ndarray
    logprobs: np.ndarray
    stopped: np.ndarray
    version: int

    def responses(self) -> list[list[np.ndarray]]:
        """Token ids without padding, per prompt and sample."""
        return [[row[:length] for row, length in zip(*prompt)] for prompt in zip(self.tokens, self.lengths)]

    def flat(self) -> list[np.ndarray]:
        """Token ids without padding of all P x n responses, prompt by prompt."""
        return [response for row in self.responses() for response in row]

    def take(self, indices: Sequence[int] | np.ndarray) -> "Rollouts":
        """These prompts, in this order."""
        indices = np.asarray(indices, np.int64)
        return dataclasses.replace(
            self,
            prompts=[self.prompts[i] for i in indices],
            tokens=self.tokens[indices],
            lengths=self.lengths[indices],
            logprobs=self.logprobs[indices],
            stopped=self.stopped[indices],
        )

    def first(self, n: int) -> "Rollouts":
        """The first n samples of every prompt."""
        return dataclasses.replace(
            self,
            tokens=self.tokens[:, :n],
            lengths=self.lengths[:, :n],
            logprobs=self.logprobs[:, :n],
            stopped=self.stopped[:, :n],
        )

    @staticmethod
    def join(parts: Sequence["Rollouts"]) -> "Rollouts":
        """The prompts of all parts in order. Raises ValueError unless n, T and the weights version are equal."""
        if len({(part.tokens.shape[1:], part.version) for part in parts}) != 1:
            raise ValueError("rollouts of unequal shape or weights version do not go together.")
        return dataclasses.replace(
            parts[0],
            prompts=[prompt for part in parts for prompt in part.prompts],
            tokens=np.concatenate([part.tokens for part in parts]),
            lengths=np.concatenate([part.lengths for part in parts]),
            logprobs=np.concatenate([part.logprobs for part in parts]),
            stopped=np.concatenate([part.stopped for part in parts]),
        )


ARRAYS = ("tokens", "lengths", "logprobs", "stopped")
# (index of a prompt, its n responses, and for each whether a stop token ended it)
Finished = Callable[[int, Sequence[np.ndarray], Sequence[bool]], None]
Advanced = Callable[[float, int], None]  # (share of the work that is done, tokens sampled so far)


class Sampler(Protocol):
    """Token ids in, token ids and log-probs out. `report`: measurements of the last load, by tag, for the log."""

    report: dict[str, float]

    def load(self, params: nnx.State, version: int, waits: Callable[[], None] | None = None) -> None:
        """Uses these parameters for sampling from now on.

        `waits()` is called every second while servers read them. If it raises, they may have none or half of them.
        """

    def compile(self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling) -> None:
        """Compiles the programs that `generate` needs for these prompts, with the loaded weights."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seeds: Sequence[int] | np.ndarray,
        finished: Finished | None = None,
        advanced: Advanced | None = None,
    ) -> Rollouts:
        """n responses per prompt. seeds [P] come from `problem_seeds`. Sample i of a prompt draws from (seed, i).

        `finished(p, responses, stopped)` is called once for every prompt, in the caller's thread and in any order, as
        soon as all its responses (token ids without padding) are on the host. Grading can begin while other prompts are
        still sampled.
        `advanced(share, tokens)` is called in the caller's thread, every few seconds if the sampler can measure its
        progress. The share of the finished work never decreases, and ends at 1. An exception in `advanced` ends the
        sampling.
        """

    def close(self) -> None:
        """Releases processes and memory."""


def problem_seeds(seed: int, purpose: str, step: int, problem_ids: Sequence[str]) -> np.ndarray:
    """[P] uint64 below 2^63: f(seed, purpose, step, problem), independent of the batch that contains the problem.

    purpose: train | teacher | eval | label | guard.
    """
    digests = (hashlib.blake2b(f"{seed}/{purpose}/{step}/{id}".encode(), digest_size=8).digest() for id in problem_ids)
    return np.array([int.from_bytes(d, "big") >> 1 for d in digests], np.uint64)
