"""Reads rollout dumps of any trainer, and says without labels whether the run collapsed and which checkpoint to use.

    python -m srt_jax collapse --rollouts 'val/*.jsonl' --probe base.jsonl [--out collapse.png]
    python -m srt_jax collapse --rollouts 'runs/mine/rollouts/step_*.jsonl.gz'

Each row is one response. Its prompt is in `input`, `prompt` or `problem`, its text in `output`, `completion` or
`response`. That is how verl and TTRL (trainer.validation_data_dir, trainer.rollout_data_dir), TRL (log_completions) and
srt_jax write them. The step is in `step`, else it is the number after the word step in the file's name, else the last
number there. Files are JSON lines, compressed or not, or Parquet. Known answers are not read; a `score` is averaged and
shown, and decides nothing. The rollouts of a run of srt_jax have the answer format of its config; for others --style
names it.

--probe names rows of the base model on the same prompts, with 64 responses each if possible and at least 8: they give
the anchored agreement. A step whose responses are those of the probe is not judged. Dumps of a validation set fit best,
because the rule then compares the same prompts in all steps. A step with too few of them, such as a half-written dump,
is named and not judged. Prints a row of signals for each step and the verdict, and writes a figure.
"""

import argparse
import collections
import dataclasses
import glob
import gzip
import math
import pathlib
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from srt_jax.config import expanded, recorded
from srt_jax.config.validation import LEAST_READINGS, LEAST_VOTES
from srt_jax.data.base import Problem
from srt_jax.errors import ConfigError, DataError, UserError
from srt_jax.files import check_output_file, naming, parse_json
from srt_jax.grading.answers import BOXES, Format, extract, opens_reasoning
from srt_jax.grading.grader import Grader
from srt_jax.log import logger
from srt_jax.reward import measures
from srt_jax.reward.rewards import Graded, grade
from srt_jax.run import anchor
from srt_jax.run.anchor import Anchor
from srt_jax.run.collapse import (
    AGREEMENT_LOST,
    BASELINE,
    CONFIDENT,
    FEWEST,
    IN_A_ROW,
    WINDOW,
    Choice,
    Detector,
    fallen_apart,
    highest,
    peaks_apart,
)
from srt_jax.run.progress import Progress

PROMPTS = ("input", "prompt", "problem")
RESPONSES = ("output", "completion", "response")
READ = {*PROMPTS, *RESPONSES, "step", "score"}
LONGEST_LINE = 1 << 24  # bytes; a longer line is left out
LONGEST_RESPONSE = 1 << 18  # characters; of a longer response only the end is read, where the answer is
LARGEST = 1 << 53  # steps and scores; larger ones have no exact float
# A special token at the end of a response: style hash would take it for a part of the answer. DeepSeek's have
# full-width bars.
END = re.compile(r"(<[|｜][^<>|｜\s]{1,30}[|｜]>|</s>|<eos>|<pad>|<end_of_turn>)\s*\Z")
END_LENGTH = 64  # characters in which END is searched
SUFFIXES = re.compile(r"(\.(jsonl?|gz|parquet))*$")
STEP = re.compile(r"steps?[^0-9A-Za-z]{0,2}(\d+)", re.IGNORECASE)  # as in global_step_10_rank0
COLUMNS = (
    "step",
    "prompts",
    "samples",
    "agreement",
    "information",
    "same_answer",
    "top_answer",
    "vote_share",
    "parsed",
)
# The rule names its signals as a run's log does. Here they are columns of the table.
IN_TABLE = {
    "guard/agreement": "agreement",
    "guard/information": "information",
    "label/top_answer_share": "top_answer",
}


@dataclasses.dataclass
class Dump:
    """The answers in a dump. answers: {step: {prompt: its answers}}. scores: {step: the scores of its rows}.

    left_out: the number of rows that could not be read, by reason. varied: whether two responses to a prompt differ.
    """

    answers: dict[int, dict[str, list[str | None]]]
    scores: dict[int, list[float]]
    left_out: collections.Counter
    varied: bool = False


# ---- reading


