"""Draws tokens from logits."""

import dataclasses

import jax
import jax.numpy as jnp

from srt_jax.rollout.sampler import Sampling


def compiled(sampling: Sampling) -> Sampling:
    """The settings that a compiled program depends on. Programs take a temperature above 0 as an argument."""
    return dataclasses.replace(sampling, temperature=float(sampling.temperature > 0))


def sample_keys(seeds: jax.Array, first: jax.Array, n: int) -> jax.Array:
    """seeds [P, 2] uint32, first [P] -> keys [P, n] of the samples first, first + 1, ... of each prompt."""
    of_prompt = jax.random.wrap_key_data(seeds, impl="threefry2x32")
    return jax.vmap(lambda key, i: jax.vmap(lambda j: jax.random.fold_in(key, j))(i + jnp.arange(n)))(of_prompt, first)


def draw(
    keys: jax.Array, t: jax.Array | int, logits: jax.Array, temperature: jax.Array, sampling: Sampling
) -> tuple[jax.Array, jax.Array]:
    """keys [...], t [...] or scalar, logits [..., V] -> tokens [...], log-probs [...] under their distribution.

    Token t of a sample depends on its key, t and its logits only. The random numbers are as large as the logits:
    0.3 GB for 512 sequences and a vocabulary of 152k, over all devices.
    """
    if sampling.temperature == 0:
        token = logits.argmax(-1)
    else:
        logits = truncate(logits / temperature, sampling)
        noise = jax.vmap(lambda key, t: jax.random.gumbel(jax.random.fold_in(key, t), logits.shape[-1:]))(
            keys.reshape(-1), jnp.broadcast_to(t, keys.shape).reshape(-1)
        )
        token = (logits + noise.reshape(logits.shape)).argmax(-1)
    chosen = jnp.take_along_axis(logits, token[..., None], -1)[..., 0]
    return token.astype(jnp.int32), chosen - jax.nn.logsumexp(logits, -1)


def truncate(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Keeps the top_k tokens, then the smallest set whose probability reaches top_p."""
    if sampling.top_k < 0 and sampling.top_p >= 1:
        return logits
    ordered = jnp.sort(logits, -1, descending=True)
    if sampling.top_k > 0:
        ordered = jnp.where(jnp.arange(ordered.shape[-1]) < sampling.top_k, ordered, -jnp.inf)
    mass_before = jnp.cumsum(jax.nn.softmax(ordered, -1), -1) - jax.nn.softmax(ordered, -1)
    least = jnp.where((mass_before < sampling.top_p) & (ordered > -jnp.inf), ordered, jnp.inf).min(-1, keepdims=True)
    return jnp.where(logits >= least, logits, -jnp.inf)
