"""Collects the graded rollouts of a step: samples responses, extracts answers, rewards them.

A prompt is graded as soon as its responses are complete, while other prompts are still sampled. With
batch.resample_rounds, further prompts replace those whose rewards agree.
"""

import dataclasses
import functools
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

import numpy as np
from ml_collections import ConfigDict

from srt_jax.config import policy_samples, prompts_per_call, votes_per_prompt
from srt_jax.data.base import Problem
from srt_jax.data.batching import refill_order
from srt_jax.data.paraphrases import partner
from srt_jax.grading import answers as extraction
from srt_jax.grading.grader import Grader
from srt_jax.reward import rewards
from srt_jax.reward.labels import BY_VOTE, LabelSettings
from srt_jax.reward.rewards import Graded
from srt_jax.rl.collate import TrainingSamples
from srt_jax.rollout.sampler import Advanced, Rollouts, Sampler, Sampling, problem_seeds
from srt_jax.run.prepare import Prepared
from srt_jax.runtime import is_first_process, processes

LOOK_SECONDS = 1.0  # between two calls of `advanced` during grading
PROMPT_END = 32  # A chat template may open the reasoning within this many tokens at a prompt's end.


@dataclasses.dataclass(frozen=True)
class Grading:
    """Grades the responses to one prompt. Training, evaluation, labelling and replay all use it."""

    tokenizer: object
    form: extraction.Format  # how responses show their answer
    grader: Grader
    settings: LabelSettings = BY_VOTE

    def by_vote(self) -> "Grading":
        """The grading of samples that only vote."""
        return dataclasses.replace(self, settings=LabelSettings(threshold=self.settings.threshold))

    def with_labels(self, labels: Mapping[str, str]) -> "Grading":
        """The grading of the policy's samples by the votes of a teacher or of paraphrases, {problem id: label}."""
        return dataclasses.replace(self, settings=self.settings.with_labels(labels))

    def __call__(
        self,
        problem: Problem,
        prompt: Sequence[int],
        responses: Sequence[Sequence[int] | np.ndarray],
        stopped: Sequence[bool] | np.ndarray,
    ) -> Graded:
        """The grading of the n responses (token ids) to one prompt; stopped [n]: did a stop token end the response?"""
        texts = response_texts(responses, self.tokenizer)
        answers = extract_answers(texts, prompt, self.tokenizer, self.form)
        lengths = [len(response) for response in responses]
        return rewards.grade(problem, answers, self.grader, self.settings, lengths, stopped, texts)


@dataclasses.dataclass(frozen=True)
class Collected:
    """P problems with their graded rollouts. All n samples of a prompt vote.

    seconds: of the phases `sample` and `grade`, the teacher's included. rounds: the number of prompt batches that were
    sampled. teacher: the teacher's rollouts of the same problems, whose votes are the labels; None without a teacher,
    and in a replay. replaced_tokens: the number of sampled tokens of further problems, which `take` did not take.
    workers: the grader's counters (`Grader.metrics`) while these rollouts of a step were collected; {} outside of a
    run's steps.
    """

    problems: list[Problem]
    rollouts: Rollouts
    graded: list[Graded]
    seconds: dict[str, float]
    rounds: int = 1
    teacher: "Collected | None" = None
    replaced_tokens: int = 0
    workers: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """The number of tokens that were sampled in `seconds`: also the teacher's, and those of replaced problems.

        A replay knows only the rollouts that the update uses.
        """
        own = int(self.rollouts.lengths.sum()) + self.replaced_tokens
        return own + (self.teacher.tokens if self.teacher else 0)

    def with_teacher(self, teacher: "Collected") -> "Collected":
        """The same rollouts with those of the teacher, whose seconds are added."""
        seconds = {phase: s + teacher.seconds[phase] for phase, s in self.seconds.items()}
        return dataclasses.replace(self, seconds=seconds, teacher=teacher)

    def take(self, indices: Sequence[int] | np.ndarray) -> "Collected":
        """These problems, in this order. The seconds and tokens of sampling stay those of all problems."""
        rollouts = self.rollouts.take(indices)
        return dataclasses.replace(
            self,
            problems=[self.problems[i] for i in indices],
            rollouts=rollouts,
            replaced_tokens=self.replaced_tokens + int(self.rollouts.lengths.sum() - rollouts.lengths.sum()),
            graded=[self.graded[i] for i in indices],
            teacher=self.teacher and self.teacher.take(indices),
        )

    @staticmethod
    def join(parts: Sequence["Collected"]) -> "Collected":
        """The problems of all parts in order. Seconds, rounds and tokens are summed."""
        teachers = [part.teacher for part in parts if part.teacher]
        return Collected(
            [problem for part in parts for problem in part.problems],
            Rollouts.join([part.rollouts for part in parts]),
            [graded for part in parts for graded in part.graded],
            {phase: sum(part.seconds[phase] for part in parts) for phase in parts[0].seconds},
            sum(part.rounds for part in parts),
            Collected.join(teachers) if teachers else None,
            sum(part.replaced_tokens for part in parts),
        )

    def trained(self) -> TrainingSamples:
        """The samples that are trained on. For the loss, a prompt that resampling leaves out is one without a label."""
        n = self.graded[0].trained
        return TrainingSamples(
            rollouts=self.rollouts.first(n),
            rewards=np.stack([g.rewards[:n] for g in self.graded]),
            labelled=np.array([g.counts_as_labelled for g in self.graded]),
            kept=np.stack([g.kept[:n] for g in self.graded]),
        )


