"""Log-probabilities of given tokens from hidden states, without ever holding [B, S, V] logits."""
import jax
import jax.numpy as jnp


def token_logprobs(hidden, head, targets, temperature=1.0, chunk=512):
    """log p(target) and entropy of the distribution at each position.

    hidden [B, S, D], head [V, D], targets [B, S]; logits are divided by `temperature` first, as the sampler does.
    Works on `chunk` positions at a time and computes the logits again in the backward pass, so memory grows with
    B * chunk * V. Matrix products run in hidden's dtype and accumulate in float32.
    Returns (logprobs [B, S], entropy [B, S]), float32.
    """
    S = targets.shape[1]
    if S <= chunk:
        return _chunk_logprobs(hidden, head, targets, temperature)
    padding = -S % chunk
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, padding)))

    def body(_, start):
        h = jax.lax.dynamic_slice_in_dim(hidden, start, chunk, 1)
        t = jax.lax.dynamic_slice_in_dim(targets, start, chunk, 1)
        return None, _chunk_logprobs(h, head, t, temperature)

    # Chunks run along S, never along B * S: the rows stay on their devices.
    _, parts = jax.lax.scan(jax.checkpoint(body), None, jnp.arange(0, S + padding, chunk))
    return tuple(jnp.moveaxis(p, 0, 1).reshape(p.shape[1], -1)[:, :S] for p in parts)


def _chunk_logprobs(hidden, head, targets, temperature):
    logits = jnp.einsum("bsd,vd->bsv", hidden, head, preferred_element_type=jnp.float32) / temperature
    top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    exp = jnp.exp(logits - top)
    total = exp.sum(-1)
    log_total = jnp.log(total) + top[..., 0]
    # A comparison instead of a gather: no scatter in the backward pass, and it works on a sharded vocabulary.
    is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    logprobs = jnp.where(is_target, logits, 0.0).sum(-1) - log_total
    entropy = log_total - (exp * logits).sum(-1) / total
    return logprobs, entropy
