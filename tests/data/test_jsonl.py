import hashlib
import json
import re

import ml_collections
import pytest

from srt_jax.data.base import Problem, fingerprint
from srt_jax.data.problems import load
from srt_jax.errors import DataError


@pytest.fixture
def write(tmp_path):
    def write(*rows, tail="\n"):
        path = tmp_path / "sums.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + tail if rows else "", encoding="utf-8")
        return str(path)

    return write


def jsonl(path, **settings):
    return load({"kind": "jsonl", "path": path, **settings})


def refused(path, *parts, **settings):
    """Loading must raise an error of one sentence that contains the path and all of `parts`."""
    with pytest.raises(DataError) as caught:
        jsonl(path, **settings)
    message = str(caught.value)
    for part in (path, *parts):
        assert part in message, message
    assert "\n" not in message and message.endswith("."), message


def test_fields_of_a_problem(write):
    path = write({"id": 7, "problem": "1 + 1?", "answer": "2", "level": 3}, {"problem": "1 + 2?"})
    hashed = hashlib.sha256(b"1 + 2?").hexdigest()[:16]
    assert jsonl(path) == [Problem("7", "1 + 1?", "2", "sums", "3"), Problem(hashed, "1 + 2?", None, "sums")]


def test_columns_can_be_named_and_the_config_may_be_a_config_dict(write):
    path = write({"q": "1 + 1?", "a": "2", "name": "x", "hardness": "easy", "problem": "not this"})
    columns = {"prompt_column": "q", "answer_column": "a", "id_column": "name", "level_column": "hardness"}
    config = ml_collections.ConfigDict({"kind": "jsonl", "path": path, "limit": 0, **columns})
    assert load(config) == [Problem("x", "1 + 1?", "2", "sums", "easy")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (142.0, "142.0"),
        (-0.5, "-0.5"),
        ("007", "007"),
        (" 1 ", " 1 "),
        (None, None),
        ("", None),
        ("  ", None),
    ],
)
def test_answers_become_strings(write, value, text):
    assert jsonl(write({"problem": "p", "answer": value}))[0].answer == text


def test_only_a_newline_ends_a_row(write):
    path = write('{"problem": "a\u2028b\u0085c"}', "", "   ", '{"problem": "d"}', tail="")
    assert [problem.prompt for problem in jsonl(path)] == ["a\u2028b\u0085c", "d"]


def test_limit_keeps_the_first_rows_and_reads_no_further(write):
    path = write({"problem": "a"}, {"problem": "b"}, "{broken")
    assert [problem.prompt for problem in jsonl(path, limit=2)] == ["a", "b"]
    with pytest.raises(DataError, match="line 3"):
        jsonl(path, limit=3)


def test_missing_file(tmp_path):
    refused(str(tmp_path / "no.jsonl"), "is not a file", "`path`")
    refused(str(tmp_path), "is not a file")


@pytest.mark.parametrize("lines", [(), ("", "  ")])
def test_empty_file(write, lines):
    refused(write(*lines), "has no rows")


def test_half_written_last_line(write):
    refused(write({"problem": "a"}, '{"problem": "b', tail=""), "line 2", "half-written", "delete that line")


def test_last_line_cut_inside_a_character(write, tmp_path):
    path = write({"problem": "a"})
    with open(path, "ab") as file:
        file.write('{"problem": "é'.encode()[:-1])
    refused(path, "line 2", "half-written")


def test_broken_line_in_the_middle(write):
    refused(write({"problem": "a"}, '{"problem": b}', {"problem": "c"}), "line 2", "not valid JSON")
    for other in ("problem,answer\n1+1,2", "[\n {}\n]"):  # CSV; one array over many lines
        refused(write(other), "line 1", "a JSONL file has one JSON object on each line")


@pytest.mark.parametrize("row", ["[1, 2]", '"text"', "3"])
def test_row_that_is_no_object(write, row):
    refused(write({"problem": "a"}, row), "line 2", "not a JSON object")