def read_dump(
    paths: Sequence[pathlib.Path], form: Format, default_step: int | None = None, field: str = "--rollouts"
) -> Dump:
    """Reads the rows of all files. A row that cannot be read is left out and counted.

    default_step: the step of rows without one. None: they are left out. field: for messages. Raises DataError if no row
    can be read, or if no response has an answer: then nothing could be told about the run. Also if files of several
    steps would become one step, because their names do not tell the step.
    """
    dump = Dump(collections.defaultdict(lambda: collections.defaultdict(list)), collections.defaultdict(list),
                collections.Counter())  # fmt: skip
    named: dict[int, pathlib.Path] = {}  # {step: the first file whose name gave it}
    first: dict[str, int] = {}  # {prompt: the hash of its first response}, until two responses to a prompt differ
    with Progress(len(paths), "file") as progress:
        for number, path in enumerate(paths, 1):
            is_empty = True
            for row in rows_of(path):
                is_empty = False
                found = row if isinstance(row, str) else fields_of(row, path, default_step)
                if isinstance(row, str) or isinstance(found, str):
                    dump.left_out[found] += 1
                    continue
                step, prompt, response, score = found
                if as_step(row.get("step")) is None and merges(path, other := named.setdefault(step, path)):
                    cause = "and their folders differ" if path.name == other.name else "the last number of their names"
                    raise DataError(
                        f"{field}: {other} and {path} would both be step {step}, {cause}: write the step into the "
                        "names, as in step_10.jsonl, or into a field `step` of the rows, and give the files of one run."
                    )
                answer = extract(response, form, opens_reasoning(prompt[-200:]))
                dump.answers[step][prompt].append(answer.text if answer else None)
                dump.varied = dump.varied or first.setdefault(prompt, hash(response)) != hash(response)
                if score is not None:
                    dump.scores[step].append(score)
            if is_empty:
                logger.warning(f"{field}: {path} is empty.")
            progress.update(number, "")
    files = f"{field}: {paths[0]}{' and the other files have' if len(paths) > 1 else ' has'} no response"
    if not dump.answers:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dump.left_out.items()) or "they are empty"
        raise DataError(
            f"{files} that can be used ({reasons}): give JSON lines or Parquet with a prompt ({', '.join(PROMPTS)}), a "
            f"response ({', '.join(RESPONSES)}) and a step (in `step`, or in the file's name, as in step_10.jsonl)."
        )
    if not any(answer for step in dump.answers.values() for answers in step.values() for answer in answers):
        without = ", or leave --probe out" if field == "--probe" else ""  # some bases write no answers
        raise DataError(
            f"{files} with an answer in the style {form.style!r}: set --style to that of the responses{without}."
        )
    return dump


def rows_of(path: pathlib.Path) -> Iterator[dict | str]:
    """The rows of a file: objects, or for a damaged line the reason why it is left out."""
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    with naming(path):
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                while line := file.readline(LONGEST_LINE):
                    whole = line.endswith(b"\n") or len(line) < LONGEST_LINE
                    while not line.endswith(b"\n") and len(line) == LONGEST_LINE:
                        line = file.readline(LONGEST_LINE)
                    if not whole:
                        yield "with a line that is too long"
                    elif line.strip():
                        yield _object(line)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            yield "in a damaged end of a compressed file"


def _object(line: bytes) -> dict | str:
    try:
        row = parse_json(line.decode("utf-8", "replace"))
    except ValueError:
        return "that are no JSON"
    return row if isinstance(row, dict) else "that are no JSON object"


def _parquet_rows(path: pathlib.Path) -> Iterator[dict | str]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            # Values of other columns, such as dates, may have no equivalent in Python.
            columns = [name for name in file.schema_arrow.names if name in READ]
            for field, names in (("prompt", PROMPTS), ("response", RESPONSES)):
                if not set(names) & set(columns):
                    yield f"in a Parquet file without a column for the {field}"
                    return
            for batch in file.iter_batches(1024, columns=columns):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError):
        yield "in a damaged Parquet file"


def fields_of(
    row: dict, path: pathlib.Path, default_step: int | None = None
) -> tuple[int, str, str, float | None] | str:
    """(step, prompt, end of the response, score) of a row, or the reason why it is left out."""
    prompt = next((text for name in PROMPTS if (text := as_text(row.get(name))) is not None), None)
    response = next((text for name in RESPONSES if (text := as_text(row.get(name))) is not None), None)
    if prompt is None or response is None:
        return f"without a {'prompt' if prompt is None else 'response'}"
    step, score = as_step(row.get("step")), as_number(row.get("score"))
    if step is None:
        name = SUFFIXES.sub("", path.name)
        numbers = STEP.findall(name) or re.findall(r"\d+", name)
        step = int(numbers[-1][-9:]) if numbers else default_step
    if step is None or step != int(step):
        return "without a step"
    return int(step), prompt, without_end(response[-LONGEST_RESPONSE:]), score


