"""Compares a trained policy with its base model on the same probe problems.

Both answer the problems with the same random numbers. docs/laboratory.md lists the measures. Their pure functions are
in reward/measures.py.
"""

import bisect
import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from srt_jax.grading import answers as extraction
from srt_jax.grading.grader import Grader
from srt_jax.model import sharding
from srt_jax.model.logprobs import token_logprobs
from srt_jax.reward import measures
from srt_jax.reward.rewards import agrees
from srt_jax.rollout.sampler import Rollouts
from srt_jax.run.anchor import agreement_by_prompt, confident
from srt_jax.run.rollouts import PROMPT_END, Collected, response_texts

ROWS = 64  # sequences of one scoring call
KL_SAMPLES = 4  # an evaluation measures the KL on this many samples of each problem


def compare(
    base: Collected, now: Collected, reference: np.ndarray, answer: np.ndarray, passes: Sequence[dict], grader: Grader
) -> dict:
    """The measures of one probe set as a dict that JSON can store.

    base, now: graded rollouts of the base and of the current policy on the same problems. reference [P, n, T]: the
    base's log-probs of the tokens of `now`. answer [P, n, T] bool: which of these tokens belong to an answer. passes:
    the evaluation metrics of base and now.
    """
    response = np.arange(now.rollouts.tokens.shape[2]) < now.rollouts.lengths[..., None]
    kl_answer, kl_reasoning = measures.kl_apart(now.rollouts.logprobs, reference, response, answer)
    keys = [measures.answer_keys([g.answers for g in c.graded], [g.groups for g in c.graded]) for c in (base, now)]
    same = [measures.same_answer(k) for k in keys]
    known = [p for p, graded in enumerate(now.graded) if not np.isnan(graded.majority_correct)]
    curves = [pass_at_k(found) for found in passes]
    return {
        "problems": len(now.problems),
        "anchored_agreement": anchored_agreement(base, now, grader),
        "answer_information": {
            "base": measures.answer_information(keys[0]),
            "now": measures.answer_information(keys[1]),
        },
        "same_answer": {"base": same[0], "now": same[1], "excess": measures.excess(same[1], same[0])},
        "kl": {"answer": kl_answer, "reasoning": kl_reasoning},
        "response_tokens": {"base": passes[0]["response_tokens"], "now": passes[1]["response_tokens"]},
        "truncated": {"base": passes[0]["truncated"], "now": passes[1]["truncated"]},
        "pass_at_k": {"base": curves[0], "now": curves[1], "crossing": measures.pass_at_k_crossing(*curves)},
        "flips": [dataclasses.asdict(row) for row in flips(base, now, known, grader)] if known else [],
    }


def pass_at_k(found: dict[str, float]) -> dict[int, float]:
    """{k: pass@k} from the metrics of an evaluation set. pass@1 is the metric avg@k."""
    return {
        1 if metric.startswith("avg@") else int(metric.partition("@")[2]): value
        for metric, value in found.items()
        if metric.startswith(("avg@", "pass@"))
    }


def anchored_agreement(base: Collected, now: Collected, grader: Grader) -> float:
    """Share of the current policy's samples that agree with the base's majority.

    Problems on which that majority leads by less than CONFIDENT do not count. NaN if no problem counts.
    """
    majorities = [confident(g.vote.label, g.vote.margin) for g in base.graded]
    found = agreement_by_prompt(majorities, now.graded, grader)
    return float(np.mean(found)) if found else float("nan")


def flips(base: Collected, now: Collected, known: Sequence[int], grader: Grader) -> list[measures.Flips]:
    """The flip table of the problems `known`, which have a known answer. Two votes without any answer are equal."""
    winners = [[c.graded[p].vote.label for p in known] for c in (base, now)]
    same = [
        a is b if a is None or b is None else bool(agrees([b], a, grader, None)[0])
        for a, b in zip(*winners, strict=True)
    ]
    base_right, now_right = ([c.graded[p].majority_correct > 0.5 for p in known] for c in (base, now))
    return measures.flip_table(base_right, now_right, same, [base.graded[p].vote.share for p in known])


