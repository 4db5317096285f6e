"""Static batching: all samples of a call decode in lockstep until the longest has ended.

The samples of a prompt share its keys and values: the cache is one prompt part [L, P, K, S, H] and one response part
[L, P, n, K, T, H]. Letters: P prompts, n samples of each, S prompt tokens, T response tokens; others as in
model/decoder.py.

A step attends to the first tokens of the response part, up to a length of `cache_lengths`, and not to all T of them.
Decoding is thus a sequence of loops, one for each length.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from srt_jax.model import attention, sharding
from srt_jax.rollout.jax.decoding import Fixed, gathered, gathered_shardings, off_mesh, prefill
from srt_jax.rollout.jax.prompts import Prompts
from srt_jax.rollout.jax.sampling import draw, sample_keys
from srt_jax.rollout.sampler import Sampling

PROMPT_KV = PartitionSpec(None, sharding.ROWS, "tensor")  # of a cache [L, P, K, S, H]
RESPONSE_KV = PartitionSpec(None, sharding.ROWS, None, "tensor")  # of a cache [L, P, n, K, T, H]
SHORTEST_CACHE = 128  # tokens


@flax.struct.dataclass
class State:
    """The state of all samples of a call.

    t []: tokens drawn so far for each sample. token [P, n]: the last of them, which is not in the cache yet.
    done [P, n]: whether the sample has ended. kv: the pair of keys and values [L, P, n, K, T, H] of the responses.
    The results: tokens, logprobs [P, n, T], lengths [P, n].
    """

    t: jax.Array
    token: jax.Array
    done: jax.Array
    kv: tuple[jax.Array, ...]
    tokens: jax.Array
    logprobs: jax.Array
    lengths: jax.Array


def begin(
    params: nnx.State,
    prompts: Prompts,
    temperature: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    mesh: Mesh,
    n: int,
    sampling: Sampling,
    stop_ids: Sequence[int],
) -> tuple[Fixed, State]:
    """Runs the prefill, and draws the first tokens. Returns (Fixed, State)."""
    weights = gathered(params, mesh)
    model = off_mesh(graphdef, weights)
    size, T, config = prompts.lengths.shape[0], sampling.max_tokens, model.config
    hidden, prompt_kv = prefill(graphdef, params, prompts.tokens)
    last = jnp.take_along_axis(hidden, jnp.maximum(prompts.lengths - 1, 0)[:, None, None], 1)  # [P, 1, D]
    logits = jnp.broadcast_to(model.logits(last), (size, n, config.vocab_size))
    token, logprob = draw(sample_keys(prompts.seeds, prompts.first, n), 0, logits, temperature, sampling)
    keys, values = (sharding.constrain(kv.swapaxes(2, 3), mesh, PROMPT_KV) for kv in prompt_kv)
    kv_shape = (config.num_layers, size, n, config.num_kv_heads, T, config.head_dim)
    state = State(
        t=jnp.ones((), jnp.int32),
        token=token,
        done=_stops(token, stop_ids) | ~_wanted(prompts, n),
        kv=tuple(sharding.constrain(jnp.zeros(kv_shape, model.dtype), mesh, RESPONSE_KV) for _ in range(2)),
        tokens=jnp.zeros((size, n, T), jnp.int32).at[..., 0].set(token),
        logprobs=jnp.zeros((size, n, T)).at[..., 0].set(logprob),
        lengths=jnp.ones((size, n), jnp.int32),
    )
    return Fixed(weights, (keys, values), graphdef), state


def advance(
    fixed: Fixed,
    prompts: Prompts,
    state: State,
    temperature: jax.Array,
    until: jax.Array,
    *,
    n: int,
    sampling: Sampling,
    stop_ids: Sequence[int],
) -> tuple[State, jax.Array]:
    """Decodes until all samples have ended, or `until` decoding steps are made since `begin`.

    Returns (State, [steps so far, whether any sample is unfinished, tokens so far]).
    """
    model = off_mesh(fixed.graphs, fixed.weights)
    size, T = prompts.lengths.shape[0], sampling.max_tokens
    keys = sample_keys(prompts.seeds, prompts.first, n)

    def step(s: State, length: int) -> State:
        """Feeds the last token of every sample and draws the next. The tokens of finished samples are dropped.

        It attends to the first `length` tokens of the response cache.
        """
        t = s.t
        positions = jnp.broadcast_to(prompts.lengths[:, None] + t - 1, (size, n))

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, cache: tuple[Sequence[jax.Array], jax.Array]) -> tuple:
            prompt_kv, layer = cache
            shape = (1, *s.kv[0].shape[1:4], length, k.shape[-1])
            response_kv = [jax.lax.dynamic_slice(kv, (layer, 0, 0, 0, 0, 0), shape)[0] for kv in s.kv]
            return attention.decode_step(q, k, v, prompt_kv, prompts.lengths, response_kv, t - 1), (k, v)

        layers = jnp.arange(model.config.num_layers)
        hidden, new_kv = model.run_layers(s.token, positions, attend, (fixed.prompt_kv, layers))
        token, logprob = draw(keys, t, model.logits(hidden), temperature, sampling)
        token = jnp.where(s.done, 0, token)
        return State(
            t=t + 1,
            token=token,
            done=s.done | _stops(token, stop_ids),
            kv=tuple(old.at[:, :, :, :, t - 1].set(new) for old, new in zip(s.kv, new_kv)),
            tokens=s.tokens.at[..., t].set(token),
            logprobs=s.logprobs.at[..., t].set(jnp.where(s.done, 0.0, logprob)),
            lengths=s.lengths + ~s.done,
        )

    def goes_on(s: State) -> jax.Array:
        return (s.t < T) & ~s.done.all()

    def decode(s: State, length: int) -> State:
        """Decodes while `length` cached tokens of the responses are enough."""
        return jax.lax.while_loop(
            lambda s: goes_on(s) & (s.t <= until) & (s.t <= length), functools.partial(step, length=length), s
        )

    s = state
    for length in cache_lengths(T):
        s = decode(s, length)
    sampled = (s.lengths * _wanted(prompts, n)).sum()
    return s, jnp.stack([s.t - 1, goes_on(s).astype(jnp.int32), sampled])


def cache_lengths(T: int) -> list[int]:
    """Tokens of the response cache that decoding attends to: SHORTEST_CACHE, twice as many, and so on up to T."""
    return [length for i in range(T.bit_length()) if (length := SHORTEST_CACHE << i) < T] + [T]


def results(state: State, n: int) -> tuple:
    """tokens, logprobs [P, n, T]; lengths, stopped [P, n]."""
    del n
    return state.tokens, state.logprobs, state.lengths, state.done


def shardings(mesh: Mesh, fixed: Fixed, state: State) -> tuple[Fixed, State]:
    """The shardings of the arrays that `begin` returns."""

    def at(spec: PartitionSpec, tree: object) -> Any:
        return jax.tree.map(lambda x: NamedSharding(mesh, sharding.fit(mesh, spec, x.shape)), tree)

    rows = jax.tree.map(lambda _: sharding.by_rows(mesh), state)
    return (
        dataclasses.replace(
            fixed, weights=gathered_shardings(fixed.weights, mesh), prompt_kv=at(PROMPT_KV, fixed.prompt_kv)
        ),
        dataclasses.replace(rows, t=sharding.replicated(mesh), kv=at(RESPONSE_KV, state.kv)),
    )


def _stops(token: jax.Array, stop_ids: Sequence[int]) -> jax.Array:
    return (token[..., None] == jnp.asarray(stop_ids)).any(-1)


def _wanted(prompts: Prompts, n: int) -> jax.Array:
    """[P, n] bool: is this sample requested?"""
    return jnp.arange(n) < prompts.samples[:, None]
