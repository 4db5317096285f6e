"""Draws tokens from logits."""

import dataclasses

import jax
import jax.numpy as jnp

from srt_jax.rollout.sampler import Sampling

SMALL_VOCABULARY = 1024  # up to this size all tokens are one block
BLOCKS = 128  # The tensor axis of a mesh divides it, so that each device has whole blocks.


def compiled(sampling: Sampling) -> Sampling:
    """The settings that a compiled program depends on. Programs take a temperature above 0 as an argument."""
    return dataclasses.replace(sampling, temperature=float(sampling.temperature > 0), prompts_per_call=0)


def sample_keys(seeds: jax.Array, first: jax.Array, n: int) -> jax.Array:
    """seeds [P, 2] uint32, first [P] -> keys [P, n] of the samples first, first + 1, ... of each prompt."""
    of_prompt = jax.random.wrap_key_data(seeds, impl="threefry2x32")
    return jax.vmap(lambda key, i: jax.vmap(lambda j: jax.random.fold_in(key, j))(i + jnp.arange(n)))(of_prompt, first)


def draw(
    keys: jax.Array, t: jax.Array | int, logits: jax.Array, temperature: jax.Array, sampling: Sampling
) -> tuple[jax.Array, jax.Array]:
    """keys [...], t [...] or scalar, logits [..., V] -> tokens [...], log-probs [...] under their distribution.

    Token t of a sample depends on its key, t and its logits only.
    """
    if sampling.temperature == 0:
        token = logits.argmax(-1)
    else:
        logits = truncate(logits / temperature, sampling)
        flat = logits.reshape(-1, logits.shape[-1])
        token_keys = jax.vmap(jax.random.fold_in)(keys.reshape(-1), jnp.broadcast_to(t, keys.shape).reshape(-1))
        token = jax.vmap(categorical)(token_keys, flat).reshape(keys.shape)
    chosen = jnp.take_along_axis(logits, token[..., None], -1)[..., 0]
    return token.astype(jnp.int32), chosen - jax.nn.logsumexp(logits, -1)


def categorical(key: jax.Array, logits: jax.Array) -> jax.Array:
    """Draws an index of logits [V] by the Gumbel-max trick.

    A large vocabulary is divided into BLOCKS equal blocks. One draw chooses a block by its total probability, and a
    second draw chooses the token in it. The distribution is the same. It needs BLOCKS + V / BLOCKS random numbers
    instead of V, which on CPUs take four times as long as the product with the head that gives the logits.
    """
    V = len(logits)
    if V <= SMALL_VOCABULARY:
        return _argmax_with_noise(key, logits)
    for_block, for_token = jax.random.split(key)
    blocks = jnp.pad(logits, (0, -V % BLOCKS), constant_values=-jnp.inf).reshape(BLOCKS, -1)
    block = _argmax_with_noise(for_block, jax.nn.logsumexp(blocks, -1))
    return block * blocks.shape[1] + _argmax_with_noise(for_token, blocks[block])


def _argmax_with_noise(key: jax.Array, logits: jax.Array) -> jax.Array:
    return (logits + jax.random.gumbel(key, logits.shape)).argmax()


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
