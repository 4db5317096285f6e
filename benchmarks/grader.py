"""Measures grading speed on published model outputs, beside serial math-verify, and on a batch of hostile responses.

    python benchmarks/grader.py [--data FOLDER]

Prints one JSON line per measurement. For each response our grader extracts, votes and compares with the gold answer;
math-verify parses and compares. Our caches are empty at the start, and our workers are running.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

import math_verify

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from srt_jax.grading.algebra import factor
from srt_jax.grading.answers import extract
from srt_jax.grading.canonical import remembered
from srt_jax.grading.grader import Grader
from srt_jax.reward.votes import majority
from tests.grading.hostile import HOSTILE, TEMPTING

BESIDE = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
FILES = ("generations_qwen25math_math100x8", "generations_nemo_math50x3", "generations_rho_math500x4")


def ours(rows: list[dict], grader: Grader) -> int:
    """Extracts, votes and grades. Returns the number of right answers."""
    problems = defaultdict(list)
    for row in rows:
        problems[row["problem"]].append(extract(row["response"]))
    answers = [[a.text if a else None for a in group] for group in problems.values()]
    for group, ids in zip(answers, grader.groups(answers)):
        majority(group, ids)
    texts = [a.text if (a := extract(row["response"])) else None for row in rows]
    return sum(grader.grade(texts, [row["gold"] for row in rows]))


def serial_math_verify(rows: list[dict]) -> int:
    """Parses and verifies each response. Returns the number of right answers."""
    right = 0
    for row in rows:
        gold = math_verify.parse(f"\\boxed{{{row['gold']}}}", parsing_timeout=None)
        prediction = math_verify.parse(row["response"], parsing_timeout=None)
        right += math_verify.verify(gold, prediction, timeout_seconds=None)
    return right


def cold() -> None:
    remembered.cache_clear()
    factor.cache_clear()


def timed(function, *arguments) -> tuple[float, int]:
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def hostile_batch() -> tuple[list[list[str]], list[str]]:
    """16 problems x 32 responses, 32 of them hostile; and the gold answers."""
    hostile = [t for t in HOSTILE if len(t) < 5_000][:: len(HOSTILE) // 32][:26] + [a for p in TEMPTING[1:4] for a in p]
    problems = [[f"\\frac{{{i}}}{{{j % 4 + 1}}}" for j in range(32)] for i in range(16)]
    for k, text in enumerate(hostile):
        problems[k // 2][k % 2] = text
    return problems, [str(i) for i in range(16) for _ in range(32)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("SRT_JAX_TEST_DATA", BESIDE))
    data = parser.parse_args().data
    logging.disable(logging.CRITICAL)
    started = time.perf_counter()
    with Grader(workers=2) as grader:
        grader.self_test()
        print(json.dumps({"name": "grader/start", "seconds": round(time.perf_counter() - started, 3)}))
        for name in FILES:
            path = data / f"{name}.jsonl"
            if not path.exists():
                print(json.dumps({"name": name, "skipped": f"{path} is missing"}))
                continue
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            with Grader(workers=2) as fresh:
                fresh.self_test()
                cold()
                seconds, right = timed(ours, rows, fresh)
            their_seconds, their_right = timed(serial_math_verify, rows)
            line = {"name": name, "responses": len(rows), "responses_per_s": round(len(rows) / seconds)}
            line |= {"math_verify_responses_per_s": round(len(rows) / their_seconds)}
            line |= {"speedup": round(their_seconds / seconds, 1), "right": right, "math_verify_right": their_right}
            print(json.dumps(line))
        problems, golds = hostile_batch()
        cold()
        grader.metrics()
        seconds, _ = timed(
            lambda: (grader.groups(problems), grader.grade([text for problem in problems for text in problem], golds))
        )
        timeouts = grader.metrics()["timeouts"]
        print(json.dumps({"name": "512 responses, 32 hostile", "seconds": round(seconds, 3), "timeouts": timeouts}))


if __name__ == "__main__":
    main()
