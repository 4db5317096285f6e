"""The in-process sampler: prefill and decoding in one jitted program per prompt bucket.

The n samples of a prompt share its prefill and its keys and values. Each sample draws from a random key of its own, so
at equal compiled shape it does not depend on its neighbours. Letters: P prompts, n samples of each, S prompt tokens,
T response tokens; L, K, H, V as in model/decoder.py.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from srt_jax.model import attention, sharding, weights
from srt_jax.rollout.sampler import Rollouts, Sampling


class JaxSampler:
    """Samples from the trainer's own parameters; `load` is a pointer."""

    def __init__(self, graphdef, mesh: Mesh, stop_ids, prompt_buckets, prompts_per_call: int):
        self._graphdef, self._mesh = graphdef, mesh
        self._stop_ids = tuple(int(i) for i in stop_ids)
        self._buckets = sorted(prompt_buckets)
        self._prompts_per_call = prompts_per_call
        self._params, self._version = None, -1
        self._programs = {}

    def load(self, params, version: int) -> None:
        """Points at the parameters; they must live until the next load."""
        self._params, self._version = params, version

    def close(self) -> None:
        """Nothing to release but the pointer."""
        self._params = None

    def generate(self, prompts, n: int, sampling: Sampling, seeds, finished=None) -> Rollouts:
        """Rollouts in the order of the prompts. Raises ValueError for an empty prompt or one beyond the last bucket."""
        P, T = len(prompts), sampling.max_tokens
        tokens = np.zeros((P, n, T), np.int32)
        logprobs = np.zeros((P, n, T), np.float32)
        lengths = np.zeros((P, n), np.int32)
        stopped = np.zeros((P, n), bool)
        pending = []
        for bucket, indices in self._calls(prompts):
            args = self._arguments(prompts, seeds, bucket, indices)
            # Queued without waiting: the device goes on to the next call while the host unpacks this one.
            pending.append((indices, self._program(n, sampling)(self._params, *args)))
        for indices, results in pending:
            for array, result in zip((tokens, logprobs, lengths, stopped), results):
                array[indices] = np.asarray(result)[:len(indices)]
            for p in indices if finished else ():
                finished(p, [row[:length] for row, length in zip(tokens[p], lengths[p])])
        return Rollouts([list(p) for p in prompts], tokens, lengths, logprobs, stopped, self._version)

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

    def _arguments(self, prompts, seeds, bucket, indices):
        ids = np.zeros((self._prompts_per_call, bucket), np.int32)
        lengths = np.zeros(self._prompts_per_call, np.int32)  # 0: an empty row, finished from the start
        keys = np.zeros((self._prompts_per_call, 2), np.uint32)
        for row, i in enumerate(indices):
            ids[row, :len(prompts[i])] = prompts[i]
            lengths[row] = len(prompts[i])
            keys[row] = int(seeds[i]) >> 32, int(seeds[i]) & 0xFFFFFFFF
        return jax.device_put((ids, lengths, keys), sharding.by_rows(self._mesh))

    def _program(self, n: int, sampling: Sampling):
        if (n, sampling) not in self._programs:
            sample = functools.partial(
                _sample, graphdef=self._graphdef, n=n, sampling=sampling, stop_ids=self._stop_ids, mesh=self._mesh)
            self._programs[n, sampling] = jax.jit(sample)
        return self._programs[n, sampling]


