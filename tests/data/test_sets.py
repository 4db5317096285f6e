"""Named sets, Parquet and verl's format, and problems that are in two sets."""

import json

import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest

from srt_jax.config import base, source
from srt_jax.data import overlap, sets
from srt_jax.data.base import Problem, fingerprint
from srt_jax.data.problems import load, title
from srt_jax.data.prompts import encode, render
from srt_jax.data.rows import prompt_id
from srt_jax.errors import DataError, DataNotHereError
from srt_jax.files import download_failure
from srt_jax.jobs import overlap as overlap_job
from srt_jax.run.prepare import encode_eval_sets

INSTRUCTION = r"Let's think step by step and output the final answer within \boxed{}."


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SRT_JAX_DATA", str(tmp_path))
    return tmp_path


def write(path, *rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def named(name, **fields):
    return load(source(kind="set", name=name, **fields))


def verl(question, answer, hidden=None):
    """A row as SRT's preprocessing writes it."""
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": f"{question} {INSTRUCTION}"}],
        "ability": "math",
        "extra_info": {"split": "train", "index": 0},
        "reward_model": {"style": "rule", "ground_truth": answer, "solution_hidden_during_training": hidden or answer},
    }


# ---- Parquet, verl


def test_parquet_with_columns_of_ones_own(tmp_path):
    path = tmp_path / "p.parquet"
    write(path, {"q": "1 + 1?", "meta": {"a": "2"}, "seen": True}, {"q": "1 + 2?", "meta": {"a": None}, "seen": False})
    problems = load(
        source(kind="parquet", path=str(path), prompt_column="q", answer_column="meta.a", labelled_column="seen")
    )
    assert [(p.prompt, p.answer, p.labelled, p.source) for p in problems] == [
        ("1 + 1?", "2", True, "p"),
        ("1 + 2?", None, False, "p"),
    ]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_verl_rows_hide_what_training_must_not_see(tmp_path, kind):
    path = tmp_path / f"train.{kind}"
    write(path, verl("1 + 1?", "2"), verl("1 + 2?", "LABEL_BY_SELF_CONSISTENCY", "3"))
    problems = load(source(kind=kind, path=str(path)))
    assert [(p.answer, p.labelled) for p in problems] == [("2", True), ("3", False)]
    plain = [Problem(p.id, p.prompt, p.answer, p.source) for p in problems]
    assert fingerprint(problems) != fingerprint(plain)  # training would differ


def dapo(index, question, answer):
    """A row of DAPO's published file."""
    asked = f"Solve the following math problem step by step.\n\n{question}\n\nAnswer on a line of its own."
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": asked}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index},
    }


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("columns", [{}, {"prompt_column": "prompt", "answer_column": "reward_model.ground_truth"}])
def test_dapo_as_published_every_problem_once_by_its_index(tmp_path, kind, columns):
    path = tmp_path / f"dapo-math-17k.{kind}"
    write(path, *[dapo(*row) for row in [("a", "1 + 1?", "2"), ("b", "1 + 2?", "3"), ("c", "1 + 2?", "3")] * 100])
    settings = {"kind": kind, "path": str(path), "id_column": "extra_info.index", **columns}
    problems = load(source(**settings, duplicates="first"))
    assert [(p.id, p.answer) for p in problems] == [("a", "2"), ("b", "3"), ("c", "3")]
    assert [p.id for p in load(source(**settings, duplicates="first", limit=2))] == ["a", "b"]
    without_ids = load(source(**{**settings, "id_column": "id"}, duplicates="first"))  # b and c have the same problem
    assert [(p.id, p.prompt) for p in without_ids] == [(prompt_id(p.prompt), p.prompt) for p in problems[:2]]
    with pytest.raises(DataError, match=r"s 1 and 4 have the same id 'a' .*set `duplicates` to 'first'\.$"):
        load(source(**settings))


@pytest.mark.parametrize("row", [("a", "1 + 3?", "2"), ("a", "1 + 1?", "3")])
def test_rows_of_one_id_that_differ_are_refused_even_if_duplicates_may_be_left_out(tmp_path, row):
    path = tmp_path / "dapo.jsonl"
    write(path, dapo("a", "1 + 1?", "2"), dapo(*row))
    with pytest.raises(DataError, match=r"lines 1 and 2 have the same id 'a'.*make the ids unique"):
        load(source(path=str(path), id_column="extra_info.index", duplicates="first"))


def test_a_verl_row_keeps_its_level_and_its_other_columns(tmp_path):
    path = tmp_path / "train.jsonl"
    write(path, {**verl("1 + 1?", "2"), "extra_info": {"index": 7, "level": "easy"}})
    [problem] = load(source(path=str(path), id_column="extra_info.index", level_column="extra_info.level"))
    assert (problem.id, problem.level) == ("7", "easy")


