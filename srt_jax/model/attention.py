"""Causal attention over right-padded sequences, and one decoding step against a shared prompt.

Letters: B sequences, S tokens, N query heads, K key/value heads, G = N/K, H head dim.
"""
import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that a fully masked row gives a uniform softmax and no NaN


def causal(q, k, v, lengths):
    """Attention of each token to itself and the tokens before it.

    q [B, S, N, H], k and v [B, S, K, H], lengths [B] real tokens of each right-padded row. Returns [B, S, N, H].
    Padding lies to the right, so the causal mask alone keeps it out of every real token's view.
    """
    del lengths
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="xla")


def decode_step(q, k, v, prompt_kv, prompt_lengths, response_kv, step):
    """One new token of each sample against its prompt's keys, its own earlier ones, and itself.

    q [P, n, N, H], k and v [P, n, K, H] of the new token; prompt_kv a pair [P, Sp, K, H], shared by the n samples of a
    prompt; prompt_lengths [P]; response_kv a pair [P, n, T, K, H] of which the first `step` are filled.
    Returns [P, n, N, H].
    """
    P, n, N, H = q.shape
    K = k.shape[2]
    prompt_k, prompt_v = prompt_kv
    response_k, response_v = response_kv
    q = q.reshape(P, n, K, N // K, H) * H**-0.5
    f32 = jnp.float32
    to_prompt = jnp.einsum("pnkgh,pskh->pnkgs", q, prompt_k, preferred_element_type=f32)
    to_response = jnp.einsum("pnkgh,pntkh->pnkgt", q, response_k, preferred_element_type=f32)
    to_self = jnp.einsum("pnkgh,pnkh->pnkg", q, k, preferred_element_type=f32)[..., None]
    Sp, T = to_prompt.shape[-1], to_response.shape[-1]
    real = jnp.arange(Sp) < prompt_lengths[:, None]  # [P, Sp]
    to_prompt = jnp.where(real[:, None, None, None], to_prompt, MASKED)
    to_response = jnp.where(jnp.arange(T) < step, to_response, MASKED)
    weights = jax.nn.softmax(jnp.concatenate([to_prompt, to_response, to_self], -1), -1).astype(q.dtype)
    out = jnp.einsum("pnkgs,pskh->pnkgh", weights[..., :Sp], prompt_v)
    out += jnp.einsum("pnkgt,pntkh->pnkgh", weights[..., Sp:Sp + T], response_v)
    out += weights[..., -1:] * v[:, :, :, None]
    return out.reshape(P, n, N, H)