def sample_and_grade(
    sampler: Sampler,
    grading: Grading,
    problems: list[Problem],
    prompts: Sequence[Sequence[int]],
    n: int,
    sampling: Sampling,
    seeds: Sequence[int] | np.ndarray,
    advanced: Advanced | None = None,
) -> Collected:
    """n graded responses to each problem.

    `advanced` is passed to the sampler, and called every second while the last prompts are graded. An exception in it,
    or a signal, ends sampling and grading. With several processes all of them sample, but only the first one grades:
    grading has time limits, so results could differ. With labels.source = paraphrase the problems are pairs, which are
    graded twice: for their votes, and by the votes of their partners.
    """
    started = time.perf_counter()
    pending: dict[int, Future] = {}
    thread = ThreadPoolExecutor(1)  # one: the grader's own workers are its parallelism
    pairs = grading.settings.source == "paraphrase"
    first = grading.by_vote() if pairs else grading

    def finished(p, responses, stopped):
        pending[p] = thread.submit(first, problems[p], prompts[p], responses, stopped)

    def results() -> list[Graded]:
        while _unfinished(pending.values()):
            if advanced:
                advanced(1.0, int(rollouts.lengths.sum()))
        return processes.from_first(lambda: [pending[p].result() for p in range(len(problems))])

    try:
        rollouts = sampler.generate(prompts, n, sampling, seeds, finished if is_first_process() else None, advanced)
        sampled = time.perf_counter()
        graded = results()
        if pairs:
            again = grading.with_labels(labels_of(problems, votes_of_partners(graded)))
            if is_first_process():
                rows = enumerate(zip(problems, prompts, rollouts.responses(), rollouts.stopped, strict=True))
                pending |= {p: thread.submit(again, *row) for p, row in rows}
            graded = results()
    except BaseException:
        thread.shutdown(wait=False, cancel_futures=True)
        with grading.grader.abandoned():  # a function of the user may take longer, and is not waited for
            wait([future for future in pending.values() if future.running()], 2 * LOOK_SECONDS)
        raise
    thread.shutdown()
    return Collected(problems, rollouts, graded, {"sample": sampled - started, "grade": time.perf_counter() - sampled})


def _unfinished(graded: Collection[Future]) -> bool:
    """Waits up to LOOK_SECONDS for all gradings, or for one that fails. Tells whether neither has happened."""
    done, others = wait(graded, LOOK_SECONDS, FIRST_EXCEPTION)
    return bool(others) and not any(future.exception() for future in done)


def collect(
    config: ConfigDict,
    prepared: Prepared,
    sampler: Sampler,
    grading: Grading,
    step: int,
    advanced: Advanced | None = None,
    teacher: Sampler | None = None,
) -> Collected:
    """The rollouts that step `step` (from 1) trains on: batch.prompts_per_step prompts, with all their votes.

    `advanced` is passed to the sampler. teacher: the sampler of the weights whose votes are the labels.

    With batch.resample_rounds, a prompt is replaced by one of a further batch if all its trained samples agree equally
    with the label. This is DAPO's dynamic sampling (Yu et al. 2025, eq. 11), which ignores the penalty for length. If
    the further batches do not suffice, such prompts stay, but the loss leaves them out.
    """
    b, parts, found = config.batch, [], 0
    for chosen in draws(config, prepared, step):
        problems, prompts = [prepared.problems[i] for i in chosen], [prepared.prompts[i] for i in chosen]
        draw = functools.partial(draw_step, config, problems, prompts, step=step, advanced=advanced)
        if teacher:
            votes = draw(teacher, grading.by_vote(), "teacher", votes_per_prompt(b))
            labels = labels_of(votes.problems, votes.graded)
            part = draw(sampler, grading.with_labels(labels), "train", policy_samples(config))
            part = part.with_teacher(votes)
        else:
            part = draw(sampler, grading, "train", policy_samples(config))
        parts.append(part)
        found += sum(map(rewards.shaped_rewards_differ, part.graded))
        if found >= b.prompts_per_step:
            break
    return _prompts_of_step(parts, b) if b.resample_rounds else parts[0]