def test_a_stored_label_that_is_not_the_answer_is_refused(tmp_path):
    path = tmp_path / "offline.jsonl"
    write(path, verl("1 + 1?", "2"), verl("1 + 2?", "4", "3"))
    with pytest.raises(DataError, match=r"line 2 stores the label '4', while the true answer .* is '3'; write the la"):
        load(source(path=str(path)))
    columns = dict(prompt_column="prompt", answer_column="reward_model.solution_hidden_during_training")
    assert [p.answer for p in load(source(path=str(path), **columns))] == ["2", "3"]


def test_the_instruction_that_verl_files_hold_is_not_asked_twice(make_tokenizer):
    tokenizer, question = make_tokenizer(), "1 + 1?"
    prompts = base().prompts
    assert render(f"{question} {INSTRUCTION}", tokenizer, prompts) == render(question, tokenizer, prompts)
    assert render(question, tokenizer, prompts).count(INSTRUCTION) == 1


@pytest.mark.parametrize(("content", "message"), [(b"no parquet", "cannot be read as Parquet"), (None, "not a file")])
def test_bad_parquet(tmp_path, content, message):
    path = tmp_path / "p.parquet"
    if content:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(source(kind="parquet", path=str(path)))


def test_labelled_column_must_be_true_or_false(tmp_path):
    path = tmp_path / "p.jsonl"
    write(path, {"problem": "a", "seen": "yes"})
    with pytest.raises(DataError, match="'yes' in `labelled_column` 'seen'; write true or false"):
        load(source(path=str(path), labelled_column="seen"))


def test_levels_choose_problems_and_limit_counts_those(tmp_path):
    path = tmp_path / "p.jsonl"
    write(path, *({"problem": f"{i}", "level": i % 3} for i in range(9)))
    assert [p.prompt for p in load(source(path=str(path), levels=("1", "2"), limit=3))] == ["1", "2", "4"]
    with pytest.raises(DataError, match=r"no row of the levels 7 .* it has 0, 1, 2"):
        load(source(path=str(path), levels=("7",)))


# ---- named sets


