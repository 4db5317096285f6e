"""The in-process sampler: prefill and decoding in one jitted program, from the trainer's own parameters.

`rollout.slots` chooses between two programs: together.py (all samples of a call decode in step) and slots.py (a fixed
number of sequences at a time, from a queue). Each sample draws from a random key of its own, so at equal compiled shape
it does not depend on its neighbours. Where a call has fewer prompts than the mesh has row shards, a prompt's samples
are divided among several of its rows. Letters: P rows of a call, n samples of each, S prompt tokens, T response tokens.
"""
import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from srt_jax.model import sharding
from srt_jax.rollout import drawing, slots, together
from srt_jax.rollout.decoding import compute_copy
from srt_jax.rollout.sampler import Rollouts, Sampling


@flax.struct.dataclass
class Prompts:
    """The rows of one call: a prompt and the samples of it that are drawn here.

    tokens [P, S], right-padded with 0; lengths [P]; seeds [P, 2] uint32; first [P], the index of the row's first
    sample; samples [P], how many: 0 for an empty row.
    """
    tokens: jax.Array
    lengths: jax.Array
    seeds: jax.Array
    first: jax.Array
    samples: jax.Array


class JaxSampler:
    """Samples from the trainer's own parameters; `load` is a pointer.

    prompts_per_call prompts go through a program together; num_slots (0: all) sequences decode at a time.
    """

    def __init__(self, graphdef, mesh: Mesh, stop_ids, prompt_buckets, prompts_per_call: int, num_slots: int = 0):
        self._graphdef, self._mesh = graphdef, mesh
        self._stop_ids = tuple(int(i) for i in stop_ids)
        # With slots the cache of a sequence has one length for all prompts, so that all are in one queue.
        self._buckets = sorted(prompt_buckets)[-1 if num_slots else 0:]
        self._prompts_per_call, self._num_slots = prompts_per_call, num_slots
        shards = sharding.num_row_shards(mesh)
        if num_slots % shards:
            raise ValueError(f"rollout.slots is {num_slots}: the {shards} data x fsdp shards of the mesh must divide "
                             "it.")
        self._rows_per_prompt = shards // math.gcd(prompts_per_call, shards)
        self._params, self._version = None, -1
        self._programs = {}
        self.report = {}  # a load costs nothing
        self.decode_steps = 0  # of the last `generate`: each feeds one token of every sequence that decodes

    def load(self, params, version: int) -> None:
        """Points at the parameters; they must live until the next load."""
        self._params, self._version = params, version

    def close(self) -> None:
        """Nothing to release but the pointer."""
        self._params = None

    def compile(self, prompts, n: int, sampling: Sampling) -> None:
        """Compiles the programs of the prompts' buckets; `generate` compiles only what was not asked for here."""
        for bucket, _ in self._calls(prompts):
            self._program(bucket, n, sampling)

    def generate(self, prompts, n: int, sampling: Sampling, seeds, finished=None) -> Rollouts:
        """Rollouts in the order of the prompts. Raises ValueError for an empty prompt or one beyond the last bucket."""
        P, T = len(prompts), sampling.max_tokens
        tokens = np.zeros((P, n, T), np.int32)
        logprobs = np.zeros((P, n, T), np.float32)
        lengths = np.zeros((P, n), np.int32)
        stopped = np.zeros((P, n), bool)
        pending, self.decode_steps = [], 0
        for bucket, indices in self._calls(prompts):
            rows = sharding.place(self._rows(prompts, seeds, n, bucket, indices), sharding.by_rows(self._mesh))
            # Queued without waiting: the device goes on to the next call while the host unpacks this one.
            results = self._program(bucket, n, sampling)(self._params, rows, np.float32(sampling.temperature))
            pending.append((indices, results))
        for indices, on_device in pending:
            *results, steps = jax.device_get(on_device)
            for array, result in zip((tokens, logprobs, lengths, stopped), results):
                array[indices] = self._by_prompt(result)[:len(indices), :n]
            self.decode_steps += int(steps)
            for p in indices if finished else ():
                finished(p, [row[:length] for row, length in zip(tokens[p], lengths[p])])
        return Rollouts([list(p) for p in prompts], tokens, lengths, logprobs, stopped, self._version)

    def lower(self, params, n: int, sampling: Sampling) -> jax.stages.Lowered:
        """The program of the longest prompts, for abstract parameters with shardings: to compile ahead of time."""
        return self._lower(params, self._buckets[-1], n, drawing.compiled(sampling))

    def _calls(self, prompts):
        """(bucket, prompt indices): each prompt goes by its own length, not by its neighbours'."""
        by_bucket = {}
        for i, prompt in enumerate(prompts):
            if not len(prompt):
                raise ValueError(f"prompt {i} is empty: there is no token to sample after.")
            bucket = next((b for b in self._buckets if b >= len(prompt)), None)
            if bucket is None:
                raise ValueError(f"a prompt has {len(prompt)} tokens: the last bucket holds {self._buckets[-1]}.")
            by_bucket.setdefault(bucket, []).append(i)
        size = self._prompts_per_call
        for bucket, indices in sorted(by_bucket.items()):
            yield from ((bucket, indices[i:i + size]) for i in range(0, len(indices), size))

    def _order(self) -> np.ndarray:
        """Which row lies where: rows are dealt to the shards one by one, so that a call half full fills all of them."""
        rows = self._prompts_per_call * self._rows_per_prompt
        return np.arange(rows).reshape(-1, sharding.num_row_shards(self._mesh)).T.reshape(-1)

    def _rows(self, prompts, seeds, n: int, bucket: int, indices) -> Prompts:
        """The rows of a call; row p * rows_per_prompt + j holds the j-th part of the samples of prompt indices[p]."""
        parts = self._rows_per_prompt
        size, share = self._prompts_per_call * parts, self._share(n)
        rows = Prompts(np.zeros((size, bucket), np.int32), np.zeros(size, np.int32), np.zeros((size, 2), np.uint32),
                       np.tile(np.arange(parts, dtype=np.int32) * share, self._prompts_per_call),
                       np.zeros(size, np.int32))
        for p, i in enumerate(indices):
            own = slice(p * parts, (p + 1) * parts)
            rows.tokens[own, :len(prompts[i])] = prompts[i]
            rows.lengths[own] = len(prompts[i])
            rows.seeds[own] = int(seeds[i]) >> 32, int(seeds[i]) & 0xFFFFFFFF
            rows.samples[own] = np.clip(n - rows.first[own], 0, share)
        return jax.tree.map(lambda x: x[self._order()], rows)

    def _by_prompt(self, result):
        """[P, n / rows_per_prompt, ...] of the rows -> [prompts_per_call, n, ...]."""
        ordered = np.empty_like(result)
        ordered[self._order()] = result
        return ordered.reshape(self._prompts_per_call, -1, *result.shape[2:])

    def _share(self, n: int) -> int:
        """Samples of a row."""
        return -(-n // self._rows_per_prompt)

    def _program(self, bucket: int, n: int, sampling: Sampling) -> jax.stages.Compiled:
        key = bucket, n, drawing.compiled(sampling)
        if key not in self._programs:
            self._programs[key] = self._lower(self._params, *key).compile()
        return self._programs[key]

    def _lower(self, params, bucket: int, n: int, sampling: Sampling) -> jax.stages.Lowered:
        """The program of one call, for parameters that may be abstract."""
        fixed = dict(graphdef=self._graphdef, mesh=self._mesh, n=self._share(n), sampling=sampling,
                     stop_ids=self._stop_ids)
        sample = (functools.partial(slots.sample, num_slots=self._num_slots, **fixed) if self._num_slots else
                  functools.partial(together.sample, **fixed))

        def program(params, rows, temperature):
            return sample(compute_copy(params, self._graphdef, self._mesh), rows, temperature)

        place = functools.partial(jax.ShapeDtypeStruct, sharding=sharding.by_rows(self._mesh))
        rows = jax.tree.map(lambda x: place(x.shape, x.dtype), self._rows([], [], n, bucket, []))
        # Replicated results: every process gets all rollouts.
        return jax.jit(program, out_shardings=sharding.replicated(self._mesh)).lower(
            params, rows, jax.ShapeDtypeStruct((), jnp.float32))