def draw_step(
    config: ConfigDict,
    problems: list[Problem],
    prompts: list[list[int]],
    sampler: Sampler,
    grading: Grading,
    purpose: str,
    n: int,
    step: int,
    advanced: Advanced | None,
) -> Collected:
    """n graded responses to each of a step's problems. purpose: `train` or `teacher`, for the random numbers."""
    seeds = problem_seeds(config.seed, purpose, step, [p.id for p in problems])
    return sample_and_grade(sampler, grading, problems, prompts, n, sampling_at(config, step), seeds, advanced)


def labels_of(problems: Sequence[Problem], votes: Sequence[Graded]) -> dict[str, str]:
    """{problem id: label} by these votes, one for each problem. A problem whose vote gives no label is left out."""
    pairs = zip(problems, votes, strict=True)
    return {problem.id: graded.vote.label for problem, graded in pairs if graded.vote.label is not None}


def votes_of_partners(votes: Sequence[Graded]) -> list[Graded]:
    """For each problem of a list of pairs, the votes on its partner (Co-rewarding-I, arXiv 2508.00410)."""
    return [votes[partner(p)] for p in range(len(votes))]


def draws(config: ConfigDict, prepared: Prepared, step: int) -> Iterator[np.ndarray]:
    """Yields the indices of the step's own problems, then batches of possible replacements. No problem occurs twice."""
    wanted, own = config.batch.prompts_per_step, prepared.indices(step - 1)
    yield own
    if config.batch.resample_rounds:
        others = refill_order(len(prepared.problems), config.seed, step, own)[: wanted * config.batch.resample_rounds]
        yield from (others[start : start + wanted] for start in range(0, len(others), wanted))


def _prompts_of_step(parts: list[Collected], batch: ConfigDict) -> Collected:
    """The first prompts of several batches whose rewards differ. If they are too few, the loss leaves out the others.

    Mini-batches take consecutive prompts, so the prompts whose rewards differ are spread evenly over them.
    """
    whole = Collected.join(parts)
    graded = [dataclasses.replace(g, left_out=not rewards.shaped_rewards_differ(g)) for g in whole.graded]
    first = np.argsort([g.left_out for g in graded], kind="stable")[: batch.prompts_per_step]
    spread = first.reshape(-1, batch.minibatches_per_step).T.ravel()
    return dataclasses.replace(whole, graded=graded).take(spread)


def sampling_at(config: ConfigDict, step: int) -> Sampling:
    """The sampling settings of a step."""
    limit = prompts_per_call(config)
    return Sampling(config.batch.max_response_tokens, temperature_at(config, step), prompts_per_call=limit)


def temperature_at(config: ConfigDict, step: int) -> float:
    """The sampling temperature of a step (from 1): linear over rollout.temperature_steps, then constant."""
    r = config.rollout
    if not r.temperature_steps:
        return r.temperature
    return r.temperature + min(1.0, (step - 1) / r.temperature_steps) * (r.temperature_end - r.temperature)


def answer_format(config: ConfigDict) -> extraction.Format:
    """How responses show their answer, by config.answer."""
    return extraction.Format(**config.answer)


def extract_answers(
    texts: Sequence[str], prompt: Sequence[int], tokenizer, form: extraction.Format
) -> list[str | None]:
    """The answer in each of the n responses (texts) to one prompt (token ids), None where there is none.

    If the prompt ends inside the reasoning, as with many chat templates, the response begins inside it.
    """
    inside = extraction.opens_reasoning(tokenizer.decode(prompt[-PROMPT_END:]))
    found = [extraction.extract(text, form, inside) for text in texts]
    return [answer.text if answer else None for answer in found]


def response_texts(responses, tokenizer) -> list[str]:
    """The text of each response (token ids), without special tokens except the tags around reasoning."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    tags = extraction.reasoning_tags(special)
    texts = tokenizer.batch_decode(list(responses), skip_special_tokens=not tags)
    if not tags:
        return texts
    others = re.compile("|".join(re.escape(token) for token in special if token not in tags) or r"(?!)")
    return [others.sub("", text) for text in texts]
