"""Turns rollouts and rewards into the update's batch, on the host. Rows are sorted by length, or packed.

The batch's shapes depend on the config only, not on the lengths of a step, so every step uses one compiled update.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from srt_jax.model import sharding
from srt_jax.rollout.sampler import Rollouts


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the rollouts of a step are divided. The fields are those of the config's section `batch`.

    The sequences of a step form M micro-batches of m = microbatch_sequences rows. Each of the K = minibatches_per_step
    mini-batches has M / K micro-batches. With packing M is an upper bound, and empty micro-batches are not computed.
    Raises ValueError if the numbers do not divide each other.
    """

    prompts_per_step: int
    samples_per_prompt: int
    microbatch_sequences: int
    length_buckets: tuple[int, ...]
    minibatches_per_step: int = 1
    packing: bool = False

    def __post_init__(self) -> None:
        if self.packing and len(self.length_buckets) > 1:
            raise ValueError(
                f"length_buckets is {self.length_buckets}: packed rows all have one length, so give one bucket."
            )
        if self.prompts_per_step % self.minibatches_per_step:
            raise ValueError(
                f"minibatches_per_step is {self.minibatches_per_step}: a mini-batch has whole prompts, "
                f"so this number must divide prompts_per_step, {self.prompts_per_step}."
            )
        if self.sequences % (self.minibatches_per_step * self.microbatch_sequences):
            raise ValueError(
                f"microbatch_sequences is {self.microbatch_sequences}: it must divide the "
                f"{self.sequences // self.minibatches_per_step} sequences of a mini-batch."
            )

    @property
    def sequences(self) -> int:
        """Number of sequences of a step. It is also the number of rows."""
        return self.prompts_per_step * self.samples_per_prompt

    @property
    def microbatches(self) -> int:
        """M: the number of micro-batches of a step."""
        return self.sequences // self.microbatch_sequences

    @property
    def microbatches_per_minibatch(self) -> int:
        """M / K: the number of micro-batches of a mini-batch."""
        return self.microbatches // self.minibatches_per_step

    @classmethod
    def of(cls, batch: ConfigDict) -> "Layout":
        """The layout that the config's section `batch` describes."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: batch[name] for name in names} | {"length_buckets": tuple(batch.length_buckets)})


@dataclasses.dataclass(frozen=True)
class TrainingSamples:
    """The rollouts of a step that are trained on: P prompts with n samples each.

    rewards [P, n]. labelled [P] bool: has the prompt a label, and has resampling not left it out? kept [P, n] bool:
    may the loss count the rollout? None keeps all rollouts.
    """

    rollouts: Rollouts
    rewards: np.ndarray
    labelled: np.ndarray
    kept: np.ndarray | None = None


Leaf = Any  # np.ndarray on the host, then jax.Array; or the sharding or the shape of one


@flax.struct.dataclass
class Batch:
    """The rollouts of one step as M micro-batches of m rows, with the rewards of each prompt.

    Token arrays [M, m, S] are split over data x fsdp by row. S is the longest bucket. A row starts with one sequence
    (prompt + response). With packing further sequences follow it.

        tokens            int32, 0 on padding
        rollout           int32, p * n + i on the tokens of sample i of prompt p, -1 on padding
        response          bool, True on the tokens of a response, its stop token included
        sampler_logprobs  float32, the sampler's log-probs of the response tokens, 0 elsewhere
        answer_mask       bool, True on the tokens of answers, which the loss leaves out; None if it leaves out none

    The other arrays are replicated on every device.

        rewards [P, n]       float32
        labelled [P]         bool, True for a prompt with a label
        kept [P, n]          bool, False for a rollout that counts in its prompt's baseline but not in the loss
        counts [K, buckets]  int32, the number of micro-batches of each length, shortest first, in each mini-batch;
                             further micro-batches are empty
        temperature          float32 scalar, the temperature of the distribution in the loss
    """

    tokens: Leaf
    rollout: Leaf
    response: Leaf
    sampler_logprobs: Leaf
    rewards: Leaf
    labelled: Leaf
    kept: Leaf
    counts: Leaf
    temperature: Leaf
    answer_mask: Leaf = None

    @property
    def loss_tokens(self) -> Leaf:
        """[M, m, S] bool: True on the response tokens that the loss may count."""
        return self.response if self.answer_mask is None else self.response & ~self.answer_mask


def collate(
    samples: TrainingSamples,
    layout: Layout,
    mesh: Mesh,
    temperature: float = 1.0,
    answer_mask: np.ndarray | None = None,
) -> Batch:
    """The batch of a step, on the mesh.

    answer_mask [P, n, T] bool: True on the response tokens that the loss leaves out. By default it leaves out none.
    Raises ValueError if a sequence is longer than the last bucket, or if P and n are not those of the layout.
    """
    batch = assemble(samples, layout, temperature, answer_mask)
    return sharding.place(batch, batch_sharding(mesh, answer_mask is not None))


def assemble(
    samples: TrainingSamples,
    layout: Layout,
    temperature: float = 1.0,
    answer_mask: np.ndarray | None = None,
) -> Batch:
    """The batch as NumPy arrays. Mini-batch k has the k-th part of the prompts. Raises ValueError as `collate` does."""
    rollouts = samples.rollouts
    prompts, n, _ = rollouts.tokens.shape
    if (prompts, n) != (layout.prompts_per_step, layout.samples_per_prompt):
        raise ValueError(
            f"the step has {prompts} prompts x {n} samples, but the layout has {layout.prompts_per_step} x "
            f"{layout.samples_per_prompt}."
        )
    shape = layout.microbatches, layout.microbatch_sequences, max(layout.length_buckets)
    lengths = np.array([len(p) for p in rollouts.prompts])[:, None] + rollouts.lengths
    rows, starts, counts = arrange(lengths.reshape(-1), layout)
    tokens, logprobs = np.zeros((prompts * n, shape[2]), np.int32), np.zeros((prompts * n, shape[2]), np.float32)
    rollout, response = np.full(tokens.shape, -1, np.int32), np.zeros(tokens.shape, bool)
    mask = np.zeros(tokens.shape, bool)
    for r, (row, start) in enumerate(zip(rows, starts)):
        p, i = divmod(r, n)
        first, end = start + len(rollouts.prompts[p]), start + lengths[p, i]
        tokens[row, start:first] = rollouts.prompts[p]
        tokens[row, first:end] = rollouts.tokens[p, i, : end - first]
        logprobs[row, first:end] = rollouts.logprobs[p, i, : end - first]
        rollout[row, start:end], response[row, first:end] = r, True
        if answer_mask is not None:
            mask[row, first:end] = answer_mask[p, i, : end - first]
    return Batch(
        tokens=tokens.reshape(shape),
        rollout=rollout.reshape(shape),
        response=response.reshape(shape),
        sampler_logprobs=logprobs.reshape(shape),
        rewards=np.asarray(samples.rewards, np.float32),
        labelled=np.asarray(samples.labelled, bool),
        kept=np.ones((prompts, n), bool) if samples.kept is None else np.asarray(samples.kept, bool),
        counts=counts,
        temperature=np.float32(temperature),
        answer_mask=None if answer_mask is None else mask.reshape(shape),
    )


def arrange(lengths: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Assigns sequences of lengths [P * n] to rows. Returns (rows [P * n], starts [P * n], counts [K, buckets]).

    rows: the row of each sequence, from 0 to M * m - 1. starts: its first position in that row. counts: as in Batch.
    Each mini-batch has as many rows as sequences, and its empty rows come last. Raises ValueError if a sequence is
    longer than the last bucket.
    """
    buckets, longest = sorted(layout.length_buckets), max(lengths)
    if longest > buckets[-1]:
        raise ValueError(f"a sequence of {longest} tokens exceeds the last of batch.length_buckets, {buckets[-1]}.")
    rows, starts, counts = np.zeros_like(lengths), np.zeros_like(lengths), []
    for share in np.split(np.arange(len(lengths)), layout.minibatches_per_step):
        own = lengths[share]
        row, starts[share] = first_fit(own, buckets[-1]) if layout.packing else one_per_row(own)
        rows[share] = share[0] + row
        filled = np.bincount(row, own, len(own)).reshape(-1, layout.microbatch_sequences).max(1)
        counts.append(np.bincount(np.searchsorted(buckets, filled[filled > 0]), minlength=len(buckets)))
    return rows, starts, np.array(counts, np.int32)


