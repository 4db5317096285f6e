"""Continuous batching: a fixed number of slots decodes. A sequence that ends frees its slot for the next request.

A request is one sample of one prompt. Every row shard of the mesh (data x fsdp) has its own prompts, queue and slots,
and processes them independently: nothing moves between shards, and no shard waits for another. A prompt's keys
and values are computed once and copied into a slot with each of its requests. Letters: P prompts (rows) of n samples,
Q = P * n requests, W slots, S prompt tokens, T response tokens, C = S + T cached tokens of a slot.

A cache has keys [..., H, C] and values [..., C, H]. In this order both products of attention read it without a
transposition, which takes XLA's CPU backend longer than the product itself.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from srt_jax.model import attention, sharding
from srt_jax.model.memory import PREFILL_TOKENS
from srt_jax.rollout.jax.decoding import Fixed, gathered_shardings, next_logits, prefill, split_layers
from srt_jax.rollout.jax.prompts import Prompts
from srt_jax.rollout.jax.sampling import draw, sample_keys
from srt_jax.rollout.sampler import Sampling

ROWS = Spec(sharding.ROWS)
KV = Spec(None, sharding.ROWS, "tensor")  # the partition of a cache [L, rows, K, ...]


@flax.struct.dataclass
class State:
    """The state of one shard. A slot without a request has request Q, and its results are dropped.

    By slot: request [W]; token [W], which is fed next; t [W], the number of tokens drawn so far.
    kv: for each layer the pair of keys [W, K, H, C] and values [W, K, C, H]. The first (prompt length - 1 + t) of C
    are filled.
    next [1]: requests taken so far. steps [1]: decoding steps so far.
    The results, by request: tokens, logprobs [Q, T], lengths, stopped [Q].
    """

    request: jax.Array
    token: jax.Array
    t: jax.Array
    kv: list[tuple[jax.Array, ...]]
    next: jax.Array
    steps: jax.Array
    tokens: jax.Array
    logprobs: jax.Array
    lengths: jax.Array
    stopped: jax.Array


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
    num_slots: int,
) -> tuple[Fixed, State]:
    """Runs the prefill, and puts the first requests into slots. Returns (Fixed, State of every shard)."""
    del temperature, stop_ids
    config = nnx.merge(graphdef, params).config
    prompt_kv = _prefill(params, prompts.tokens, graphdef, mesh)
    P, S = prompts.tokens.shape
    slots = min(num_slots, P * n)  # both are multiples of the shards
    C, H = S + sampling.max_tokens, config.head_dim
    kv = [
        tuple(
            sharding.constrain(jnp.zeros((slots, config.num_kv_heads, *last), prompt_kv[0].dtype), mesh, Spec(*KV[1:]))
            for last in ((H, C), (C, H))
        )
        for _ in range(config.num_layers)
    ]
    first = _by_shard(
        functools.partial(_first, n=n, max_tokens=sampling.max_tokens), mesh, (ROWS, Spec(None, sharding.ROWS), ROWS)
    )
    graphs, weights = split_layers(graphdef, params, mesh)
    return Fixed(weights, prompt_kv, (graphs, mesh)), first(prompts, prompt_kv, kv)


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
    """Decodes until all requests have ended, or `until` decoding steps are made since `begin`.

    Returns (State, [largest number of steps of a shard so far, whether any request is left, tokens so far]).
    """
    graphs, mesh = fixed.graphs
    decode = _by_shard(
        functools.partial(_decode, graphs=graphs, n=n, sampling=sampling, stops=stop_ids),
        mesh,
        (Spec(), ROWS, Spec(None, sharding.ROWS), ROWS, Spec(), Spec()),
    )
    s = decode(fixed.weights, prompts, fixed.prompt_kv, state, temperature, until)
    left = (s.request < len(s.tokens) // sharding.num_row_shards(mesh)).any()
    return s, jnp.stack([s.steps.max(), left.astype(jnp.int32), s.lengths.sum()])


def results(state: State, n: int) -> tuple:
    """tokens, logprobs [P, n, T]; lengths, stopped [P, n]."""
    return tuple(x.reshape(-1, n, *x.shape[1:]) for x in (state.tokens, state.logprobs, state.lengths, state.stopped))


def shardings(mesh: Mesh, fixed: Fixed, state: State) -> tuple[Fixed, State]:
    """The shardings of the arrays that `begin` returns."""

    def at(spec: Spec, tree: object) -> Any:
        return jax.tree.map(lambda x: NamedSharding(mesh, sharding.fit(mesh, spec, x.shape)), tree)

    others, layers = fixed.weights
    weights = (
        gathered_shardings(others, mesh),
        [gathered_shardings(layer, mesh, "layers.", len(layers)) for layer in layers],
    )
    rows = jax.tree.map(lambda _: sharding.by_rows(mesh), state)
    return (
        dataclasses.replace(fixed, weights=weights, prompt_kv=at(KV, fixed.prompt_kv)),
        dataclasses.replace(rows, kv=at(Spec(*KV[1:]), state.kv)),
    )


def _by_shard(function: Callable, mesh: Mesh, in_specs: tuple) -> Callable:
    """Runs the function in each data x fsdp shard by itself. The compiler still splits a shard's work over `tensor`."""
    return jax.shard_map(
        function, mesh=mesh, axis_names=set(sharding.ROWS), check_vma=False, in_specs=in_specs, out_specs=ROWS
    )