def test_hub_columns_become_ours(folder):
    write(folder / "gsm8k.parquet", {"question": "1 + 1?", "answer": "One and one.\n#### 2"})
    write(folder / "amc23.jsonl", {"question": "a", "answer": 142.0}, {"question": "b", "answer": 0.5})
    write(folder / "olympiadbench.jsonl", {"question": "a", "final_answer": ["1", "2"]})
    write(
        folder / "aime_1983_2023.jsonl",
        {"Question": "a", "Answer": 7, "Year": 1999},
        {"Question": "b", "Answer": 8, "Year": 2024},
    )
    write(
        folder / "big_math_llama.jsonl",
        *({"problem": str(x), "answer": "1", "llama8b_solve_rate": x} for x in (0.1, 0.3, 0.7, 0.9, None)),
    )
    write(
        folder / "openthoughts3_math.jsonl",
        *(
            {"domain": domain, "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "x"}]}
            for domain, text in [("math", "a"), ("math", "a"), ("code", "b"), ("math", "c")]
        ),
    )
    write(folder / "dapo.parquet", {"id": "7", **verl("1 + 1?", "2")})
    assert named("dapo")[0].id == prompt_id(f"1 + 1? {INSTRUCTION}")
    found = {name: [(p.prompt, p.answer) for p in named(name)] for name in sets.SETS if sets.find({"name": name})}
    assert found == {
        "gsm8k": [("1 + 1?", "2")],
        "amc23": [("a", "142"), ("b", "0.5")],
        "olympiadbench": [("a", "1, 2")],
        "aime_1983_2023": [("a", "7")],
        "big_math_llama": [("0.3", "1"), ("0.7", "1")],
        "openthoughts3_math": [("a", None), ("c", None)],
        "dapo": [(f"1 + 1? {INSTRUCTION}", "2")],
    }


def test_a_root_comes_before_the_environment_and_ids_are_the_prompts(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(folder / "aime24.jsonl", {"id": 1, "problem": "a", "answer": "1"})
    write(other / "aime24.parquet", {"ID": "x", "Problem": "a", "Answer": 1}, {"ID": "y", "Problem": "b", "Answer": 2})
    here, there = named("aime24"), named("aime24", root=str(other))
    assert here[0].id == there[0].id and [p.answer for p in there] == ["1", "2"]
    assert "30 rows on the hub" in title(source(kind="set", name="aime24")) and str(folder) in sets.describe(
        {"name": "aime24"}
    )


def test_offline_and_unknown(folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    with pytest.raises(
        DataNotHereError, match=r"'dapo' \(ftajwar/.* could not be downloaded .* dapo.jsonl or dapo.parq"
    ):
        named("dapo")
    config = base()
    with config.eval.unlocked():
        config.eval.sets.aime24 = source(kind="set", name="aime24")
    with pytest.raises(
        DataNotHereError, match=r"eval\.sets\.aime24: .* SRT_JAX_DATA, or .*--config\.eval\.sets=\{\}\.$"
    ):
        encode_eval_sets(config, None)
    with pytest.raises(DataError, match="`name` is 'dap': set it to one of dapo, "):
        named("dap")


def test_why_a_download_failed_is_one_short_text():
    cause = "ConnectError: [Errno -2] Name or service not known"
    paragraph = f"Got: {cause}\nAn error happened while trying to locate the files on the Hub and we cannot find the "
    assert download_failure(OSError(paragraph)) == cause
    assert download_failure(OSError("")) == "" and len(download_failure(OSError("word " * 100))) <= 120
    assert download_failure(OSError("word " * 100)).endswith("word ...")


def test_what_the_hub_s_cache_holds_is_read(folder, monkeypatch):
    monkeypatch.setattr(sets, "_REVISION", "0" * 40)
    snapshot = folder / "datasets--openai--gsm8k" / "snapshots" / ("0" * 40) / "main" / "test"
    snapshot.mkdir(parents=True)
    write(snapshot / "0000.parquet", {"question": "a", "answer": "#### 1"})
    write(snapshot / "0001.parquet", {"question": "b", "answer": "#### 2"})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(folder))
    assert [(p.prompt, p.answer) for p in named("gsm8k")] == [("a", "1"), ("b", "2")]


# ---- overlap


def problems_of(*texts):
    return [Problem(str(i), text, None, "x") for i, text in enumerate(texts)]


def test_overlap_ignores_white_space_only():
    train = problems_of("Find $x$ .", "Find  $y$", "find $z$", "Find $y$")
    test = problems_of("Find $y$\n", "Find $z$", " Find $x$ .")
    assert [(a.id, b.id) for a, b in overlap.overlap(train, test)] == [("0", "1"), ("2", "0")]
    assert overlap.report("t", train, test) == "t: 2 of 3 problems are in the training data too (ids 0, 2)"
    assert overlap.report("t", [], test) == "t: none of 3 problems is in the training data"


# ---- the real files

REAL = {  # set -> (file of the benchmark folder, rows, longest prompt in characters of the test's tokenizer)
    "dapo": ("dapo_math_17k", 17279),
    "math500": ("math500", 500),
    "aime24": ("aime24", 30),
    "aime25": ("aime25", 30),
    "aime_1983_2023": ("aime_1983_2023", 919),
    "amc83": ("amc_83", 83),
    "gsm8k": ("gsm8k_test", 1319),
    "minerva": ("minerva_math", 272),
    "olympiadbench": ("olympiadbench_675", 675),
}


@pytest.fixture
def real(folder, data_dir):
    for name, (file, _) in REAL.items():
        (folder / f"{name}.jsonl").symlink_to(data_dir / f"{file}.jsonl")
    return folder


def test_overlap_of_dapo_with_math500_and_amc(real, capsys):
    assert overlap_job.main(["dapo", "math500", "amc83", str(real / "aime24.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "math500: 4 of 500 problems are in" in out and "amc83: 11 of 83 problems are in" in out
    assert "aime24.jsonl: none of 30 problems is in" in out and out.count(" = dapo ") == 15


@pytest.mark.parametrize("name", REAL)
def test_real_sets(real, make_tokenizer, name):
    problems = named(name)
    assert len(problems) == REAL[name][1] == len({p.id for p in problems})
    assert all(p.answer for p in problems) and {p.source for p in problems} == {name}
    some = problems[:200]
    kept, tokens, report = encode(some, make_tokenizer(), base().prompts, 10_000)
    assert kept == some and report.dropped == 0
    text = render(some[0].prompt, make_tokenizer(), base().prompts)
    assert text.count(some[0].prompt) == 1 and text.count(INSTRUCTION) == 1 and text.endswith("assistant\n")
    # Each character is a token, and so is each of the six special tokens.
    specials = {"<s>": 3, "<|im_start|>": 12, "<|im_end|>": 10}
    assert [len(t) for t in tokens[:20]] == [
        len(r) - sum(r.count(s) * (n - 1) for s, n in specials.items())
        for r in (render(p.prompt, make_tokenizer(), base().prompts) for p in some[:20])
    ]