def _sample(params, prompts, prompt_lengths, seeds, *, graphdef, n, sampling, stop_ids, mesh):
    """prompts [P, S], prompt_lengths [P], seeds [P, 2] -> tokens, logprobs [P, n, T]; lengths, stopped [P, n]."""
    model = nnx.merge(graphdef, _compute_copy(params, graphdef))
    P, T = prompts.shape[0], sampling.max_tokens
    rows = functools.partial(jax.lax.with_sharding_constraint, shardings=sharding.by_rows(mesh))
    draw = functools.partial(_draw, sampling=sampling)
    keys = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n)))(
        jax.random.wrap_key_data(seeds, impl="threefry2x32"))  # [P, n]
    stops = jnp.asarray(stop_ids)

    hidden, prompt_kv = model.run_layers(
        prompts, jnp.broadcast_to(jnp.arange(prompts.shape[1]), prompts.shape),
        lambda q, k, v, _: (attention.causal(q, k, v), (k, v)))
    last = jnp.take_along_axis(hidden, jnp.maximum(prompt_lengths - 1, 0)[:, None, None], 1)  # [P, 1, D]
    logits = jnp.broadcast_to(model.logits(last), (P, n, model.config.vocab_size))
    token, logprob = draw(keys, 0, logits)
    config = model.config
    kv_shape = (config.num_layers, P, n, T, config.num_kv_heads, config.head_dim)
    state = {
        "t": jnp.ones((), jnp.int32),
        "token": rows(token),
        "done": rows((token[..., None] == stops).any(-1) | (prompt_lengths == 0)[:, None]),
        "tokens": rows(jnp.zeros((P, n, T), jnp.int32).at[..., 0].set(token)),
        "logprobs": rows(jnp.zeros((P, n, T)).at[..., 0].set(logprob)),
        "lengths": rows(jnp.ones((P, n), jnp.int32)),
        "kv": tuple(jnp.zeros(kv_shape, model.dtype) for _ in range(2)),
    }

    def step(s):
        """Feeds the last token of every sample and draws the next; finished samples go along and are not kept."""
        t = s["t"]  # tokens drawn so far; the last of them is not in the cache yet
        positions = jnp.broadcast_to(prompt_lengths[:, None] + t - 1, (P, n))

        def attend(q, k, v, cache):
            prompt_kv, response_kv = cache
            return attention.decode_step(q, k, v, prompt_kv, prompt_lengths, response_kv, t - 1), (k, v)

        hidden, new_kv = model.run_layers(s["token"], positions, attend, (prompt_kv, s["kv"]))
        token, logprob = draw(keys, t, model.logits(hidden))
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
    return s["tokens"], s["logprobs"], s["lengths"], s["done"]


def _draw(keys, t, logits, *, sampling: Sampling):
    """keys [P, n], logits [P, n, V] -> token [P, n] and its log-prob under the distribution it is drawn from."""
    if sampling.temperature == 0:
        token = logits.argmax(-1)
    else:
        logits = _truncate(logits / sampling.temperature, sampling)
        noise = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, t), logits.shape[-1:])))(keys)
        token = (logits + noise).argmax(-1)
    chosen = jnp.take_along_axis(logits, token[..., None], -1)[..., 0]
    return token.astype(jnp.int32), chosen - jax.nn.logsumexp(logits, -1)


def _truncate(logits, sampling: Sampling):
    """Keeps the top_k tokens, then the smallest set whose probability reaches top_p."""
    if sampling.top_k < 0 and sampling.top_p >= 1:
        return logits
    ordered = jnp.sort(logits, -1, descending=True)
    if sampling.top_k > 0:
        ordered = jnp.where(jnp.arange(ordered.shape[-1]) < sampling.top_k, ordered, -jnp.inf)
    mass_before = jnp.cumsum(jax.nn.softmax(ordered, -1), -1) - jax.nn.softmax(ordered, -1)
    least = jnp.where((mass_before < sampling.top_p) & (ordered > -jnp.inf), ordered, jnp.inf).min(-1, keepdims=True)
    return jnp.where(logits >= least, logits, -jnp.inf)


def _compute_copy(params, graphdef):
    """Matrices in the compute dtype, once per call; norm scales stay float32, as the trainer uses them."""
    dtype = nnx.merge(graphdef, params).dtype
    return weights.map_with_path(lambda path, x: x if path.endswith("scale") else x.astype(dtype), params)