def merges(path: pathlib.Path, other: pathlib.Path) -> bool:
    """Do two files of the same step, by their names, seem to be of different ones?

    Their names do not say which number is the step, and other numbers in the names or in those of their folders differ,
    as in 10_rank0.jsonl and 20_rank0.jsonl. Several files of one step have equal numbers, as in 10_a.jsonl and
    10_b.jsonl, or name the step.
    """
    names = [f"{file.parent.name}/{SUFFIXES.sub('', file.name)}" for file in (path, other)]
    said = [STEP.search(name.partition("/")[2]) for name in names]
    return not all(said) and re.findall(r"\d+", names[0]) != re.findall(r"\d+", names[1])


def without_end(response: str) -> str:
    """The response without special tokens at its end."""
    end = len(response)
    while found := END.search(response, max(0, end - END_LENGTH), end):
        end = found.start()
    return response[:end]


def as_step(value) -> float | None:
    """A step as a float, also if it is written as a text, as TRL does; else None."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,15}\s*", value):
        value = int(value)
    return None if isinstance(value, bool) else as_number(value)


def as_number(value) -> float | None:
    """A number of reasonable size as a float, else None."""
    # A comparison is exact for integers of any size, and false for NaN.
    return float(value) if isinstance(value, int | float) and -LARGEST < value < LARGEST else None


def as_text(value) -> str | None:
    """A text, or the texts in a list of chat messages, which TRL writes for conversations; else None."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
        texts = [text for m in value if (text := _content(m.get("content"))) is not None]
        return "\n".join(filter(None, texts)) if texts else None
    return None


def _content(value) -> str | None:
    """The content of a message: a text, or the texts in a list of parts. Parts such as images have none."""
    parts = value if isinstance(value, list) else []
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return value if isinstance(value, str) else "\n".join(texts) if texts else None


# ---- signals


def graded_steps(dump: Dump, grader: Grader) -> dict[int, dict[str, Graded]]:
    """{step: {prompt: its graded answers}}, steps in order. Answers vote, and nothing is known about the truth."""
    with Progress(len(dump.answers), "step") as progress:
        found = {}
        for number, step in enumerate(sorted(dump.answers), 1):
            found[step] = {
                prompt: grade(Problem(prompt, prompt, None, "dump"), answers, grader)
                for prompt, answers in dump.answers[step].items()
            }
            progress.update(number, "")
    return found


def signals(graded: Mapping[str, Graded], majorities: Mapping[str, str | None], grader: Grader) -> dict[str, float]:
    """The signals of one step. majorities: {prompt: the base's majority}, None where the base is not sure."""
    rows = list(graded.values())
    keys = measures.answer_keys([g.answers for g in rows], [g.groups for g in rows])
    agreement = anchor.agreement_by_prompt([majorities.get(prompt) for prompt in graded], rows, grader)
    return {
        "prompts": len(rows),
        "samples": sum(len(g.answers) for g in rows),
        "agreement": float(np.mean(agreement)) if agreement else measures.NAN,
        "information": measures.answer_information(keys),
        "same_answer": measures.same_answer(keys),
        "top_answer": measures.top_answer_share([g.vote for g in rows]),
        "vote_share": float(np.mean([g.vote.share for g in rows])),
        "parsed": sum(g.vote.parsed for g in rows) / sum(len(g.answers) for g in rows),
    }


def base_votes(dump: Dump | None, grader: Grader) -> dict[str, dict]:
    """{prompt: the base's majority, its lead, its share, the number of votes}. The steps of the probe do not matter.

    The lead is the margin of the vote. Fewer than LEAST_VOTES votes have the lead 0: of one vote, the majority always
    has all.
    """
    answers: dict[str, list] = collections.defaultdict(list)
    for of_step in dump.answers.values() if dump else ():
        for prompt, found in of_step.items():
            answers[prompt] += found
    votes = {prompt: grade(Problem(prompt, prompt, None, "probe"), row, grader).vote for prompt, row in answers.items()}
    return {
        prompt: {
            "majority": vote.label,
            "lead": vote.margin if vote.n >= LEAST_VOTES else 0.0,
            "share": vote.share,
            "votes": vote.n,
        }
        for prompt, vote in votes.items()
    }