def test_row_without_a_prompt(write):
    refused(write({"problem": "a"}, {"question": "b"}), "line 2", "no column 'problem'", "'question'", "prompt_column")


@pytest.mark.parametrize("prompt", ["", " \n", None, 5, ["a"]])
def test_prompt_that_is_no_text(write, prompt):
    refused(write({"problem": "a"}, {"problem": prompt}), "line 2", repr(prompt), "'problem'", "non-blank string")


@pytest.mark.parametrize(("column", "value"), [("answer", True), ("answer", [1]), ("id", {"a": 1}), ("level", [2])])
def test_value_that_is_no_scalar(write, column, value):
    refused(write({"problem": "a", column: value}), "line 1", repr(value), repr(column), "a string or a number")


def test_duplicate_ids(write):
    path = write({"id": 1, "problem": "a"}, {"id": 2, "problem": "b"}, {"id": "1", "problem": "c"})
    refused(path, "lines 1 and 3", "id '1'", "'id'", "unique")


def test_duplicate_prompts_without_ids(write):
    path = write({"problem": "a"}, {"problem": "b"}, {"problem": "a"})
    refused(path, "lines 1 and 3", "same prompt", "id column", "remove the duplicates")
    path = write({"id": 1, "problem": "a"}, {"id": 2, "problem": "a"})
    assert len(jsonl(path)) == 2


def test_unknown_kind_and_bad_limit(write):
    with pytest.raises(DataError, match="kind 'csv' is unknown; set `kind` to one of 'jsonl', 'parquet', 'gym'"):
        load({"kind": "csv"})
    with pytest.raises(DataError, match="`limit` is -1"):
        jsonl(write({"problem": "a"}), limit=-1)


def test_fingerprint_sees_ids_prompts_answers_and_order():
    a, b = Problem("1", "p", "2", "x"), Problem("2", "q", None, "x")
    others = [[b, a], [a], [Problem("3", "p", "2", "x"), b], [Problem("1", "r", "2", "x"), b]]
    others += [[Problem("1", "p", "9", "x"), b], [Problem("1", "p", None, "x"), b], [Problem("1p", "", "2", "x"), b]]
    prints = {fingerprint(problems) for problems in [[a, b], *others]}
    assert len(prints) == 1 + len(others) and all(re.fullmatch("[0-9a-f]{64}", text) for text in prints)
    assert fingerprint([a, b]) == fingerprint([Problem("1", "p", "2", "elsewhere", "hard"), b])


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("aime24", 30),
        ("aime25", 30),
        ("aime_1983_2023", 919),
        ("amc_83", 83),
        ("dapo_math_17k", 17279),
        ("gsm8k_test", 1319),
        ("math500", 500),
        ("math_train_7500", 7498),
        ("minerva_math", 272),
        ("olympiadbench_675", 675),
    ],
)
def test_benchmark_files(data_dir, name, rows):
    path = str(data_dir / f"{name}.jsonl")
    hashed, named = jsonl(path), jsonl(path, id_column="source_id")
    assert len(hashed) == len(named) == rows
    assert len({problem.id for problem in hashed}) == len({problem.id for problem in named}) == rows
    assert all(problem.answer for problem in hashed)
    assert {problem.source for problem in hashed} == {name}
    assert [problem.prompt for problem in hashed] == [problem.prompt for problem in named]
    assert fingerprint(hashed) != fingerprint(named)


def test_levels_of_math500(data_dir):
    levels = {problem.level for problem in jsonl(str(data_dir / "math500.jsonl"))}
    assert levels == {"1", "2", "3", "4", "5"}


def test_answers_inside_of_solutions_and_lists_are_read(write):
    path = write({"problem": "a", "answer": "6 times 7.\n#### 42"}, {"problem": "b", "answer": "['5']"})
    assert [problem.answer for problem in jsonl(path)] == ["42", "5"]
