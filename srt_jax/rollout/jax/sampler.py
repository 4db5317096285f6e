"""The in-process sampler: prefill and decoding in jitted programs, from the trainer's own parameters.

`rollout.slots` chooses between two kinds of call. Static batching (static_batching.py) decodes all samples of a call
in step. Continuous batching (continuous_batching.py) decodes a fixed number of sequences at a time, and takes the next
ones from a queue. Each sample has its own random key, so at equal compiled shape it does not depend on its
neighbours. If the mesh's row shards do not divide a call's prompts, a prompt's samples are divided among several
of its rows. Letters: P rows of a call, n samples of each, S prompt tokens, T response tokens.

A call is as large as the config requests or as the memory allows (`Cut`), whichever is less. It decodes in pieces of
about a second. Between pieces the host can report progress, and stop. Neither the size of a call nor the pieces change
a random number. A piece continues exactly where the last one ended, and sample i of a prompt draws from (seed, i).
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import ArrayLike

from srt_jax.errors import RolloutError
from srt_jax.model import memory, sharding
from srt_jax.model.config import ModelConfig
from srt_jax.rollout.jax import continuous_batching, static_batching
from srt_jax.rollout.jax.decoding import compute_copy
from srt_jax.rollout.jax.prompts import Prompts
from srt_jax.rollout.jax.sampling import compiled
from srt_jax.rollout.sampler import Advanced, Finished, Rollouts, Sampling
from srt_jax.runtime import processes, programs

PIECE_SECONDS = 1.0  # the duration of a piece; several processes use PIECE_STEPS instead
PIECE_STEPS = 256


@dataclasses.dataclass(frozen=True)
class Cut:
    """The shape of a call: `prompts` prompts, `samples` of each; `slots` sequences decode at a time (0: all).

    Rows are spread over `shards` row shards of the mesh.
    """

    prompts: int
    samples: int
    slots: int
    shards: int

    @property
    def rows_per_prompt(self) -> int:
        """Rows of a prompt, each with a part of its samples: the smallest number that fills all shards equally."""
        return self.shards // math.gcd(self.prompts, self.shards)

    @property
    def rows(self) -> int:
        """Rows of the call, a multiple of the shards."""
        return self.prompts * self.rows_per_prompt

    @property
    def share(self) -> int:
        """Samples of a row."""
        return -(-self.samples // self.rows_per_prompt)

    def order(self) -> np.ndarray:
        """The row at each position. Rows go to the shards in turn, so that a half-full call uses all shards."""
        return np.arange(self.rows).reshape(-1, self.shards).T.reshape(-1)

    def by_prompt(self, result: np.ndarray) -> np.ndarray:
        """[rows, share, ...] in the order of `order` -> [prompts, at least samples, ...]."""
        ordered = np.empty_like(result)
        ordered[self.order()] = result
        return ordered.reshape(self.prompts, -1, *result.shape[2:])

    def smaller(self) -> Iterator["Cut"]:
        """Yields this cut, then smaller ones. Halves the slots (down to one per shard), then prompts, then samples."""
        slots = self.slots
        while slots > self.shards:
            yield dataclasses.replace(self, slots=slots)
            slots = -(-slots // (2 * self.shards)) * self.shards
        parts, most = 1, max(self.prompts, self.samples)
        for field in ("prompts", "samples"):
            one = dataclasses.replace(self, slots=slots, prompts=self.prompts if field == "prompts" else 1)
            for parts in (2**i for i in range(most.bit_length() + 1)):
                yield dataclasses.replace(one, **{field: -(-getattr(one, field) // parts)})


def largest_cut(whole: Cut, bytes_of: Callable[[Cut], float], memory_bytes: float | None) -> Cut:
    """The first of `whole.smaller()` whose bytes_of(cut) fit in memory_bytes. Raises RolloutError if none fits."""
    if memory_bytes is None:
        return whole
    for cut in whole.smaller():
        if (needed := bytes_of(cut)) <= memory_bytes:
            return cut
    if memory_bytes <= 0:  # shorter responses would not help
        raise RolloutError(
            "the weights, with optimizer and reference in training, leave no memory for sampling: split them over more "
            "devices with mesh.fsdp, or choose a smaller model."
        )
    raise RolloutError(
        f"sampling one response takes {needed / 1e9:.1f} GB beside the parameters, and {memory_bytes / 1e9:.1f} GB are "
        "left for it on each device: lower batch.max_response_tokens or batch.max_prompt_tokens, or choose a smaller "
        "model."
    )


def bytes_per_device(
    model: ModelConfig,
    dtype: str,
    cut: Cut,
    prompt_tokens: int,
    response_tokens: int,
    mesh_shape: dict[str, int],
    platform: str,
    kernel: str,
) -> dict[str, float]:
    """Bytes of a call by kind, without the parameters. mesh_shape: size by axis. kernel: the attention kernel."""
    return memory.sampler_call(
        model,
        dtype,
        memory.Call(
            cut.rows // cut.shards,
            cut.share,
            prompt_tokens,
            response_tokens,
            cut.slots // cut.shards,
            mesh_shape["fsdp"],
            mesh_shape["tensor"],
            platform,
            kernel,
        ),
    )


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled parts of a call. `advance` donates its state."""

    begin: jax.stages.Compiled
    advance: jax.stages.Compiled
    results: jax.stages.Compiled