def steps_of_probe(dump: Dump, probe: Dump | None) -> list[int]:
    """The steps whose answers are those of a step of the probe, in the same order.

    The rule needs other samples than those of the votes: a majority agrees better with the samples that it comes from.
    """
    base = probe.answers.values() if probe else ()
    # Other samples may have equal answers, too, if all answers to each prompt are equal.
    varied = [votes for votes in base if any(len(set(answers)) > 1 for answers in votes.values())]
    return sorted(step for step, answers in dump.answers.items() if answers in varied)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict of the rule. step: that of the first alarm, None without one. note: which signals could be used.

    least: with fewer steps there cannot be an alarm, and `steps` is the number of them. left_out: {step that was not
    judged: what it has}.
    """

    step: int | None
    alarm: str | None
    choice: Choice
    note: str
    steps: int
    least: int
    left_out: dict[int, str] = dataclasses.field(default_factory=dict)


def judge(steps: Mapping[int, dict[str, Graded]], votes: Mapping[str, dict], grader: Grader) -> Verdict:
    """Applies the rule of run/collapse.py to the steps in order, up to the first alarm. It needs no answer.

    A step with too few prompts is left out where the others can be judged without it.
    """
    few = too_few(steps)
    verdict = judge_all({step: graded for step, graded in steps.items() if step not in few}, votes, grader)
    alarm = verdict.alarm
    for name, column in IN_TABLE.items():
        alarm = alarm and alarm.replace(f"({name})", f"(column {column})")
    return dataclasses.replace(verdict, alarm=alarm, left_out=few | verdict.left_out)


def too_few(steps: Mapping[int, dict[str, Graded]]) -> dict[int, str]:
    """{step: what it has} for the steps that share too few prompts with the others, if these share FEWEST or more.

    One stray row makes a step of its own, and a dump may be half-written. The rule compares the prompts that are in all
    steps, so one such step would leave nothing to compare. There must be enough others for an alarm: a few steps of
    training that happen to have more prompts do not replace the rest.
    """
    whole = {step: graded.keys() for step, graded in steps.items() if len(graded) >= FEWEST}
    counts = collections.Counter(prompt for prompts in whole.values() for prompt in prompts)
    usual = {prompt for prompt, count in counts.items() if 2 * count > len(whole)}
    least = max(FEWEST, len(usual) / 2)
    shared = {step: len(usual & graded.keys()) for step, graded in steps.items()}
    kept = [set(whole[step]) for step in whole if shared[step] >= least]
    if len(kept) < LEAST_READINGS or len(set.intersection(*kept)) < FEWEST:
        return {}
    return {
        step: f"{count} of the {len(usual)} prompts of the other steps"
        for step, count in shared.items()
        if count < least
    }


def judge_all(steps: Mapping[int, dict[str, Graded]], votes: Mapping[str, dict], grader: Grader) -> Verdict:
    """Applies the rule of run/collapse.py to all these steps. Each of them has enough prompts."""
    common = sorted(set.intersection(*map(set, steps.values())))
    if len(common) < FEWEST and (apart := judge_apart(steps, votes, grader)):
        return apart
    unknown = {"majority": None, "lead": 0.0}
    base = Anchor([{"set": "", "id": prompt, **votes.get(prompt, unknown)} for prompt in common])
    sure = sum(majority is not None for majority in base.majorities(""))
    known = [votes[prompt]["votes"] for prompt in common if prompt in votes]
    note = f"{len(common)} prompts are in all judged steps{incomplete(steps)}, {len(known)} of them in the probe"
    if few := sum(count < LEAST_VOTES for count in known):
        note += f" ({few} with fewer than {LEAST_VOTES} responses, which show nothing)"
    note += f", and the base is sure of {sure}"
    size = len(steps), LEAST_READINGS if len(common) >= FEWEST else BASELINE + WINDOW
    if sure < FEWEST:
        left = "the answer information" if len(common) >= FEWEST else "the most common answer of each step"
        note += f": fewer than {FEWEST}, so the anchored agreement is off, and {left} decides"
    detector, last = Detector(), max(steps)
    for step, graded in steps.items():
        share = measures.top_answer_share([g.vote for g in graded.values()])
        alarm = detector.update({"label/top_answer_share": share})
        if len(common) >= FEWEST:
            reading = anchor.take_reading(step, base, {"": [graded[prompt] for prompt in common]}, grader)
            alarm = detector.read(reading)
        if alarm and detector.falls():
            return Verdict(step, alarm, detector.choice(step), note, *size)
        if alarm:
            numbers = [n for n in steps if n <= step]
            before = Choice(numbers[-WINDOW - 1], f"the last one before the {WINDOW} steps of the alarm")
            return Verdict(step, alarm, before, note, *size)
    return Verdict(None, None, detector.choice(last), note, *size)


def incomplete(steps: Mapping[int, dict[str, Graded]]) -> str:
    """Names the step with the fewest prompts, if another has these and more: its dump may be half-written.

    Steps of training have different prompts, and those with fewer are complete. Steps with very few are not judged.
    """
    fewest, most = min(steps, key=lambda step: len(steps[step])), max(map(len, steps.values()))
    if not any(steps[fewest].keys() < graded.keys() for graded in steps.values()):
        return ""
    return f" (step {fewest} has {len(steps[fewest])}, others up to {most}: leave out an incomplete dump)"


def judge_apart(steps: Mapping[int, dict[str, Graded]], votes: Mapping[str, dict], grader: Grader) -> Verdict | None:
    """The verdict for steps with different prompts, such as dumps of training: `fallen_apart` decides.

    The value of a prompt is its share of samples that equal the base's majority, minus the base's own share. A step is
    left out if the base is sure of fewer than FEWEST of its prompts. None if half of the steps or more would be.
    """
    values, left_out = [], {}
    for step, graded in steps.items():
        sure = [prompt for prompt in graded if prompt in votes and votes[prompt]["lead"] >= CONFIDENT]
        if len(sure) < FEWEST:
            left_out[step] = f"{len(sure)} prompts of which the base is sure, and {FEWEST} are needed"
            continue
        majorities = [votes[prompt]["majority"] for prompt in sure]
        shares = anchor.agreement_by_prompt(majorities, [graded[prompt] for prompt in sure], grader)
        values.append(np.array(shares) - [votes[prompt]["share"] for prompt in sure])
    if len(left_out) >= len(values):
        return None
    note = (
        f"the steps have different prompts, and the base is sure of at least {min(map(len, values))} of each: "
        "the agreement is compared with the base's own"
    )
    numbers, flags = [step for step in steps if step not in left_out], fallen_apart(values, AGREEMENT_LOST)
    size = len(numbers), LEAST_READINGS, left_out
    for k in range(IN_A_ROW - 1, len(flags)):
        if flags[k - IN_A_ROW + 1 : k + 1].all():
            peak = numbers[highest([v.mean() for v in values], peaks_apart(values[: k + 1])[-1])]
            alarm = f"the agreement with the base's majority, minus the base's own, fell since step {peak}."
            return Verdict(numbers[k], alarm, Choice(peak, "the step with the highest such agreement"), note, *size)
    return Verdict(None, None, Choice(numbers[-1], "the last step: its agreement has not fallen"), note, *size)


# ---- output


def table(rows: Sequence[Mapping[str, float]]) -> str:
    """The signals of all steps as text. The column of scores is missing if there are none."""
    names = [*COLUMNS, *(["score"] if any("score" in row for row in rows) else [])]
    cells = [names] + [[_cell(row.get(name, measures.NAN)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in cells)


def _cell(value: float) -> str:
    return str(value) if isinstance(value, int) else "-" if math.isnan(value) else f"{value:z.3f}"


def draw(path: pathlib.Path, rows: Sequence[Mapping[str, float]], verdict: Verdict) -> None:
    """Writes the figure: four panels over the steps, with lines at the alarm and at the chosen step."""
    from srt_jax.figures.panels import SHARES, sheet

    drawn = {
        "agreement with the base's majority": ("agreement",),
        "answer information (nats)": ("information",),
        "answers shared by prompts": ("same_answer", "top_answer"),
        "votes, and the score (if any)": ("vote_share", "score"),
    }
    with sheet(path, len(drawn)) as (_, axes):
        for axis, (title, names) in zip(axes, drawn.items()):
            for name in names:
                points = [(row["step"], row[name]) for row in rows if name in row and not math.isnan(row[name])]
                if points:
                    axis.plot(*zip(*points), marker=".", label=name)
            if verdict.step is not None:
                axis.axvline(verdict.step, color="C3", linestyle="--", label="alarm")
                axis.axvline(verdict.choice.step, color="C2", linestyle=":", label="chosen")
            axis.set_title(title)
            axis.set_xlabel("step")
            if names != ("information",):
                axis.set_ylim(*SHARES)
            if axis.get_legend_handles_labels()[0]:
                axis.legend()


def describe(verdict: Verdict) -> str:
    """The verdict as text."""
    if verdict.step is None and verdict.steps < verdict.least:
        return (
            f"{verdict.note}.\nverdict: undecided. An alarm needs at least {verdict.least} steps, and there "
            f"{'is' if verdict.steps == 1 else 'are'} {verdict.steps}."
        )
    if verdict.step is None:
        return f"{verdict.note}.\nverdict: no sign of a collapse. Use the checkpoint of step {verdict.choice.step}."
    return (
        f"{verdict.note}.\nverdict: it collapses, seen at step {verdict.step}: {verdict.alarm}\n"
        f"Use the checkpoint of step {verdict.choice.step} ({verdict.choice.rule})."
    )


def report_left_out(dump: Dump, what: str) -> None:
    """Warns about rows that were left out."""
    total = sum(len(answers) for step in dump.answers.values() for answers in step.values())
    left_out = sum(dump.left_out.values())
    if left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dump.left_out.items()))
        logger.warning(f"{what}: {left_out} of {total + left_out} rows are left out: {reasons}.")


def report_unjudged(left_out: Mapping[int, str]) -> None:
    """Warns about steps that were not judged, in one sentence for those that have the same."""
    alike: dict[str, list[int]] = collections.defaultdict(list)
    for step, what in left_out.items():
        alike[what].append(step)
    for what, found in alike.items():
        several = len(found) > 1
        logger.warning(
            f"--rollouts: step{'s' * several} {', '.join(map(str, found))} {'have' if several else 'has'} {what}, so "
            f"{'these steps are' if several else 'this step is'} not judged: complete the dump{'s' * several}, or "
            "correct the step in the rows."
        )


def report_strangers(judged: set[str], asked: set[str]) -> None:
    """Warns if the prompts of the probe, `asked`, are others than those of the rollouts."""
    shared = len(judged & asked)
    if shared >= min(FEWEST, len(judged), len(asked)):
        return
    logger.warning(
        f"--probe: {shared or 'none'} of its {len(asked)} prompts {'is' if shared == 1 else 'are'} in --rollouts, so "
        f"the base's votes are of no use. A prompt there is {shown(min(judged - asked))}, and one of the probe is "
        f"{shown(min(asked - judged))}: give rows of the base on the prompts of the rollouts, in the same text."
    )


def shown(prompt: str) -> str:
    """The prompt in quotes, cut to one line of a message."""
    return repr(prompt if len(prompt) <= 60 else prompt[:40] + "..." + prompt[-17:])


def rollout_files(patterns: Sequence[str]) -> list[pathlib.Path]:
    """The files that the patterns match, sorted by name. Raises DataError for a pattern that matches none."""
    found = set()
    for pattern in patterns:
        # The shell may have expanded the pattern, and a name may have brackets.
        names = [pattern] if pathlib.Path(pattern).exists() else glob.glob(pattern, recursive=True)
        files = {path for path in map(pathlib.Path, names) if not path.is_dir()}
        if pattern and names and not files:
            raise DataError(f"--rollouts={pattern} is a folder: give its files, e.g. '{pattern.rstrip('/')}/*.jsonl'.")
        if not pattern or not files:
            raise DataError(f"--rollouts={pattern} matches no file: give the dumps, in quotes if it has a *.")
        found |= files
    return sorted(found)


def read_rollouts(paths: Sequence[pathlib.Path], probe_path: str | None, probe: Dump | None, form: Format) -> Dump:
    """The rows of all files. If the probe's file is one of them, its rows are no further samples of another's step."""
    others = [path for path in paths if probe_path is None or not path.samefile(probe_path)]
    dump = read_dump(others or paths, form)
    if probe and len(others) < len(paths):
        for step in probe.answers.keys() - dump.answers.keys():
            dump.answers[step], dump.scores[step] = probe.answers[step], probe.scores[step]
    return dump


def read_probe(path: str, form: Format) -> Dump:
    """The base's rows. Raises DataError if there are none, or if several responses are a single vote."""
    if not pathlib.Path(path).exists() or pathlib.Path(path).is_dir():  # a pipe will do
        raise DataError(f"--probe={path} is no file: name the file with the base's rows, or leave it out.")
    probe = read_dump([pathlib.Path(path)], form, default_step=0, field="--probe")
    report_left_out(probe, "--probe")
    counts: collections.Counter = collections.Counter()
    for answers in probe.answers.values():
        counts.update({prompt: len(found) for prompt, found in answers.items()})
    if not probe.varied and min(counts.values()) > 1:
        raise DataError(
            f"--probe: in {path} all responses to each prompt are the same text, as greedy samples are, and count as "
            "one vote: sample them at a temperature above 0, or leave --probe out."
        )
    if len(probe.answers) > 1:
        logger.warning(f"--probe: {path} has {len(probe.answers)} steps, and all of them count as the base.")
    return probe


