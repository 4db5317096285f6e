"""From rollouts and rewards to the update's batch: micro-batches of rows of similar length, made on the host.

The batch's shapes depend on the config only, never on a step's lengths: one compiled update serves every step.
"""
import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from srt_jax.model import sharding
from srt_jax.rollout.sampler import Rollouts


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the rollouts of a step are cut up; the names are those of the config's section `batch`.

    A step's sequences make M micro-batches of m = microbatch_sequences; each of the K mini-batches has M / K of them.
    """
    prompts_per_step: int
    samples_per_prompt: int
    microbatch_sequences: int
    length_buckets: tuple[int, ...]
    minibatches_per_step: int = 1

    def __post_init__(self):
        if self.prompts_per_step % self.minibatches_per_step:
            raise ValueError(f"minibatches_per_step is {self.minibatches_per_step}: a mini-batch holds whole prompts, "
                             f"so it must divide the {self.prompts_per_step} prompts_per_step.")
        if self.sequences % (self.minibatches_per_step * self.microbatch_sequences):
            raise ValueError(f"microbatch_sequences is {self.microbatch_sequences}: it must divide the "
                             f"{self.sequences // self.minibatches_per_step} sequences of a mini-batch.")

    @property
    def sequences(self) -> int:
        """Rows of a step."""
        return self.prompts_per_step * self.samples_per_prompt

    @property
    def microbatches(self) -> int:
        """M, of the whole step."""
        return self.sequences // self.microbatch_sequences

    @property
    def microbatches_per_minibatch(self) -> int:
        """M / K."""
        return self.microbatches // self.minibatches_per_step

    @classmethod
    def of(cls, batch) -> "Layout":
        """From the config's section `batch`."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: batch[name] for name in names} | {"length_buckets": tuple(batch.length_buckets)})


@flax.struct.dataclass
class Batch:
    """Rollouts of one step as M micro-batches of m rows, and what is known of each prompt.

    Rows (split over data x fsdp): tokens [M, m, S] prompt + response, right-padded to the longest bucket;
    prompt_lengths and lengths [M, m] (length = prompt + response); sampler_logprobs [M, m, S], at the position of the
    token they are of, 0 elsewhere; rollout [M, m] = p * n + i of sample i of prompt p.
    Problem-major (on every device): rewards [P, n]; labelled [P] bool; kept [P, n] bool, False for a rollout that
    counts in its prompt's baseline but not in the loss. counts [K, buckets]: micro-batches of each length, shortest
    first, in each mini-batch. temperature: of the loss's distribution.
    """
    tokens: jax.Array
    prompt_lengths: jax.Array
    lengths: jax.Array
    sampler_logprobs: jax.Array
    rollout: jax.Array
    rewards: jax.Array
    labelled: jax.Array
    kept: jax.Array
    counts: jax.Array
    temperature: jax.Array


def collate(rollouts: Rollouts, rewards: np.ndarray, labelled: np.ndarray, layout: Layout, mesh: Mesh,
            temperature: float = 1.0, kept: np.ndarray | None = None) -> Batch:
    """rollouts of P prompts x n samples, rewards [P, n], labelled [P], kept [P, n] (default: all) -> Batch on the mesh.

    Raises ValueError for a sequence beyond the last bucket.
    """
    batch = assemble(rollouts, rewards, labelled, layout, temperature, kept)
    return sharding.place(batch, batch_sharding(mesh))


def assemble(rollouts: Rollouts, rewards, labelled, layout: Layout, temperature: float = 1.0, kept=None) -> Batch:
    """The batch as NumPy arrays. Mini-batch k holds the k-th share of the prompts, its rows sorted by length."""
    prompts, n, _ = rollouts.tokens.shape
    if (prompts, n) != (layout.prompts_per_step, layout.samples_per_prompt):
        raise ValueError(f"{prompts} prompts x {n} samples came, {layout.prompts_per_step} x "
                         f"{layout.samples_per_prompt} were to come.")
    M, m, S = layout.microbatches, layout.microbatch_sequences, max(layout.length_buckets)
    prompt_lengths = np.repeat([len(p) for p in rollouts.prompts], n).astype(np.int32)
    lengths = prompt_lengths + rollouts.lengths.reshape(-1).astype(np.int32)
    by_minibatch = lengths.reshape(layout.minibatches_per_step, -1)
    order = np.argsort(by_minibatch, 1, kind="stable")
    order += np.arange(len(order))[:, None] * by_minibatch.shape[1]
    order = order.reshape(-1).astype(np.int32)
    tokens, logprobs = np.zeros((len(order), S), np.int32), np.zeros((len(order), S), np.float32)
    buckets = np.array([bucket(length, layout.length_buckets) for length in lengths[order].reshape(M, m).max(1)])
    for row, rollout in enumerate(order):
        p, i = divmod(rollout, n)
        start, end = prompt_lengths[rollout], lengths[rollout]
        tokens[row, :start] = rollouts.prompts[p]
        tokens[row, start:end] = rollouts.tokens[p, i, :end - start]
        logprobs[row, start:end] = rollouts.logprobs[p, i, :end - start]
    by_minibatch = buckets.reshape(layout.minibatches_per_step, -1, 1)
    return Batch(
        tokens=tokens.reshape(M, m, S), prompt_lengths=prompt_lengths[order].reshape(M, m),
        lengths=lengths[order].reshape(M, m), sampler_logprobs=logprobs.reshape(M, m, S), rollout=order.reshape(M, m),
        rewards=np.asarray(rewards, np.float32), labelled=np.asarray(labelled, bool),
        kept=np.ones((prompts, n), bool) if kept is None else np.asarray(kept, bool),
        counts=(by_minibatch == sorted(layout.length_buckets)).sum(1, dtype=np.int32),
        temperature=np.float32(temperature))


def bucket(length: int, buckets) -> int:
    """The smallest bucket that holds `length`. Raises ValueError where none does."""
    for size in sorted(buckets):
        if size >= length:
            return size
    raise ValueError(f"a sequence of {length} tokens exceeds the last of batch.length_buckets, {max(buckets)}.")


def batch_sharding(mesh: Mesh) -> Batch:
    """Where each array of a batch lies: every device holds some rows of every micro-batch."""
    rows, everywhere = NamedSharding(mesh, P(None, sharding.ROWS)), sharding.replicated(mesh)
    return Batch(tokens=rows, prompt_lengths=rows, lengths=rows, sampler_logprobs=rows, rollout=rows,
                 rewards=everywhere, labelled=everywhere, kept=everywhere, counts=everywhere, temperature=everywhere)


def abstract_batch(layout: Layout, mesh: Mesh) -> Batch:
    """Shapes, dtypes and shardings of every batch of this layout, to compile the update before there is one."""
    n = layout.samples_per_prompt
    rows = (layout.microbatches, layout.microbatch_sequences)
    tokens = (*rows, max(layout.length_buckets))
    shapes = Batch(
        tokens=(tokens, jnp.int32), prompt_lengths=(rows, jnp.int32), lengths=(rows, jnp.int32),
        sampler_logprobs=(tokens, jnp.float32), rollout=(rows, jnp.int32),
        rewards=((layout.prompts_per_step, n), jnp.float32), labelled=((layout.prompts_per_step,), jnp.bool),
        kept=((layout.prompts_per_step, n), jnp.bool),
        counts=((layout.minibatches_per_step, len(layout.length_buckets)), jnp.int32), temperature=((), jnp.float32))
    return jax.tree.map(
        lambda where, shape: jax.ShapeDtypeStruct(*shape, sharding=where), batch_sharding(mesh), shapes)
