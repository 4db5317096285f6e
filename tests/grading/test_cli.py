"""python -m srt_jax.grade: one JSON object at the end, one clear sentence when the input is wrong."""

import json
import subprocess
import sys

import pytest

from srt_jax.grade import main


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(capsys, *arguments):
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_pairs(tmp_path, capsys):
    rows = [
        {"prediction": "1/2", "gold": "0.5", "correct": True},
        {"prediction": "3", "gold": "4", "correct": True},
        {"prediction": "5", "gold": "5", "correct": False},
        {"prediction": None, "gold": "5", "correct": False},
    ]
    out = tmp_path / "details.jsonl"
    code, printed, _ = run(capsys, "--pairs", write(tmp_path / "p.jsonl", rows), "--out", str(out))
    summary = json.loads(printed.splitlines()[-1])
    assert code == 0
    assert set(summary) == {"pairs", "agreement", "false_accepts", "false_rejects", "timeouts", "seconds"}
    assert (summary["pairs"], summary["agreement"]) == (4, 0.5)
    assert (summary["false_accepts"], summary["false_rejects"]) == (1, 1)
    assert [json.loads(line)["verdict"] for line in out.read_text().splitlines()] == [True, False, True, False]
    assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []


def test_vote(tmp_path, capsys):
    answers = ["\\boxed{1/2}", "\\boxed{0.5}", "\\boxed{3}", "no box"]
    rows = [{"problem": "p", "response": a, "gold": "\\frac12"} for a in answers]
    rows += [{"problem": "q", "response": "\\boxed{7}", "gold": "8"}]
    out = tmp_path / "details.jsonl"
    code, printed, _ = run(capsys, "--vote", "--predictions", write(tmp_path / "v.jsonl", rows), "--out", str(out))
    summary = json.loads(printed.splitlines()[-1])
    assert code == 0
    assert set(summary) == {
        "problems", "responses", "parsed", "accuracy", "maj_accuracy", "mean_vote_share", "timeouts", "seconds",
    }  # fmt: skip
    assert (summary["problems"], summary["responses"], summary["parsed"]) == (2, 5, 4)
    assert (summary["accuracy"], summary["maj_accuracy"], summary["mean_vote_share"]) == (0.4, 0.5, 0.75)
    first = json.loads(out.read_text().splitlines()[0])
    assert (first["groups"], first["counts"], first["representatives"]) == ([0, 0, 1, -1], [2, 1], ["1/2", "3"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"prediction": "1", "gold": "1"}\n{"predi', "line 2 is not JSON"),
        ('["1", "1"]', "line 1 is not a JSON object"),
        ('{"prediction": "1"}', "no text under 'gold'"),
        ("", "has no rows"),
        ("[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_bad_input(tmp_path, capsys, content, says):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    code, out, err = run(capsys, "--pairs", str(path))
    assert (code, out) == (2, "")
    assert str(path) in err
    assert says in err
    assert err.count("\n") == 1


def test_missing_file_and_unwritable_out(tmp_path, capsys):
    code, _, err = run(capsys, "--pairs", str(tmp_path / "none.jsonl"))
    assert code == 2
    assert "none.jsonl" in err
    good = write(tmp_path / "p.jsonl", [{"prediction": "1", "gold": "1"}])
    code, out, err = run(capsys, "--pairs", good, "--out", str(tmp_path / "no" / "such" / "folder"))
    assert (code, out) == (2, "")
    assert "cannot write" in err


def test_arguments(capsys):
    for arguments in ((), ("--vote",), ("--pairs", "a", "--vote", "--predictions", "b")):
        with pytest.raises(SystemExit):
            main(arguments)
    assert "give either --pairs FILE" in capsys.readouterr().err


def test_as_a_program_without_accelerator_libraries(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prediction": "1", "gold": "1", "correct": True}])
    script = (
        "import sys; from srt_jax.grade import main; code = main(['--pairs', sys.argv[1]]); "
        "print(sorted({'jax', 'torch', 'sympy', 'math_verify'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
