"""Subsets by score: which problems, in which order, with what on record."""

import json
import subprocess
import sys

import pytest

from srt_jax.config import source
from srt_jax.data import problems as problem_sources
from srt_jax.errors import DataError
from srt_jax.jobs.subset import overlaps, select, subset
from tests.helpers import REPOSITORY

SCORES = {  # vote_share, vote_share_parsed, pass_rate
    "p0": (0.50, 1.00, 0.0),
    "p1": (0.75, 0.80, 0.7),
    "p2": (0.25, 0.90, 0.2),
    "p3": (0.75, 0.75, 0.1),
    "p4": (1.00, 1.00, 1.0),
    "p5": (0.00, 0.00, 0.0),
}


@pytest.fixture
def files(tmp_path):
    data, labels = tmp_path / "data.jsonl", tmp_path / "labels.jsonl"
    rows = [{"id": name, "problem": f"problem {name}", "answer": 7, "level": i} for i, name in enumerate(SCORES)]
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": "new", "problem": "no label"}]))
    labelled = [
        {"id": id, "label": "7", "vote_share": s, "vote_share_parsed": p, "pass_rate": r}
        for id, (s, p, r) in SCORES.items()
    ]
    labels.write_text("".join(json.dumps(row) + "\n" for row in [{"provenance": {"seed": 5}}, *labelled]))
    return data, labels


@pytest.mark.parametrize(
    ("by", "fraction", "hardest", "expected"),
    [
        ("vote_share", 1 / 3, False, ["p1", "p4"]),  # p1 and p3 have equal shares
        ("vote_share", 0.5, False, ["p1", "p3", "p4"]),
        ("vote_share_parsed", 1 / 3, False, ["p0", "p4"]),
        ("pass_rate", 1 / 3, False, ["p1", "p4"]),
        ("pass_rate", 1 / 3, True, ["p0", "p5"]),
        ("vote_share", 1 / 3, True, ["p2", "p5"]),
        ("vote_share", 0.01, False, ["p4"]),
        ("vote_share", 1.0, False, list(SCORES)),
    ],
)
def test_subsets(files, tmp_path, by, fraction, hardest, expected):
    data, labels = files
    report = subset(source(path=str(data)), str(labels), by, fraction, hardest, tmp_path / "out.jsonl")
    kept = problem_sources.load(source(path=str(tmp_path / "out.jsonl")))
    assert [p.id for p in kept] == expected
    by_id = {p.id: p for p in problem_sources.load(source(path=str(data)))}
    for p in kept:
        assert (p.prompt, p.answer, p.level) == (by_id[p.id].prompt, "7", by_id[p.id].level)
    assert (report["problems"], report["labelled"], report["kept"]) == (7, 6, len(expected))
    provenance = json.loads((tmp_path / "out.jsonl.provenance.json").read_text())
    assert provenance["labelled_by"] == {"seed": 5} and provenance["by"] == by
    assert not list(tmp_path.glob(".*"))


def test_overlap_with_the_other_scores():
    rows = {id: dict(zip(("vote_share", "vote_share_parsed", "pass_rate"), scores)) for id, scores in SCORES.items()}
    assert overlaps(rows, "vote_share", 1 / 3, False) == {"vote_share_parsed": 0.5, "pass_rate": 1.0}
    rows["p2"]["pass_rate"] = None
    assert overlaps(rows, "vote_share", 1 / 3, False) == {"vote_share_parsed": 0.5}
    assert select(rows, "vote_share", 1 / 3, True) == {"p2", "p5"}


def test_what_cannot_be_cut_is_said_and_leaves_nothing(files, tmp_path):
    data, labels = files
    out = tmp_path / "out.jsonl"
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"id": "p0", "label": "1"}\n')
    with pytest.raises(DataError, match="--by=vote_share needs vote_share of all problems, but 'p0'"):
        subset(source(path=str(data)), str(plain), "vote_share", 0.5, False, out)
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "else", "problem": "x"}\n')
    with pytest.raises(DataError, match="labels none of the 1 problems"):
        subset(source(path=str(other)), str(labels), "vote_share", 0.5, False, out)
    assert not out.exists()


def test_command_line(files, tmp_path):
    data, labels = files
    command = [
        sys.executable,
        "-m",
        "srt_jax",
        "subset",
        "--config=configs/quickstart.py",
        f"--labels={labels}",
        f"--config.data.path={data}",
        f"--out={tmp_path / 'easy.jsonl'}",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 of 6 problems with a label (7 in the data): the easiest 33.3% by vote_share" in done.stdout
    assert "100.0% of them are among the easiest by pass_rate too (33.3% by chance)" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["kept"] == 2
    refused = subprocess.run([*command, "--fraction=0"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (2, "error: --fraction is 0.0: it lies in (0, 1].\n")