def kl_metrics(
    graphdef, reference, mesh, rollouts: Rollouts, temperature: float, tokenizer, form: extraction.Format, rows: int
) -> dict[str, float]:
    """kl, kl_answer and kl_reasoning of an evaluation set: the KL to the reference on up to KL_SAMPLES samples each.

    It compares the sampler's log-probs with those of `reference`, the weights of the initial model. temperature: that
    of the samples. rows: sequences of one scoring call.
    """
    rollouts = rollouts.first(KL_SAMPLES)
    theirs = score(graphdef, reference, mesh, rollouts, temperature, rows)
    response = np.arange(rollouts.tokens.shape[2]) < rollouts.lengths[..., None]
    answer = answer_tokens(rollouts, tokenizer, form)
    of_answer, of_reasoning = measures.kl_apart(rollouts.logprobs, theirs, response, answer)
    return {
        "kl": measures.kl(rollouts.logprobs, theirs, response),
        "kl_answer": of_answer,
        "kl_reasoning": of_reasoning,
    }


def score(graphdef, params, mesh, rollouts: Rollouts, temperature: float, rows: int = ROWS) -> np.ndarray:
    """[P, n, T] float32: the model's log-probs of the response tokens at this temperature, 0 after the response.

    rows: sequences of one call, rounded up to a multiple of the row shards.
    """
    P, n, T = rollouts.tokens.shape
    longest = max(map(len, rollouts.prompts))
    shards = sharding.num_row_shards(mesh)
    rows = -(-rows // shards) * shards
    program, split = _program(graphdef, mesh, temperature), NamedSharding(mesh, PartitionSpec(sharding.ROWS))
    tokens = np.zeros((-(-P * n // rows) * rows, longest + T), np.int32)
    starts = np.repeat([len(prompt) for prompt in rollouts.prompts], n)
    for row, (p, i) in zip(tokens, np.ndindex(P, n)):
        prompt, length = rollouts.prompts[p], rollouts.lengths[p, i]
        row[: len(prompt)] = prompt
        row[len(prompt) : len(prompt) + length] = rollouts.tokens[p, i, :length]
    parts = np.split(tokens, len(tokens) // rows)
    found = np.concatenate([jax.device_get(program(params, sharding.place(part, split))) for part in parts])
    # Position s of the program's output has the log-prob of token s + 1.
    places = starts[:, None] - 1 + np.arange(T)
    out = np.take_along_axis(found[: P * n], np.minimum(places, found.shape[1] - 1), 1).reshape(P, n, T)
    return np.where(np.arange(T) < rollouts.lengths[..., None], out, 0.0)


@functools.lru_cache(maxsize=4)  # a run's evaluations use one program
def _program(graphdef, mesh, temperature: float):
    def logprobs(params, tokens):
        model = nnx.merge(graphdef, params)
        return token_logprobs(model(tokens)[:, :-1], model.head_weights(), tokens[:, 1:], temperature, mesh=mesh)[0]

    return jax.jit(logprobs, out_shardings=sharding.replicated(mesh))


def answer_tokens(rollouts: Rollouts, tokenizer, form: extraction.Format) -> np.ndarray:
    """[P, n, T] bool: True on the tokens of the extracted answer. A response without an answer has none."""
    mask = np.zeros(rollouts.tokens.shape, bool)
    for p, prompt in enumerate(rollouts.prompts):
        inside = extraction.opens_reasoning(tokenizer.decode(prompt[-PROMPT_END:]))
        for i, length in enumerate(rollouts.lengths[p]):
            tokens = rollouts.tokens[p, i, :length]
            answer = extraction.extract(response_texts([tokens], tokenizer)[0], form, inside)
            if answer:
                mask[p, i, slice(*span_of_tokens(tokens, answer.start, answer.end, tokenizer))] = True
    return mask


def span_of_tokens(tokens: np.ndarray, start: int, end: int, tokenizer) -> tuple[int, int]:
    """The range [first, last) of the tokens whose text overlaps the characters [start, end) of the response's text."""

    def characters(count: int) -> int:
        return len(response_texts([tokens[:count]], tokenizer)[0])

    counts = range(len(tokens) + 1)
    # The range begins with the last token that begins at or before `start`. It ends with the first that reaches `end`.
    first = bisect.bisect_right(counts, start, key=characters) - 1
    return first, bisect.bisect_left(counts, end, key=characters)
