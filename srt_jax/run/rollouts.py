"""The rollouts of a step: sampled, their answers extracted and graded, prompts that teach nothing replaced."""

import dataclasses
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ml_collections import ConfigDict

from srt_jax.data.base import Problem
from srt_jax.data.batching import refill_order
from srt_jax.grading import answers as extraction
from srt_jax.reward import labels
from srt_jax.rollout.sampler import Advanced, Rollouts, Sampling, problem_seeds
from srt_jax.runtime import is_first_process, processes

PROMPT_END = 32  # tokens at the end of a prompt, in which a template may open the reasoning


@dataclasses.dataclass(frozen=True)
class Collected:
    """Problems with their graded rollouts, the seconds it took by phase, and the batches drawn for them."""

    problems: list[Problem]
    rollouts: Rollouts
    graded: labels.Graded
    seconds: dict[str, float]
    rounds: int = 1


def sample_and_grade(
    sampler,
    grader,
    tokenizer,
    problems: list[Problem],
    prompts: Sequence[Sequence[int]],
    n: int,
    sampling: Sampling,
    seeds,
    form: extraction.Format,
    settings: labels.LabelSettings | None = None,
    advanced: Advanced | None = None,
) -> Collected:
    """n responses to each problem, and their grading, which begins while other prompts are still sampled.

    `advanced` goes to the sampler. What it raises, or a signal does, ends sampling and grading.
    Of several processes all sample and the first one grades: grading has time limits, so that others might disagree.
    """
    started = time.perf_counter()
    grading = {}

    def grade(p, responses):
        answers = extract_answers([responses], [prompts[p]], tokenizer, form)
        return labels.grade_rollouts([problems[p]], answers, grader, settings)

    thread = ThreadPoolExecutor(1)  # one: the grader's own workers are its parallelism

    def finished(p, responses):
        grading[p] = thread.submit(grade, p, responses)

    try:
        rollouts = sampler.generate(prompts, n, sampling, seeds, finished if is_first_process() else None, advanced)
        sampled = time.perf_counter()
        graded = processes.from_first(lambda: labels.join([grading[p].result() for p in range(len(problems))]))
    finally:
        thread.shutdown(cancel_futures=True)
    graded = labels.shaped(graded, rollouts.lengths, rollouts.stopped, settings)
    return Collected(problems, rollouts, graded, {"sample": sampled - started, "grade": time.perf_counter() - sampled})


def collect(config: ConfigDict, prepared, sampler, grader, step: int) -> Collected:
    """The rollouts that step `step` (from 1) trains on: batch.prompts_per_step prompts, all their votes.

    With batch.resample_rounds prompts whose trained samples all agree with the label alike are replaced by those of
    further batches (DAPO's dynamic sampling, Yu et al. 2025, eq. 11, which counts right answers and not the penalty for
    length); where these run out, the rest stays in, unlabelled.
    """
    b, parts, found = config.batch, [], 0
    for chosen in draws(config, prepared, step):
        problems = [prepared.problems[i] for i in chosen]
        parts.append(
            sample_and_grade(
                sampler,
                grader,
                prepared.model.tokenizer,
                problems,
                [prepared.prompts[i] for i in chosen],
                *training_samples(config, step),
                problem_seeds(config.seed, "train", step, [p.id for p in problems]),
                answer_format(config),
                prepared.label_settings,
            )
        )
        found += int((~labels.uninformative(parts[-1].graded.first(b.samples_per_prompt).agreement)).sum())
        if found >= b.prompts_per_step:
            break
    return _most_informative(parts, b) if b.resample_rounds else parts[0]


def draws(config: ConfigDict, prepared, step: int) -> Iterator[np.ndarray]:
    """Indices of the step's own problems, then of those that may replace some of them: no problem twice in a step."""
    wanted, own = config.batch.prompts_per_step, prepared.indices(step - 1)
    yield own
    if config.batch.resample_rounds:
        others = refill_order(len(prepared.problems), config.seed, step, own)[: wanted * config.batch.resample_rounds]
        yield from (others[start : start + wanted] for start in range(0, len(others), wanted))


def _most_informative(parts: list[Collected], batch: ConfigDict) -> Collected:
    """The first informative prompts of several batches, filled up with the others as unlabelled ones.

    They are dealt out to the mini-batches, which take their prompts in a row: all get as many informative ones.
    """
    problems = [problem for part in parts for problem in part.problems]
    rollouts = Rollouts.join([part.rollouts for part in parts])
    graded = labels.join([part.graded for part in parts])
    dull = labels.uninformative(graded.first(batch.samples_per_prompt).agreement)
    kept = np.argsort(dull, kind="stable")[: batch.prompts_per_step].reshape(-1, batch.minibatches_per_step).T.ravel()
    graded = dataclasses.replace(graded, labelled=graded.labelled & ~dull).take(kept)
    seconds = {phase: sum(part.seconds[phase] for part in parts) for phase in parts[0].seconds}
    return Collected([problems[i] for i in kept], rollouts.take(kept), graded, seconds, len(parts))


def training_samples(config: ConfigDict, step: int) -> tuple[int, Sampling]:
    """How many samples of a prompt are drawn for a step, and how."""
    b = config.batch
    return b.votes_per_prompt or b.samples_per_prompt, Sampling(b.max_response_tokens, temperature_at(config, step))


def temperature_at(config: ConfigDict, step: int) -> float:
    """The sampling temperature of a step (from 1): linear over rollout.temperature_steps, then constant."""
    r = config.rollout
    if not r.temperature_steps:
        return r.temperature
    return r.temperature + min(1.0, (step - 1) / r.temperature_steps) * (r.temperature_end - r.temperature)


def answer_format(config: ConfigDict) -> extraction.Format:
    """How responses show their answer, by config.answer."""
    return extraction.Format(**config.answer)


def extract_answers(responses, prompts, tokenizer, form: extraction.Format) -> list[list[str | None]]:
    """The extracted answer of each of the responses [P][n] to the prompts [P] (token ids), None where there is none.

    Where a prompt ends inside of reasoning (many chat templates open it), so does the response begin.
    """
    texts = iter(response_texts(responses, tokenizer))
    opened = [extraction.opens_reasoning(tokenizer.decode(prompt[-PROMPT_END:])) for prompt in prompts]
    found = [[extraction.extract(next(texts), form, inside) for _ in row] for row, inside in zip(responses, opened)]
    return [[answer.text if answer else None for answer in row] for row in found]


def response_texts(responses, tokenizer) -> list[str]:
    """The responses [P][n] (token ids) as one list of texts, without special tokens but those around reasoning."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    tags = extraction.reasoning_tags(special)
    texts = tokenizer.batch_decode([tokens for row in responses for tokens in row], skip_special_tokens=not tags)
    if not tags:
        return texts
    others = re.compile("|".join(re.escape(token) for token in special if token not in tags) or r"(?!)")
    return [others.sub("", text) for text in texts]