class JaxSampler:
    """Samples from the trainer's own parameters. `load` stores a reference and copies nothing.

    A call has room for prompts_per_call prompts, and num_slots (0: all) sequences decode at a time. There are fewer if
    the arrays of a call, without the parameters, would need more than `memory_bytes` of a device (None: no limit), or
    if the settings of the draw say so (Sampling.prompts_per_call).
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        mesh: Mesh,
        stop_ids: Sequence[int],
        prompt_buckets: Sequence[int],
        prompts_per_call: int,
        num_slots: int = 0,
        memory_bytes: float | None = None,
    ) -> None:
        self._graphdef, self._mesh = graphdef, mesh
        self._stop_ids = tuple(int(i) for i in stop_ids)
        # With slots all caches have the same length, so that all prompts can share one queue.
        self._buckets = sorted(prompt_buckets)[-1 if num_slots else 0 :]
        self._prompts_per_call, self._num_slots, self._memory_bytes = prompts_per_call, num_slots, memory_bytes
        shards = sharding.num_row_shards(mesh)
        if num_slots % shards:
            raise ValueError(
                f"rollout.slots is {num_slots}: the {shards} data x fsdp shards of the mesh must divide it."
            )
        self._params: nnx.State | None = None
        self._version = -1
        self._programs, self._pace = {}, {}  # seconds per decoding step, by program
        self._reach = 1.0  # at which share of its maximal length the last call ended; an estimate for the next call
        self.report = {}  # a load costs nothing
        self.decode_steps = 0  # steps of the last `generate`; each feeds one token of every sequence that decodes

    def load(self, params: nnx.State, version: int, waits: Callable[[], None] | None = None) -> None:
        """Keeps a reference to the parameters, which must stay valid until the next load."""
        self._params, self._version = params, version

    def close(self) -> None:
        """Drops the reference to the parameters."""
        self._params = None

    def compile(self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling) -> None:
        """Compiles the programs for the prompts' buckets. `generate` compiles those that are missing."""
        for bucket in self._by_bucket(prompts):
            self._program(bucket, self.cut(bucket, n, sampling), sampling)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seeds: Sequence[int] | np.ndarray,
        finished: Finished | None = None,
        advanced: Advanced | None = None,
    ) -> Rollouts:
        """Rollouts in the order of the prompts. Raises ValueError for an empty prompt or one beyond the last bucket."""
        P, T = len(prompts), sampling.max_tokens
        rollouts = Rollouts(
            [list(p) for p in prompts],
            np.zeros((P, n, T), np.int32),
            np.zeros((P, n), np.int32),
            np.zeros((P, n, T), np.float32),
            np.zeros((P, n), bool),
            self._version,
        )
        calls, share, tokens, self.decode_steps = self._calls(prompts, n, sampling), 0.0, 0, 0
        for bucket, cut, indices, first in calls:
            part = len(indices) * min(cut.samples, n - first) / (P * n)

            def report(
                done: float, sampled: int, before: tuple[float, int] = (share, tokens), part: float = part
            ) -> None:
                if advanced:  # all processes make the same pieces, so that all of them can stop after one
                    processes.report_together(advanced, before[0] + part * done, before[1] + sampled)

            rows = self._rows(prompts, seeds, n, bucket, cut, indices, first)
            *results, steps = self._call(bucket, cut, rows, sampling, report)
            drawn = slice(first, min(first + cut.samples, n))
            arrays = rollouts.tokens, rollouts.logprobs, rollouts.lengths, rollouts.stopped
            for array, result in zip(arrays, results):
                array[indices, drawn] = cut.by_prompt(result)[: len(indices), : drawn.stop - drawn.start]
            self.decode_steps += steps
            share, tokens = share + part, tokens + int(rollouts.lengths[indices, drawn].sum())
            for p in indices if finished and drawn.stop == n else ():
                responses = [row[:length] for row, length in zip(rollouts.tokens[p], rollouts.lengths[p])]
                finished(p, responses, rollouts.stopped[p])
        return rollouts

    def _call(
        self, bucket: int, cut: Cut, rows: Prompts, sampling: Sampling, report: Callable[[float, int], None]
    ) -> tuple:
        """Makes one call, piece by piece. Returns (tokens, logprobs, lengths, stopped) by row, and the decoding steps.

        report(share of the call that is done, tokens so far) is called after each piece.
        """
        program = self._program(bucket, cut, sampling)
        rows = sharding.place(rows, sharding.by_rows(self._mesh))
        temperature, key = self._scalar(np.float32(sampling.temperature)), (bucket, cut, sampling.max_tokens)
        fixed, state = program.begin(self._params, rows, temperature)
        steps, goes_on, most = 0, True, cut.rows * cut.share * sampling.max_tokens
        while goes_on:
            before, started = steps, time.perf_counter()
            state, standing = program.advance(
                fixed, rows, state, temperature, self._scalar(np.int32(steps + self._piece(key, steps)))
            )
            steps, goes_on, sampled = (int(x) for x in jax.device_get(standing))
            if before and steps > before:  # the first piece also waits for the prefill
                self._pace[key] = (time.perf_counter() - started) / (steps - before)
            reach = sampled / most if cut.slots else steps / sampling.max_tokens
            report(min(1.0, reach / self._reach) if goes_on else 1.0, sampled)
        self._reach = max(reach, 1e-3)
        return *jax.device_get(program.results(state)), steps

    def _scalar(self, value: ArrayLike) -> ArrayLike:
        """The number as an array on every device; the training loop refuses implicit transfers."""
        return sharding.place(value, sharding.replicated(self._mesh))

    def _piece(self, key: tuple, steps: int) -> int:
        """Decoding steps of the next piece, for about a second. Clocks differ, so several processes use PIECE_STEPS."""
        if jax.process_count() > 1:
            return PIECE_STEPS
        if key not in self._pace:
            return 1
        return max(1, min(int(PIECE_SECONDS / self._pace[key]), 8 * steps or 1 << 20))

    def _by_bucket(self, prompts: Sequence[Sequence[int]]) -> dict[int, list[int]]:
        """The prompts of each bucket. A prompt's bucket depends only on its own length."""
        by_bucket = {}
        for i, prompt in enumerate(prompts):
            if not len(prompt):
                raise ValueError(f"prompt {i} is empty: there is no token to sample after.")
            bucket = next((b for b in self._buckets if b >= len(prompt)), None)
            if bucket is None:
                raise ValueError(f"a prompt has {len(prompt)} tokens: the largest bucket has {self._buckets[-1]}.")
            by_bucket.setdefault(bucket, []).append(i)
        return dict(sorted(by_bucket.items()))

    def _calls(self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling) -> Iterator[tuple]:
        """Yields (bucket, cut, prompt indices, first sample) of every call. Calls for equal prompts are consecutive."""
        for bucket, indices in self._by_bucket(prompts).items():
            cut = self.cut(bucket, n, sampling)
            for start in range(0, len(indices), cut.prompts):
                for first in range(0, n, cut.samples):
                    yield bucket, cut, indices[start : start + cut.prompts], first

    def cut(self, bucket: int, n: int, sampling: Sampling) -> Cut:
        """The largest call that fits in memory. Raises RolloutError if not even one sample of one prompt fits.

        The shape depends on these settings and on `memory_bytes`, but neither on the prompts nor on the memory that is
        free at the moment: another shape may round differently.
        """
        prompts = min(self._prompts_per_call, sampling.prompts_per_call or self._prompts_per_call)
        whole = Cut(prompts, n, self._num_slots, sharding.num_row_shards(self._mesh))
        return largest_cut(whole, lambda cut: self.bytes_of(cut, bucket, sampling), self._memory_bytes)

    def bytes_of(self, cut: Cut, bucket: int, sampling: Sampling) -> float:
        """Bytes per device of a call of this shape, without the parameters."""
        model = nnx.merge(self._graphdef, self._params)
        return sum(
            bytes_per_device(
                model.config,
                model.dtype.name,
                cut,
                bucket,
                sampling.max_tokens,
                self._mesh.shape,
                self._mesh.devices.flat[0].platform,
                model.kernel,
            ).values()
        )

    def _rows(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int] | np.ndarray,
        n: int,
        bucket: int,
        cut: Cut,
        indices: Sequence[int],
        first: int,
    ) -> Prompts:
        """The rows of a call. Row p * rows_per_prompt + j draws the j-th part of the samples of prompt indices[p]."""
        parts = cut.rows_per_prompt
        rows = Prompts(
            np.zeros((cut.rows, bucket), np.int32),
            np.zeros(cut.rows, np.int32),
            np.zeros((cut.rows, 2), np.uint32),
            first + np.tile(np.arange(parts, dtype=np.int32) * cut.share, cut.prompts),
            np.zeros(cut.rows, np.int32),
        )
        last = min(first + cut.samples, n)
        for p, i in enumerate(indices):
            own = slice(p * parts, (p + 1) * parts)
            rows.tokens[own, : len(prompts[i])] = prompts[i]
            rows.lengths[own] = len(prompts[i])
            rows.seeds[own] = int(seeds[i]) >> 32, int(seeds[i]) & 0xFFFFFFFF
            rows.samples[own] = np.clip(last - rows.first[own], 0, cut.share)
        return jax.tree.map(lambda x: x[cut.order()], rows)

    def _program(self, bucket: int, cut: Cut, sampling: Sampling) -> Program:
        key = bucket, cut, compiled(sampling)
        if key not in self._programs:
            whole = self._graphdef, self._mesh, self._stop_ids, key, programs.shape(self._params)
            self._programs[key] = programs.shared(
                whole, lambda: Program(*(lowered.compile() for lowered in self._lower(self._params, *key)))
            )
        return self._programs[key]

    def lower(self, params: nnx.State, n: int, sampling: Sampling) -> tuple[Cut, list[jax.stages.Lowered]]:
        """The call for a step's longest prompts, and its programs `begin` and `advance`, to compile ahead of time.

        params: abstract parameters with shardings.
        """
        self._params = params
        cut = self.cut(self._buckets[-1], n, sampling)
        return cut, self._lower(params, self._buckets[-1], cut, compiled(sampling))[:2]

    def _lower(self, params: nnx.State, bucket: int, cut: Cut, sampling: Sampling) -> list[jax.stages.Lowered]:
        """Lowers begin, advance and results of one call. The parameters may be abstract."""
        kind = continuous_batching if cut.slots else static_batching
        fixed = dict(n=cut.share, sampling=sampling, stop_ids=self._stop_ids)
        more = {"num_slots": cut.slots} if cut.slots else {}

        def begin(params: nnx.State, rows: Prompts, temperature: jax.Array) -> tuple:
            copy = compute_copy(params, self._graphdef, self._mesh)
            return kind.begin(copy, rows, temperature, graphdef=self._graphdef, mesh=self._mesh, **fixed, **more)

        scalar = functools.partial(jax.ShapeDtypeStruct, (), sharding=sharding.replicated(self._mesh))
        place = functools.partial(jax.ShapeDtypeStruct, sharding=sharding.by_rows(self._mesh))
        rows = jax.tree.map(lambda x: place(x.shape, x.dtype), self._rows([], [], 1, bucket, cut, [], 0))
        shapes = jax.eval_shape(begin, params, rows, scalar(jnp.float32))
        where = kind.shardings(self._mesh, *shapes)
        kept, state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)
        everywhere = sharding.replicated(self._mesh)
        # Replicated results: every process gets all rollouts.
        return [
            jax.jit(begin, out_shardings=where).lower(params, rows, scalar(jnp.float32)),
            jax.jit(
                functools.partial(kind.advance, **fixed), donate_argnums=2, out_shardings=(where[1], everywhere)
            ).lower(kept, rows, state, scalar(jnp.float32), scalar(jnp.int32)),
            jax.jit(functools.partial(kind.results, n=cut.share), out_shardings=everywhere).lower(state),
        ]
