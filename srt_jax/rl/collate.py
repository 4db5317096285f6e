"""From rollouts and rewards to the update's batch: right-padded to one bucket, problem-major."""
import jax
import numpy as np

from srt_jax.model import sharding
from srt_jax.rl.update import Batch
from srt_jax.rollout.sampler import Rollouts


def bucket(length: int, buckets) -> int:
    """The smallest bucket that holds `length`. Raises ValueError where none does."""
    for size in sorted(buckets):
        if size >= length:
            return size
    raise ValueError(f"a sequence of {length} tokens exceeds the last of batch.length_buckets, {max(buckets)}.")


def collate(rollouts: Rollouts, rewards: np.ndarray, labelled: np.ndarray, buckets, mesh) -> Batch:
    """rollouts of P prompts x n samples, rewards [P, n], labelled [P] -> Batch of B = P * n rows, on the mesh."""
    P, n, _ = rollouts.tokens.shape
    prompt_lengths = np.repeat([len(p) for p in rollouts.prompts], n).astype(np.int32)
    lengths = prompt_lengths + rollouts.lengths.reshape(-1)
    S = bucket(lengths.max(), buckets)
    tokens = np.zeros((P * n, S), np.int32)
    logprobs = np.zeros((P * n, S), np.float32)
    for b, (start, end) in enumerate(zip(prompt_lengths, lengths)):
        p, i = divmod(b, n)
        tokens[b, :end] = np.concatenate([rollouts.prompts[p], rollouts.tokens[p, i, :end - start]])
        logprobs[b, start:end] = rollouts.logprobs[p, i, :end - start]
    batch = Batch(tokens, prompt_lengths, lengths.astype(np.int32), rewards.reshape(-1).astype(np.float32),
                  np.repeat(labelled, n), logprobs)
    return jax.device_put(batch, sharding.by_rows(mesh))
