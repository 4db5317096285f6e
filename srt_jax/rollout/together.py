"""All samples of a call decode together, in step, until the longest has ended.

The samples of a prompt share its keys and values: the cache is one prompt part [L, P, S, K, H] and one response part
[L, P, n, T, K, H]. Letters: P prompts, n samples of each, S prompt tokens, T response tokens; others as in
model/decoder.py.
"""
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from srt_jax.model import attention, sharding
from srt_jax.rollout.decoding import gathered, off_mesh, prefill
from srt_jax.rollout.drawing import draw, sample_keys


def sample(params, prompts, temperature, *, graphdef, mesh, n, sampling, stop_ids):
    """Prompts -> tokens, logprobs [P, n, T]; lengths, stopped [P, n]; decoding steps []."""
    model = off_mesh(graphdef, gathered(params, mesh))
    size, T = prompts.lengths.shape[0], sampling.max_tokens
    rows = functools.partial(jax.lax.with_sharding_constraint, shardings=sharding.by_rows(mesh))
    keys = sample_keys(prompts.seeds, prompts.first, n)
    stops = jnp.asarray(stop_ids)

    hidden, prompt_kv = prefill(graphdef, params, prompts.tokens)
    last = jnp.take_along_axis(hidden, jnp.maximum(prompts.lengths - 1, 0)[:, None, None], 1)  # [P, 1, D]
    logits = jnp.broadcast_to(model.logits(last), (size, n, model.config.vocab_size))
    token, logprob = draw(keys, 0, logits, temperature, sampling)
    config = model.config
    kv_shape = (config.num_layers, size, n, T, config.num_kv_heads, config.head_dim)
    kv_spec = PartitionSpec(None, sharding.ROWS, None, None, "tensor")
    state = {
        "t": jnp.ones((), jnp.int32),
        "token": rows(token),
        "done": rows((token[..., None] == stops).any(-1) | (jnp.arange(n) >= prompts.samples[:, None])),
        "tokens": rows(jnp.zeros((size, n, T), jnp.int32).at[..., 0].set(token)),
        "logprobs": rows(jnp.zeros((size, n, T)).at[..., 0].set(logprob)),
        "lengths": rows(jnp.ones((size, n), jnp.int32)),
        "kv": tuple(sharding.constrain(jnp.zeros(kv_shape, model.dtype), mesh, kv_spec) for _ in range(2)),
    }

    def step(s):
        """Feeds the last token of every sample and draws the next; finished samples go along and are not kept."""
        t = s["t"]  # tokens drawn so far; the last of them is not in the cache yet
        positions = jnp.broadcast_to(prompts.lengths[:, None] + t - 1, (size, n))

        def attend(q, k, v, cache):
            prompt_kv, response_kv = cache
            return attention.decode_step(q, k, v, prompt_kv, prompts.lengths, response_kv, t - 1), (k, v)

        hidden, new_kv = model.run_layers(s["token"], positions, attend, (prompt_kv, s["kv"]))
        token, logprob = draw(keys, t, model.logits(hidden), temperature, sampling)
        done = s["done"]
        token = jnp.where(done, 0, token)
        return {
            "t": t + 1,
            "token": token,
            "done": done | (token[..., None] == stops).any(-1),
            "tokens": s["tokens"].at[..., t].set(token),
            "logprobs": s["logprobs"].at[..., t].set(jnp.where(done, 0.0, logprob)),
            "lengths": s["lengths"] + ~done,
            "kv": tuple(old.at[:, :, :, t - 1].set(new) for old, new in zip(s["kv"], new_kv)),
        }

    s = jax.lax.while_loop(lambda s: (s["t"] < T) & ~s["done"].all(), step, state)
    return s["tokens"], s["logprobs"], s["lengths"], s["done"], s["t"] - 1