def one_per_row(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, start) of each sequence. Rows are sorted by length, so a micro-batch has rows of similar length."""
    rows = np.empty_like(lengths)
    rows[np.argsort(lengths, kind="stable")] = np.arange(len(lengths))
    return rows, np.zeros_like(lengths)


def first_fit(lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, start) of each sequence in rows of `size` tokens. Longer sequences come first; each gets the first row with
    enough space.

    This is first-fit decreasing. It uses at most 11/9 x (the smallest possible number of rows) + 6/9 rows (Dosa 2007).
    """
    used = np.zeros_like(lengths)  # tokens in each row; there are never more rows than sequences
    rows, starts = np.zeros_like(lengths), np.zeros_like(lengths)
    for i in np.argsort(-lengths, kind="stable"):
        rows[i] = np.argmax(used + lengths[i] <= size)
        starts[i] = used[rows[i]]
        used[rows[i]] += lengths[i]
    return rows, starts


def batch_sharding(mesh: Mesh, answer_mask: bool = False) -> Batch:
    """The sharding of each array of a batch. Every device has some rows of every micro-batch.

    answer_mask: has the batch one?
    """
    rows, everywhere = NamedSharding(mesh, P(None, sharding.ROWS)), sharding.replicated(mesh)
    return Batch(
        tokens=rows,
        rollout=rows,
        response=rows,
        sampler_logprobs=rows,
        rewards=everywhere,
        labelled=everywhere,
        kept=everywhere,
        counts=everywhere,
        temperature=everywhere,
        answer_mask=rows if answer_mask else None,
    )


def abstract_batch(layout: Layout, mesh: Mesh, answer_mask: bool = False) -> Batch:
    """Shapes, dtypes and shardings of the batches of this layout, to compile the update before the first batch.

    answer_mask: has the batch one?
    """
    n = layout.samples_per_prompt
    tokens = (layout.microbatches, layout.microbatch_sequences, max(layout.length_buckets))
    shapes = Batch(
        tokens=(tokens, jnp.int32),
        rollout=(tokens, jnp.int32),
        response=(tokens, jnp.bool),
        sampler_logprobs=(tokens, jnp.float32),
        rewards=((layout.prompts_per_step, n), jnp.float32),
        labelled=((layout.prompts_per_step,), jnp.bool),
        kept=((layout.prompts_per_step, n), jnp.bool),
        counts=((layout.minibatches_per_step, len(layout.length_buckets)), jnp.int32),
        temperature=((), jnp.float32),
        answer_mask=(tokens, jnp.bool) if answer_mask else None,
    )
    places = batch_sharding(mesh, answer_mask)
    return jax.tree.map(lambda where, shape: jax.ShapeDtypeStruct(*shape, sharding=where), places, shapes)
