"""avg@k, maj@k and pass@k on named problem sets."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from srt_jax.data.base import Problem
from srt_jax.log import logger
from srt_jax.reward.labels import Graded
from srt_jax.rollout.sampler import Advanced, Rollouts, Sampling, problem_seeds
from srt_jax.run.progress import Progress, SamplerProgress
from srt_jax.run.rollouts import Collected, answer_format, sample_and_grade


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """A named set of problems with their prompt tokens."""

    name: str
    problems: list[Problem]
    prompts: list[list[int]]


def evaluate_all(
    eval_sets: list[EvalSet],
    sampler,
    tokenizer,
    grader,
    config: ConfigDict,
    at: str = "",
    after: float = 0.0,
    check=None,
) -> Iterator[tuple[str, dict[str, float], Collected]]:
    """(name, metrics, graded rollouts) of each set as soon as it is known, with a line of progress meanwhile.

    A line on stdout tells each set's metrics. at: what the lines say of the occasion; after: seconds before which there
    is no progress line; check() is called every second or so and may raise to end the evaluation.
    """
    if not eval_sets:
        return
    sizes = [len(s.problems) * config.eval.samples for s in eval_sets]
    with Progress(sum(sizes), f"evaluation{at}", after=after, percent=True) as progress:
        progress.update(0, "preparing the sampler")
        for eval_set in eval_sets:
            sampler.compile(eval_set.prompts, *evaluation_samples(config))
        before = 0
        for eval_set, size in zip(eval_sets, sizes):
            values, collected = evaluate(
                eval_set,
                sampler,
                tokenizer,
                grader,
                config,
                SamplerProgress(progress, before, size, eval_set.name, check),
            )
            logger.info(f"{eval_set.name}{at}: {describe(values)}")
            yield eval_set.name, values, collected
            before += size


def describe(values: dict[str, float]) -> str:
    """Metrics on one line."""
    return "  ".join(f"{name} {value:.3f}" for name, value in values.items())


def evaluate(
    eval_set: EvalSet, sampler, tokenizer, grader, config: ConfigDict, advanced: Advanced | None = None
) -> tuple[dict[str, float], Collected]:
    """Metrics of one set by config.eval, and its graded rollouts; `advanced` goes to the sampler.

    The random numbers depend on (seed, problem, sample), not on the step: a curve over training compares equal draws.
    """
    collected = sample_and_grade(
        sampler,
        grader,
        tokenizer,
        eval_set.problems,
        eval_set.prompts,
        *evaluation_samples(config),
        problem_seeds(config.seed, "eval", 0, [p.id for p in eval_set.problems]),
        answer_format(config),
        advanced=advanced,
    )
    return metrics(collected.graded, collected.rollouts), collected


def evaluation_samples(config: ConfigDict) -> tuple[int, Sampling]:
    """How many samples of a problem are drawn, and how."""
    e = config.eval
    return e.samples, Sampling(config.batch.max_response_tokens, e.temperature, e.top_p, e.top_k)


def metrics(graded: Graded, rollouts: Rollouts) -> dict[str, float]:
    """avg@k, maj@k, pass@k (means over problems with a known answer), vote share, parse rate, length, truncation."""
    k = graded.true_rewards.shape[1]
    out = {
        "vote_share": float(np.mean([v.share for v in graded.votes])),
        "parse_rate": float(np.mean([v.parsed for v in graded.votes]) / k),
        "distinct_answers": float(np.mean([v.distinct for v in graded.votes])),
        "response_tokens": float(rollouts.lengths.mean()),
        "truncated": float(1 - rollouts.stopped.mean()),
    }
    known = ~np.isnan(graded.true_rewards[:, 0])
    if known.any():
        correct = graded.true_rewards[known].sum(1)
        out[f"avg@{k}"] = float(correct.mean() / k)
        out[f"maj@{k}"] = float(graded.majority_correct[known].mean())
        for j in sorted({1 << i for i in range(1, k.bit_length())} | {k}):
            out[f"pass@{j}"] = float(np.mean([pass_at(k, int(c), j) for c in correct]))
    return out


def rollout_rows(collected: Collected, tokenizer) -> list[dict]:
    """One row per response: what was asked, said, extracted, voted and rewarded."""
    problems, rollouts, graded = collected.problems, collected.rollouts, collected.graded
    texts = iter(tokenizer.batch_decode([r for row in rollouts.responses() for r in row], skip_special_tokens=False))
    rows = []
    for p, problem in enumerate(problems):
        for i, answer in enumerate(graded.answers[p]):
            true = graded.true_rewards[p, i]
            rows.append(
                {
                    "id": problem.id,
                    "sample": i,
                    "problem": problem.prompt,
                    "response": next(texts),
                    "answer": answer,
                    "group": graded.groups[p][i],
                    "label": graded.labels[p],
                    "reward": float(graded.rewards[p, i]),
                    "agreement": float(graded.agreement[p, i]),
                    "kept": bool(graded.kept[p, i]),
                    "true_reward": None if np.isnan(true) else float(true),
                    "tokens": int(rollouts.lengths[p, i]),
                    "stopped": bool(rollouts.stopped[p, i]),
                    "logprob": float(rollouts.logprobs[p, i].sum()),
                }
            )
    return rows


def pass_at(n: int, correct: int, k: int) -> float:
    """Unbiased estimate from n samples that one of k is right: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, eq. 1)."""
    if n - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - correct + 1, n + 1)))
