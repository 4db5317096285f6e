"""Grades your own answers, or votes on your own responses, from the command line.

    python -m srt_jax grade --pairs FILE [--out DETAILS]              rows {"prediction", "gold"[, "correct"]}
    python -m srt_jax grade --vote --predictions FILE [--out DETAILS] rows {"problem", "response"[, "gold"]}

Files are JSON lines. The last line of standard output is one JSON object; `--out` writes one JSON line per pair or
per problem.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence

from srt_jax.config import expanded
from srt_jax.errors import DataError
from srt_jax.files import check_output_file, read_jsonl, write_jsonl
from srt_jax.grading.answers import BOXES, Format, extract
from srt_jax.grading.golds import LONG, bare_answer, looks_worked
from srt_jax.grading.grader import Grader
from srt_jax.log import logger
from srt_jax.reward.votes import majority


def read_rows(path: str, fields: Sequence[str], optional: Sequence[str] = ()) -> list[dict]:
    """The rows of a JSONL file, objects with string `fields`. `optional` fields are None if they are missing or null.

    DataError names the file, the line and the remedy.
    """
    try:
        rows = [
            _row({**dict.fromkeys(optional), **row}, [*fields, *optional], optional, f"{path} line {number}")
            for number, row in read_jsonl(path, "surrogateescape")
        ]
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); give the path of a JSONL file") from error
    if not rows:
        raise DataError(f"{path} has no rows; it needs JSON lines with {', '.join(fields)}")
    return rows


def _row(row: dict, fields: Sequence[str], optional: Sequence[str], where: str) -> dict:
    for field in fields:
        if field in optional and row[field] is None:
            continue
        if field == "prediction" and row.get(field, "") is None:  # a response without an answer: wrong, not an error
            continue
        if type(row.get(field)) in (int, float):
            row[field] = str(row[field])
        if not isinstance(row.get(field), str):
            raise DataError(f"{where} has no text under {field!r}; each row needs {', '.join(fields)} as strings")
    return row


# The values of `correct` in a row. As keys of a dict, 1 and 0 equal True and False.
TRUTH = {True: True, False: False, "true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def read_pairs(path: str) -> list[dict]:
    """Rows {prediction, gold[, correct]}. `correct` may be true, 1, "true" or the like, or null if it is unknown."""
    rows = read_rows(path, ("prediction", "gold"))
    for number, row in enumerate(rows, 1):
        told = row.get("correct")
        word = told.strip().casefold() if isinstance(told, str) else told
        if word in (None, ""):
            row["correct"] = None
        elif isinstance(word, list | dict) or word not in TRUTH:
            raise DataError(f"{path}, row {number} has {told!r} under 'correct'; write true, false or null")
        else:
            row["correct"] = TRUTH[word]
    return rows


def response_warning(rows: list[dict], form: Format) -> str | None:
    """A warning if most predictions are whole responses instead of answers; else None."""
    texts = [row["prediction"] or "" for row in rows]
    whole = sum(len(text) > LONG or (looks_worked(text) and extract(text, form) is not None) or "\\boxed" in text
                for text in texts)  # fmt: skip
    if whole * 2 <= len(texts):
        return None
    return (f"{whole} of {len(texts)} predictions look like whole responses, and --pairs compares answers: use --vote "
            "--predictions with rows {problem, response, gold}, or extract the answers first.")  # fmt: skip


def write_details(path: str, rows: Iterable[dict]) -> None:
    """Writes JSON lines. DataError names the file that cannot be written."""
    try:
        write_jsonl(path, rows)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror}); choose another --out") from error


def grade_pairs(rows: list[dict], grader: Grader) -> tuple[dict, list[dict]]:
    """Summary and details of {prediction, gold, correct} rows; agreement is null if no row has `correct`.

    `correct` is a bool or None, as `read_pairs` makes it.
    """
    verdicts = grader.grade([r["prediction"] for r in rows], [bare_answer(r["gold"]) for r in rows])
    labelled = [(r["correct"], v) for r, v in zip(rows, verdicts) if r.get("correct") is not None]
    summary = {
        "pairs": len(rows),
        "agreement": sum(c == v for c, v in labelled) / len(labelled) if labelled else None,
        "false_accepts": sum(v and not c for c, v in labelled),
        "false_rejects": sum(c and not v for c, v in labelled),
    }
    return summary, [{**row, "verdict": verdict} for row, verdict in zip(rows, verdicts)]


def vote(rows: list[dict], grader: Grader, form: Format) -> tuple[dict, list[dict]]:
    """Summary and per-problem records of {problem, response, gold} rows, grouped by problem text.

    A gold may be None. Rows without a gold do not count in the accuracy, which is None if there is no gold at all. The
    label of a problem is compared with the first gold of its rows.
    """
    problems: dict[str, list[dict]] = {}
    for row in rows:
        problems.setdefault(row["problem"], []).append(row)
    answers = []
    for group in problems.values():
        found = [extract(row["response"], form) for row in group]
        answers.append([a.text if a else None for a in found])
    groups = grader.groups(answers)
    votes = [majority(a, g) for a, g in zip(answers, groups)]
    golds = [[None if (g := row["gold"]) is None else bare_answer(g) for row in group] for group in problems.values()]
    first = [next((g for g in group if g is not None), None) for group in golds]
    right = _verdicts([a for group in answers for a in group], [g for group in golds for g in group], grader)
    label_right = _verdicts([v.label for v in votes], first, grader)
    summary = {
        "problems": len(problems),
        "responses": len(rows),
        "parsed": sum(v.parsed for v in votes),
        "accuracy": _share(right),
        "maj_accuracy": _share(label_right),
        "mean_vote_share": sum(v.share for v in votes) / len(votes),
    }
    verdicts = iter(right)
    details = [
        {
            "problem": problem, "gold": gold, "label": v.label, "label_correct": ok, "share": v.share,
            "share_parsed": v.share_parsed, "tie": v.tie, "counts": v.counts, "representatives": v.representatives,
            "answers": answer, "groups": group, "correct": [next(verdicts) for _ in answer],
        }
        for problem, gold, v, ok, answer, group in zip(problems, first, votes, label_right, answers, groups)
    ]  # fmt: skip
    return summary, details


def _verdicts(answers: Sequence[str | None], golds: Sequence[str | None], grader: Grader) -> list[bool | None]:
    """Tells whether each answer is right, None where its gold is None."""
    known = [i for i, gold in enumerate(golds) if gold is not None]
    found = dict(zip(known, grader.grade([answers[i] for i in known], [golds[i] for i in known])))
    return [found.get(i) for i in range(len(golds))]


def _share(verdicts: Sequence[bool | None]) -> float | None:
    """The share of right answers among the known verdicts; None if none is known."""
    known = [v for v in verdicts if v is not None]
    return sum(known) / len(known) if known else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns 0, or 2 for a mistake in the input."""
    parser = argparse.ArgumentParser(prog="python -m srt_jax grade", description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", metavar="FILE", type=expanded, help="grade rows {prediction, gold, correct}")
    parser.add_argument("--vote", action="store_true", help="vote on the rows of --predictions")
    parser.add_argument(
        "--predictions", metavar="FILE", type=expanded, help="rows {problem, response} or {problem, response, gold}"
    )
    parser.add_argument("--out", metavar="FILE", type=expanded, help="write details as JSON lines")
    parser.add_argument("--style", default="boxed", help="how responses show their answer (docs/grading.md)")
    parser.add_argument("--boxes", choices=BOXES, default="statement", help="which boxes are the answer")
    parser.add_argument("--field", default="answer", help="JSON field of the answer (style json)")
    parser.add_argument("--pattern", default="", help="regular expression with one group (style regex)")
    parser.add_argument("--match", choices=("equivalent", "string"), default="equivalent", help="how votes compare")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    if bool(options.pairs) == options.vote or options.vote != bool(options.predictions):
        parser.error("give either --pairs FILE, or --vote with --predictions FILE")
    if options.workers < 1:
        parser.error("--workers must be at least 1")
    try:
        form = Format(options.style, options.boxes, options.field, options.pattern)
    except ValueError as error:
        parser.error(str(error))
    try:
        if options.out:
            check_output_file(options.out)
    except OSError as error:
        parser.error(f"--out={options.out} cannot be written ({error}): choose another file.")
    try:
        started = time.monotonic()
        with Grader(workers=options.workers, match=options.match) as grader:
            if options.pairs:
                rows = read_pairs(options.pairs)
                if (warning := response_warning(rows, form)) is not None:
                    logger.warning(warning)
                summary, details = grade_pairs(rows, grader)
            else:
                rows = read_rows(options.predictions, ("problem", "response"), optional=("gold",))
                summary, details = vote(rows, grader, form)
            metrics = grader.metrics()
        summary["timeouts"] = int(metrics["timeouts"] + metrics["crashes"] + metrics["skipped"])
        summary["seconds"] = round(time.monotonic() - started, 3)
        if options.out:
            write_details(options.out, details)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
