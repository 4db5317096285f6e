"""Compares the verdicts of the grader and of math-verify on labelled pairs and on published model outputs.

    python benchmarks/engines.py [--data FOLDER] [--differences FILE]

Prints one JSON line per file: the number of distinct pairs; for each engine its agreement with the labels, its false
accepts, its false rejects and its seconds; the number of pairs on which the two differ. Both get extracted answers, and
math-verify runs in isolated workers as in training. --differences writes the pairs on which they differ.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from srt_jax.grading import Grader, extract

BESIDE = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
PAIRS = ("mario_eval", "nemo_skills", "hendrycks_math", "dart_math", "reports")
OUTPUTS = ("qwen25math_math100x8", "nemo_math50x3", "rho_math500x4")
CASES = Path(__file__).resolve().parents[1] / "tests" / "grading" / "cases.jsonl"


def read(path: Path) -> list[tuple[str, str, bool]]:
    """Distinct (prediction, gold, label) of a file of pairs or of model outputs."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "response" in row:
            answer = extract(row["response"])
            if answer is not None:
                found.setdefault((answer.text, row["gold"]), row["published_correct"])
        elif row["prediction"] is not None:
            found.setdefault((row["prediction"], row["gold"]), row["correct"])
    return [(prediction, gold, right) for (prediction, gold), right in found.items()]


def compare(name: str, rows: list[tuple[str, str, bool]], grader: Grader) -> list[dict]:
    """Prints the line of a file. Returns the pairs on which the engines differ."""
    predictions, golds, labels = zip(*rows)
    verdicts, line = {}, {"name": name, "pairs": len(rows), "right": sum(labels)}
    for engine in ("verify", "math_verify"):
        started = time.perf_counter()
        verdicts[engine] = grader.grade(predictions, golds, engine)
        line[f"{engine}_seconds"] = round(time.perf_counter() - started, 2)
        line[f"{engine}_agreement"] = round(sum(v == c for v, c in zip(verdicts[engine], labels)) / len(rows), 4)
        line[f"{engine}_false_accepts"] = sum(v and not c for v, c in zip(verdicts[engine], labels))
        line[f"{engine}_false_rejects"] = sum(c and not v for v, c in zip(verdicts[engine], labels))
    different = [
        {"file": name, "prediction": p, "gold": g, "label": c, "verify": a, "math_verify": b}
        for (p, g, c), a, b in zip(rows, verdicts["verify"], verdicts["math_verify"])
        if a != b
    ]
    line["differences"] = len(different)
    metrics = grader.metrics()
    line["unfinished"] = int(sum(metrics[name] for name in ("timeouts", "crashes", "errors", "skipped")))
    print(json.dumps(line), flush=True)
    return different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("SRT_JAX_TEST_DATA", BESIDE))
    parser.add_argument("--differences", type=Path)
    options = parser.parse_args()
    files = {name: options.data / f"grader_pairs_{name}.jsonl" for name in PAIRS}
    files |= {name: options.data / f"generations_{name}.jsonl" for name in OUTPUTS}
    files["tests/grading/cases.jsonl"] = CASES
    different = []
    with Grader(workers=2, timeout=5.0) as grader:
        grader.self_test()
        grader.grade(["1"], ["1"], "math_verify")  # starts its workers
        for name, path in files.items():
            if path.exists():
                different += compare(name, read(path), grader)
            else:
                print(json.dumps({"name": name, "skipped": f"{path} is missing"}))
        print(json.dumps({"network": grader.network}))
    if options.differences:
        options.differences.write_text("".join(json.dumps(row) + "\n" for row in different), encoding="utf-8")


if __name__ == "__main__":
    main()
