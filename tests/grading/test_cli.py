"""python -m srt_jax grade: one JSON object at the end, one clear sentence when the input is wrong."""

import json
import subprocess
import sys

import pytest

from srt_jax.jobs.grade import main


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


def test_a_vote_needs_no_gold(tmp_path, capsys):
    rows = [{"problem": "p", "response": "\\boxed{1}"}, {"problem": "p", "response": "\\boxed{1}", "gold": None}]
    out = tmp_path / "details.jsonl"
    code, printed, _ = run(capsys, "--vote", "--predictions", write(tmp_path / "v.jsonl", rows), "--out", str(out))
    summary = json.loads(printed.splitlines()[-1])
    assert code == 0 and (summary["accuracy"], summary["maj_accuracy"], summary["mean_vote_share"]) == (None, None, 1)
    assert json.loads(out.read_text()).items() >= {"label": "1", "gold": None, "label_correct": None}.items()
    rows += [{"problem": "p", "response": "\\boxed{2}", "gold": "2"}, {"problem": "q", "response": "3", "gold": "3"}]
    _, printed, _ = run(capsys, "--vote", "--predictions", write(tmp_path / "v.jsonl", rows))
    summary = json.loads(printed.splitlines()[-1])
    assert (summary["accuracy"], summary["maj_accuracy"]) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"prediction": "1", "gold": "1"}\n{"predi', "line 2 is the last one and looks half-written"),
        ('["1", "1"]', "line 1 is ['1', '1'], not a JSON object"),
        ('{"prediction": "1"}', "no text under 'gold'"),
        ("", "has no rows"),
        ("[" * 100_000, "line 1 is the last one and looks half-written"),
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
        "import sys; from srt_jax.jobs.grade import main; code = main(['--pairs', sys.argv[1]]); "
        "print(sorted({'jax', 'torch', 'sympy', 'math_verify'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("right", [True, 1, "true", "True", "1", "yes"])
@pytest.mark.parametrize("wrong", [False, 0, "false", "no", "0"])
def test_correct_may_be_written_in_several_ways(tmp_path, capsys, right, wrong):
    rows = [{"prediction": "5", "gold": "5", "correct": right}, {"prediction": "5", "gold": "6", "correct": wrong}]
    rows.append({"prediction": "5", "gold": "6", "correct": None})
    code, printed, _ = run(capsys, "--pairs", write(tmp_path / "p.jsonl", rows))
    assert code == 0
    assert json.loads(printed.splitlines()[-1])["agreement"] == 1.0


@pytest.mark.parametrize("told", ["maybe", 2, 0.5, [True], {}])
def test_another_correct_is_refused(tmp_path, capsys, told):
    rows = [{"prediction": "5", "gold": "5"}, {"prediction": "5", "gold": "5", "correct": told}]
    code, out, err = run(capsys, "--pairs", write(tmp_path / "p.jsonl", rows))
    assert (code, out) == (2, "")
    assert "row 2 has" in err
    assert "under 'correct'; write true, false or null" in err


def test_whole_responses_as_predictions_are_noticed(tmp_path, capsys):
    rows = [{"prediction": "We add. So it is \\boxed{5}.", "gold": "5"}] * 3 + [{"prediction": "5", "gold": "5"}]
    _, _, err = run(capsys, "--pairs", write(tmp_path / "p.jsonl", rows))
    assert "3 of 4 predictions look like whole responses" in err
    _, _, err = run(capsys, "--pairs", write(tmp_path / "q.jsonl", [{"prediction": "5", "gold": "5"}] * 2))
    assert err == ""


def test_golds_that_are_solutions_are_read(tmp_path, capsys):
    rows = [
        {"prediction": "42", "gold": "6 times 7.\nSo we have it.\n#### 42", "correct": True},
        {"prediction": "5", "gold": "['5']", "correct": True},
        {"prediction": "5", "gold": "#### 5", "correct": True},
    ]
    _, printed, _ = run(capsys, "--pairs", write(tmp_path / "p.jsonl", rows))
    assert json.loads(printed.splitlines()[-1])["agreement"] == 1.0


def test_styles_of_responses(tmp_path, capsys):
    rows = [{"problem": "p", "response": "x = 3 and y = 7", "gold": "7"}]
    path = write(tmp_path / "v.jsonl", rows)
    pattern = ("--style=regex", "--pattern=y = (.)")
    for options, accuracy in (((), 0.0), (("--style", "last_number"), 1.0), (pattern, 1.0)):
        _, printed, _ = run(capsys, "--vote", "--predictions", path, *options)
        assert json.loads(printed.splitlines()[-1])["accuracy"] == accuracy
    with pytest.raises(SystemExit):
        run(capsys, "--vote", "--predictions", path, "--style", "nowhere")
    assert "style is 'nowhere'" in capsys.readouterr().err