def answer_format(options: argparse.Namespace, paths: Sequence[pathlib.Path]) -> Format:
    """How the responses show their answer, by the options. Without --style a run of srt_jax gives its own format.

    Raises ValueError for a wrong option, ConfigError if the config of the run is damaged.
    """
    fields = [field.name for field in dataclasses.fields(Format)]
    given = {name: value for name in fields if (value := getattr(options, name)) is not None}
    folder = paths[0].resolve().parent
    if options.style is None and folder.name == "rollouts" and (folder.parent / "config.json").is_file():
        given = recorded(folder.parent).answer.to_dict() | given
    return Format(**given)


def run(options: argparse.Namespace, paths: Sequence[pathlib.Path], form: Format) -> Verdict:
    """Reads the rollouts in `paths`, judges, prints and draws. Raises DataError if there is nothing to judge."""
    probe = None if options.probe is None else read_probe(options.probe, form)
    dump = read_rollouts(paths, options.probe, probe, form)
    report_left_out(dump, "--rollouts")
    if own := steps_of_probe(dump, probe):
        several = len(own) > 1
        logger.warning(
            f"the responses of step{'s' * several} {', '.join(map(str, own))} are those of --probe, so "
            f"{'these steps are' if several else 'this step is'} not judged."
        )
        if len(own) == len(dump.answers):
            raise DataError(
                f"--rollouts={options.rollouts[0]} has only the responses of --probe: give the dumps of other steps."
            )
    if probe:
        judged = {prompt for step, answers in dump.answers.items() if step not in own for prompt in answers}
        report_strangers(judged, {prompt for answers in probe.answers.values() for prompt in answers})
    with Grader(workers=options.workers) as grader:
        votes = base_votes(probe, grader)
        majorities = {prompt: anchor.confident(vote["majority"], vote["lead"]) for prompt, vote in votes.items()}
        steps = graded_steps(dump, grader)
        rows: list[dict] = []
        for step, graded in steps.items():
            scores = {"score": float(np.mean(dump.scores[step]))} if dump.scores.get(step) else {}
            rows.append({"step": step, **signals(graded, majorities, grader), **scores})
        verdict = judge({step: graded for step, graded in steps.items() if step not in own}, votes, grader)
    report_unjudged(verdict.left_out)
    print(table(rows))
    print(describe(verdict))
    draw(pathlib.Path(options.out), rows, verdict)
    print(f"{options.out} written")
    return verdict


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns 0, or 2 for a mistake in the input."""
    about, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m srt_jax collapse",
        description=f"{about}\n{rest}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rollouts", metavar="PATTERN", nargs="+", type=expanded, required=True, help="the dumps of all steps"
    )
    parser.add_argument("--probe", metavar="FILE", type=expanded, help="the base's rows on the same prompts")
    parser.add_argument("--out", metavar="FILE", type=expanded, default="collapse.png", help="the figure")
    parser.add_argument(
        "--style", help="how responses show their answer: that of the run, else boxed (docs/grading.md)"
    )
    parser.add_argument("--boxes", choices=BOXES, help="which boxes are the answer (default: statement)")
    parser.add_argument("--field", help="JSON field of the answer (style json; default: answer)")
    parser.add_argument("--pattern", help="regular expression with one group (style regex)")
    parser.add_argument("--workers", type=int, default=2, help="processes that compare answers")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}: it must be at least 1")
    try:
        paths = rollout_files(options.rollouts)
        try:
            form = answer_format(options, paths)
        except ConfigError:
            raise
        except ValueError as error:
            print(f"error: --{error}.", file=sys.stderr)
            return 2
        check_output_file(options.out)
        run(options, paths, form)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"error: {error.filename} cannot be read or written ({error.strerror}): correct the path.", file=sys.stderr
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
