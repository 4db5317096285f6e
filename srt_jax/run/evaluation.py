"""avg@k, maj@k and pass@k on named problem sets."""

from collections.abc import Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from srt_jax.data.prompts import EvalSet
from srt_jax.log import logger
from srt_jax.reward.rewards import Graded
from srt_jax.rollout.sampler import Advanced, Rollouts, Sampler, Sampling, problem_seeds
from srt_jax.run.progress import Progress, SamplerProgress
from srt_jax.run.rollouts import Collected, Grading, sample_and_grade


def evaluate_all(
    eval_sets: list[EvalSet],
    sampler: Sampler,
    grading: Grading,
    config: ConfigDict,
    at: str = "",
    after: float = 0.0,
    check: Advanced | None = None,
) -> Iterator[tuple[str, dict[str, float], Collected]]:
    """Yields (name, metrics, graded rollouts) of each set as soon as it is evaluated; shows a progress line.

    The metrics of each set are logged on one line. at: text after the name of the set, such as " after step 5". after:
    seconds until the progress line appears. check(share, tokens) is called about every second; an exception in it
    ends the evaluation.
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
            advanced = SamplerProgress(progress, before, size, eval_set.name, check)
            values, collected = evaluate(eval_set, sampler, grading, config, advanced)
            logger.info(f"{eval_set.name}{at}: {describe(values)}")
            yield eval_set.name, values, collected
            before += size


def describe(values: dict[str, float]) -> str:
    """Metrics on one line."""
    return "  ".join(f"{name} {value:.3f}" for name, value in values.items())


def evaluate(
    eval_set: EvalSet, sampler: Sampler, grading: Grading, config: ConfigDict, advanced: Advanced | None = None
) -> tuple[dict[str, float], Collected]:
    """The metrics of one set by config.eval, and its graded rollouts; `advanced` is passed to the sampler.

    The random numbers depend on (seed, problem, sample), not on the step: a curve over training compares equal draws.
    """
    seeds = problem_seeds(config.seed, "eval", 0, [p.id for p in eval_set.problems])
    collected = sample_and_grade(
        sampler, grading, eval_set.problems, eval_set.prompts, *evaluation_samples(config), seeds, advanced
    )
    return metrics(collected.graded, collected.rollouts), collected


def evaluation_samples(config: ConfigDict) -> tuple[int, Sampling]:
    """(number of samples per problem, sampling settings) of an evaluation."""
    e = config.eval
    return e.samples, Sampling(config.batch.max_response_tokens, e.temperature, e.top_p, e.top_k)


def metrics(graded: Sequence[Graded], rollouts: Rollouts) -> dict[str, float]:
    """avg@k, maj@k, pass@k (means over problems with a known answer), vote share, parse rate, length, truncation."""
    votes, true_rewards = [g.vote for g in graded], np.stack([g.true_rewards for g in graded])
    k = true_rewards.shape[1]
    out = {
        "vote_share": float(np.mean([v.share for v in votes])),
        "parse_rate": float(np.mean([v.parsed for v in votes]) / k),
        "distinct_answers": float(np.mean([v.distinct for v in votes])),
        "response_tokens": float(rollouts.lengths.mean()),
        "truncated": float(1 - rollouts.stopped.mean()),
    }
    known = ~np.isnan(true_rewards[:, 0])
    if known.any():
        correct = true_rewards[known].sum(1)
        out[f"avg@{k}"] = float(correct.mean() / k)
        out[f"maj@{k}"] = float(np.array([g.majority_correct for g in graded], np.float32)[known].mean())
        for j in sorted({1 << i for i in range(1, k.bit_length())} | {k}):
            out[f"pass@{j}"] = float(np.mean([pass_at(k, int(c), j) for c in correct]))
    return out


def rollout_rows(collected: Collected, tokenizer) -> list[dict]:
    """One row per response: the problem, the response, its answer, vote and rewards."""
    rollouts, rows = collected.rollouts, []
    texts = iter(tokenizer.batch_decode(rollouts.flat(), skip_special_tokens=False))
    for p, (problem, graded) in enumerate(zip(collected.problems, collected.graded, strict=True)):
        for i, answer in enumerate(graded.answers):
            true = graded.true_rewards[i]
            rows.append(
                {
                    "id": problem.id,
                    "sample": i,
                    "problem": problem.prompt,
                    "response": next(texts),
                    "answer": answer,
                    "group": graded.groups[i],
                    "label": graded.label.text,
                    "reward": float(graded.rewards[i]),
                    "agreement": float(graded.shaped[i]),
                    "kept": bool(graded.kept[i]),
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