def _prefill(params: nnx.State, tokens: jax.Array, graphdef: nnx.GraphDef, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
    """tokens [P, S] -> the pair of keys [L, P, K, H, S] and values [L, P, K, S, H].

    It takes a few prompts of every shard at a time.
    """
    shards, (P, S) = sharding.num_row_shards(mesh), tokens.shape
    local = P // shards
    chunk = next(c for c in range(max(1, min(local, PREFILL_TOKENS // S)), 0, -1) if local % c == 0)
    chunks = tokens.reshape(shards, local // chunk, chunk, S).swapaxes(0, 1).reshape(-1, shards * chunk, S)
    chunks = sharding.constrain(chunks, mesh, Spec(None, sharding.ROWS))

    def join(kv: jax.Array) -> jax.Array:  # [chunks, L, shards * chunk, S, K, H]
        L, K, H = kv.shape[1], *kv.shape[4:]
        kv = kv.reshape(-1, L, shards, chunk, S, K, H).transpose(1, 2, 0, 3, 5, 4, 6).reshape(L, P, K, S, H)
        return sharding.constrain(kv, mesh, KV)

    keys, values = jax.tree.map(join, jax.lax.map(lambda tokens: prefill(graphdef, params, tokens)[1], chunks))
    return keys.swapaxes(-1, -2), values


def _requests(prompts: Prompts, n: int) -> tuple:
    """(indices of the wanted requests, then of the others [Q]; how many are wanted; each prompt's last token)."""
    wanted = (jnp.arange(n) < prompts.samples[:, None]).reshape(-1)
    last_token = jnp.take_along_axis(prompts.tokens, jnp.maximum(prompts.lengths - 1, 0)[:, None], 1)[:, 0]
    return jnp.argsort(~wanted, stable=True), wanted.sum(), last_token


def _refill(s: State, prompt_kv: tuple[jax.Array, jax.Array], n: int, requests: tuple[jax.Array, ...]) -> State:
    """Puts the next requests into free slots: copies the prompt's cache, and feeds the prompt's last token next."""
    Q, (queue, queued, last_token) = len(s.tokens), requests

    def waiting(s: State) -> jax.Array:
        return (s.next[0] < queued) & (s.request == Q).any()

    def take(s: State) -> State:
        slot, request = (s.request == Q).argmax(), queue[s.next[0]]
        row = request // n
        kv = [
            tuple(
                jax.lax.dynamic_update_slice(cache, source[i, row][None], (slot, 0, 0, 0))
                for cache, source in zip(pair, prompt_kv)
            )
            for i, pair in enumerate(s.kv)
        ]
        return dataclasses.replace(
            s,
            request=s.request.at[slot].set(request),
            token=s.token.at[slot].set(last_token[row]),
            t=s.t.at[slot].set(0),
            kv=kv,
            next=s.next + 1,
        )

    return jax.lax.while_loop(waiting, take, s)


def _first(
    prompts: Prompts,
    prompt_kv: tuple[jax.Array, jax.Array],
    kv: list[tuple[jax.Array, ...]],
    *,
    n: int,
    max_tokens: int,
) -> State:
    """Puts the first requests of one shard into the empty cache `kv`.

    prompts and prompt_kv, the result of `_prefill`, are those of the shard.
    """
    Q, W = prompts.lengths.shape[0] * n, kv[0][0].shape[0]
    zeros = functools.partial(jnp.zeros, dtype=jnp.int32)
    state = State(
        jnp.full(W, Q, jnp.int32),
        zeros(W),
        zeros(W),
        kv,
        zeros(1),
        zeros(1),
        zeros((Q, max_tokens)),
        jnp.zeros((Q, max_tokens)),
        zeros(Q),
        jnp.zeros(Q, bool),
    )
    return _refill(state, prompt_kv, n, _requests(prompts, n))


def _decode(
    params: nnx.State,
    prompts: Prompts,
    prompt_kv: tuple[jax.Array, jax.Array],
    state: State,
    temperature: jax.Array,
    until: jax.Array,
    *,
    graphs: tuple,
    n: int,
    sampling: Sampling,
    stops: Sequence[int],
) -> State:
    """Decodes in one shard until its requests have ended, or it has made `until` steps."""
    (graph, layer), (others, layers) = graphs, params
    model, layers = nnx.merge(graph, others), [nnx.merge(layer, weights) for weights in layers]
    T, (Q, W) = sampling.max_tokens, (len(state.tokens), len(state.request))
    keys = sample_keys(prompts.seeds, prompts.first, n).reshape(Q)
    stop_ids, requests = jnp.asarray(stops), _requests(prompts, n)

    def step(s: State) -> State:
        """Feeds the current token of every slot and draws the next; then ended slots take new requests."""
        position = jnp.maximum(prompts.lengths[s.request // n] - 1 + s.t, 0)  # the position of the token that is fed
        logits, new_kv = next_logits(
            model, layers, s.token, position, lambda q, k, v, cache: (_attend(q, k, v, cache, position), (k, v)), s.kv
        )
        token, logprob = draw(keys[s.request], s.t, logits, temperature, sampling)
        stopped = (token[:, None] == stop_ids).any(-1)
        ended = stopped | (s.t + 1 == T)
        at = (s.request, s.t)  # an empty slot has an index out of range, and its update is dropped
        # It depends on the token, so a cache is written after it is read. Otherwise the compiler would copy the cache.
        kept = jnp.where(ended, s.kv[0][0].shape[-1], position)
        s = dataclasses.replace(
            s,
            tokens=s.tokens.at[at].set(token, mode="drop"),
            logprobs=s.logprobs.at[at].set(logprob, mode="drop"),
            lengths=s.lengths.at[s.request].set(s.t + 1, mode="drop"),
            stopped=s.stopped.at[s.request].set(stopped, mode="drop"),
            kv=[
                (
                    keys.at[jnp.arange(W), :, :, kept].set(k, mode="drop"),
                    values.at[jnp.arange(W), :, kept].set(v, mode="drop"),
                )
                for (keys, values), (k, v) in zip(s.kv, new_kv)
            ],
            request=jnp.where(ended, Q, s.request),
            token=token,
            t=s.t + 1,
            steps=s.steps + 1,
        )
        return _refill(s, prompt_kv, n, requests)

    return jax.lax.while_loop(lambda s: (s.request < Q).any() & (s.steps[0] < until), step, state)


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, cache: tuple[jax.Array, jax.Array], lengths: jax.Array
) -> jax.Array:
    """Attention of one new token per slot to itself and to the first `lengths` [W] cached tokens.

    q [W, N, H], k and v [W, K, H] of the new token; cache: keys [W, K, H, C] and values [W, K, C, H].
    Returns [W, N, H].
    """
    W, N, H = q.shape
    K = k.shape[1]
    cached_k, cached_v = cache
    q = q.reshape(W, K, N // K, H) * H**-0.5
    to_cached = jnp.einsum("wkgh,wkhc->wkgc", q, cached_k, preferred_element_type=jnp.float32)
    to_self = jnp.einsum("wkgh,wkh->wkg", q, k, preferred_element_type=jnp.float32)[..., None]
    filled = jnp.arange(cached_k.shape[-1]) < lengths[:, None]
    to_cached = jnp.where(filled[:, None, None], to_cached, attention.MASKED)
    weights = jax.nn.softmax(jnp.concatenate([to_cached, to_self], -1), -1).astype(q.dtype)
    out = jnp.einsum("wkgc,wkch->wkgh", weights[..., :-1], cached_v) + weights[..., -1:] * v[:, :, None]
    return out.reshape(W, N, H)
