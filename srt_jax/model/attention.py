"""Causal attention over right-padded sequences, and one decoding step against a shared prompt.

Letters: B sequences, S tokens, N query heads, K key/value heads, G = N/K, H head dim.
"""
import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that a fully masked row gives a uniform softmax and no NaN


def causal(q, k, v):
    """Attention of each token to itself and the tokens before it, in plain XLA.

    q [B, S, N, H], k and v [B, S, K, H] -> [B, S, N, H]. Rows are right-padded, so the causal mask alone keeps padding
    out of every real token's view. The G = N/K query heads of a key head are stacked along S: one batched matrix
    product per key head, which XLA's CPU backend runs faster than the five-dimensional contraction (1.15 times).
    """
    B, S, N, H = q.shape
    K = k.shape[2]
    G = N // K
    q = q.reshape(B, S, K, G, H).transpose(0, 2, 3, 1, 4).reshape(B * K, G * S, H) * H**-0.5
    k = k.transpose(0, 2, 3, 1).reshape(B * K, H, S)
    v = v.transpose(0, 2, 1, 3).reshape(B * K, S, H)
    scores = jnp.einsum("bsh,bht->bst", q, k, preferred_element_type=jnp.float32)
    visible = jnp.tile(jnp.tril(jnp.ones((S, S), bool)), (G, 1))  # [G * S, S]
    weights = jax.nn.softmax(jnp.where(visible, scores, MASKED), -1).astype(v.dtype)
    out = jnp.einsum("bst,bth->bsh", weights, v)
    return out.reshape(B, K, G, S, H).transpose(0, 3, 1, 2, 4).reshape(B, S, N, H)


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
