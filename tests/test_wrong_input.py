"""Wrong input of every kind: one sentence with the place and the remedy, exit status 2, no traceback, nothing computed.

All in one process: a command line runs as its module does, in the flags' own namespace.
"""

import json
import os
import re
import shutil
import sys
import warnings

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from absl import flags
from ml_collections import ConfigDict

from srt_jax import __main__, cli, runtime
from srt_jax.config import base, recorded, source
from srt_jax.config.levels import level_configs
from srt_jax.config.validation import validate
from srt_jax.data import label_file
from srt_jax.data.problems import load
from srt_jax.data.rows import prompt_id
from srt_jax.errors import ConfigError, DataError, ModelError, UserError
from srt_jax.model.config import ModelConfig
from srt_jax.run.dry_run import check
from srt_jax.run.setup import completed_summary
from tests.helpers import REPOSITORY, small_config

HUGE = 10**400


def sentence(caught) -> str:
    """The message, which must be one plain sentence."""
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 700 and "Traceback" not in text, text
    return text


# ---- every field of a config, with every type and extreme

WRONG = {
    bool: (0, 1, 1.0, "True", None, (), {}),
    int: (2.5, 2.0, "3", True, None, float("nan"), float("inf"), (), (1,), HUGE, -HUGE),
    float: ("1.0", None, float("nan"), float("inf"), -float("inf"), (), 1e300, 1e-300),
    str: (None, 1, True, 2.5, (), b"x", "\ud800", "a\0b"),
    tuple: (None, 3, "x", {}, (None,), (True,), ((),), (1.5,), (float("nan"),), ("\ud800",), (HUGE,)),
    ConfigDict: (None, 3, "x", True, ()),
}
ANY_SIGN = {"seed", "data.seed", "eval.sets.x.seed", "mesh.data", "eval.top_k"}
SEEDS = {"seed", "data.seed", "eval.sets.x.seed"}


def valid() -> ConfigDict:
    config = base()
    config.name, config.model.path, config.data.path = "x", "y", "z.jsonl"
    with config.eval.unlocked():
        config.eval.sets.x = source(path="e.jsonl")
    return config


def fields(config, prefix=""):
    """(dotted name, type) of every field, sections included."""
    for name, value in config.items():
        yield prefix + name, type(value)
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}{name}.")


def set_field(config, field, value):
    """Sets a field to a value of any type, as a config file can."""
    *sections, name = field.split(".")
    for section in sections:
        config = config[section]
    with config.unlocked(), config.ignore_type():
        config[name] = value


@pytest.mark.parametrize(("field", "kind"), [pytest.param(*f, id=f[0]) for f in fields(valid())])
def test_a_field_of_a_wrong_type_or_size_is_refused_by_name(field, kind):
    for value in WRONG[kind]:
        if field in SEEDS and value in (HUGE, -HUGE):
            continue  # any integer is a seed
        config = valid()
        set_field(config, field, value)
        with pytest.raises(ConfigError) as caught:
            validate(config)
        assert sentence(caught).startswith(field), (value, str(caught.value))
    if kind in (int, float):
        config = valid()
        set_field(config, field, kind(-3))
        if field in ANY_SIGN:
            return
        with pytest.raises(ConfigError) as caught:
            validate(config)
        assert field in sentence(caught)


def test_a_whole_number_will_do_for_a_float_and_a_list_for_a_tuple():
    config = valid()
    set_field(config, "rl.kl_coef", 0)
    set_field(config, "batch.length_buckets", [4096])
    set_field(config, "data.levels", ["4", 5])
    validate(config)


@pytest.mark.parametrize("field", ["batch.sample", "eval.sets.x.file", "data.colour"])
def test_a_field_that_is_unknown_or_missing_is_named(field):
    config = valid()
    set_field(config, field, 1)
    with pytest.raises(ConfigError, match=f"there is no config field '{re.escape(field)}'"):
        validate(config)
    section = field.rpartition(".")[0]
    config, gone = valid(), {"batch": "packing"}.get(section, "kind")
    part = config
    for name in section.split("."):
        part = part[name]
    with part.unlocked():
        del part[gone]
    with pytest.raises(ConfigError, match=rf"{re.escape(section)}\.{gone} is missing"):
        validate(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rl.clip_low", 1.5),
        ("rl.clip_low", float("inf")),
        ("optimizer.eps", 0.0),
        ("data.kind", "csv"),
        ("eval.sets.x.kind", "csv"),
        ("data.duplicates", "last"),
        ("data.limit", -1),
        ("batch.length_buckets", (4096.5,)),
        ("batch.length_buckets", ()),
        ("prompts.chat_template_kwargs", ConfigDict({"x": float("nan")})),
        ("prompts.chat_template_kwargs", ConfigDict({"x": object()})),
        ("data.config", ConfigDict({"x": {1, 2}})),
    ],
)
def test_values_that_mean_nothing(field, value):
    config = valid()
    set_field(config, field, value)
    with pytest.raises(ConfigError) as caught:
        validate(config)
    assert field in sentence(caught)


def test_a_validation_set_of_one_s_own_beside_the_held_out_one():
    config = valid()
    config.stop.validation_fraction = 0.1
    with config.eval.unlocked():
        config.eval.sets.validation = source(path="e.jsonl")
    with pytest.raises(ConfigError, match=r"eval\.sets has a set of this name: rename"):
        validate(config)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((3,), r"levels\[0\] is 3: it must be a dict"),
        (("a",), r"levels\[0\] is 'a'"),
        (({},), "without a name"),
        (({"name": 5},), "without a name"),
        (({"name": "a"}, {"name": "a"}), "two entries of the name 'a'"),
        (({"name": "a", "steps": {"b": 1}},), r"levels\.a\.steps is \{'b': 1\}"),
        (({"name": "a", "batch": 3},), r"levels\.a\.batch is 3"),
        (({"name": "a", "steps": "x"},), r"levels\.a\.steps is 'x'"),
        (({"name": "a", "nothing": 1},), r"levels\.a\.nothing is set"),
        (({"name": "a", "eval": {"sets": {"x": 5}}},), r"eval\.sets\.x is 5"),
    ],
)
def test_levels(levels, message):
    config = valid()
    set_field(config, "levels", levels)
    with pytest.raises(ConfigError, match=message) as caught:
        validate(config)
        for level in level_configs(config):
            validate(level)
    sentence(caught)


# ---- every file that is read


@pytest.fixture
def model(miniature, tmp_path):
    """A copy of the miniature, of links: a test replaces the file that it spoils."""
    shutil.copytree(miniature, tmp_path / "model", copy_function=os.link)
    return tmp_path / "model"


def spoil(path, how):
    """Replaces a file by something that it should not be."""
    data = path.read_bytes() if path.exists() else b'{"x": 1}'
    path.unlink(missing_ok=True)
    if how == "a folder":
        path.mkdir()
    elif how != "missing":
        path.write_bytes(
            {
                "empty": b"",
                "truncated": data[: min(101, len(data) // 2)],
                "not UTF-8": b'{"a": "\xff\xfe\x80"}',
                "white": b" \n\n",
                "a list": b"[]",
                "a number": b"3",
                "null": b"null",
                "a text": b'"x"',
                "deeply nested": b"[" * 100_000,
                "a huge number": b'{"eos_token_id": 1' + b"0" * 5000 + b"}",
                "binary": bytes(range(256)) * 10,
            }[how]
        )


HOW = (
    "missing",
    "empty",
    "truncated",
    "not UTF-8",
    "white",
    "a list",
    "a number",
    "null",
    "a text",
    "deeply nested",
    "a huge number",
    "binary",
    "a folder",
)
FILES = (
    "config.json",
    "tokenizer.json",
    "generation_config.json",
    "model.safetensors",
    "train.jsonl",
    "heldout.jsonl",
    "labels.jsonl",
    "model.safetensors.index.json",
    "tokenizer_config.json",
)
MAY_BE_MISSING = {"generation_config.json", "model.safetensors.index.json"}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", HOW)
def test_a_file_that_is_not_what_it_should_be(file, how, model, tmp_path):
    config = small_config(model, tmp_path, name="x", steps=1)
    (model / "labels.jsonl").write_text(
        "".join(json.dumps({"id": p.id, "label": "5"}) + "\n" for p in load(config.data))
    )
    config.labels.source, config.labels.path = "file", str(model / "labels.jsonl")
    config.mesh.data = -1
    spoil(model / file, how)
    if how == "missing" and file in MAY_BE_MISSING:
        check(config)
        return
    with pytest.raises(UserError) as caught:
        check(config)
    assert file in sentence(caught) or ("tokenizer" in file and str(model) in str(caught.value)), str(caught.value)


@pytest.mark.parametrize("how", [*HOW, "not Parquet"])
def test_a_parquet_file_that_is_not_what_it_should_be(how, tmp_path):
    path = tmp_path / "p.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"problem": "p"}] * 100), path)
    spoil(path, "a text" if how == "not Parquet" else how)
    with pytest.raises(DataError) as caught:
        load(source(kind="parquet", path=str(path)))
    assert str(path) in sentence(caught)


def test_text_in_parquet_that_is_not_utf_8(tmp_path):
    array = pyarrow.array([b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"problem": array}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load(source(kind="parquet", path=str(tmp_path / "p.parquet")))


@pytest.mark.parametrize("column", ["problem", "id", "answer", "level"])
@pytest.mark.parametrize("value", ["\ud800", "a\udfffb", [1], {"a": 1}, True])
def test_values_of_a_row_that_cannot_be_used(column, value, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"problem": "p", column: value}) + "\n")
    with pytest.raises(DataError) as caught:
        load(source(path=str(path)))
    assert f"{path} line 1" in sentence(caught) and repr(column) in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_problem_is_text(value, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"problem": value}) + "\n")
    with pytest.raises(DataError) as caught:
        load(source(path=str(path)))
    assert f"{path} line 1" in sentence(caught)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_a_missing_answer_id_or_level(value, kind, tmp_path):
    path, row = tmp_path / f"p.{kind}", {"problem": "p", "id": value, "answer": value, "level": value}
    if kind == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    [problem] = load(source(kind=kind, path=str(path)))
    assert (problem.answer, problem.level) == (None, None) and problem.id == prompt_id("p")


@pytest.mark.parametrize("row", [{"id": 5, "label": "x"}, {"id": "a"}, {"id": "a", "label": 5}, {"label": "x"}, [], 3])
def test_rows_that_are_no_labels(row, tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        label_file.read(path)
    assert f"{path} line 1" in sentence(caught)


@pytest.mark.parametrize("score", [None, "0.5", True, float("nan"), float("inf"), [0.5]])
def test_scores_that_rank_nothing(score, tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps({"id": "a", "label": "x", "vote_share": score}) + "\n")
    for use in (lambda: label_file.labels(path, 0.5), lambda: label_file.easiest_first(path, "vote_share")):
        with pytest.raises(DataError, match="needs vote_share of all problems"):
            use()


@pytest.mark.parametrize(
    "field",
    [
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "tie_word_embeddings",
        "max_position_embeddings",
        "rms_norm_eps",
        "attention_bias",
        "rope_parameters",
        "initializer_range",
    ],
)
def test_fields_of_a_model_s_config(field, miniature):
    good = json.loads((miniature / "config.json").read_text())
    others = ("model_type", "tie_word_embeddings", "attention_bias", "rope_parameters")
    numbers = () if field in others else (-1, 0, HUGE)
    for value in ("x", [1], 1.5e300, float("nan"), float("inf"), True, *numbers):
        if value is True and isinstance(good[field], bool):
            continue
        with pytest.raises(ModelError) as caught:
            ModelConfig.from_hf({**good, field: value})
        assert field in sentence(caught)


@pytest.mark.parametrize("how", HOW)
def test_a_run_whose_files_are_damaged(how, tmp_path):
    config = valid()
    config.name, config.out = "run", str(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(config.to_json_best_effort())
    assert recorded(tmp_path / "run").name == "run"
    validate(recorded(tmp_path / "run"))
    spoil(tmp_path / "run" / "config.json", how)
    if how != "a huge number":
        with pytest.raises(ConfigError) as caught:
            recorded(tmp_path / "run")
        assert "config.json" in sentence(caught)
    (tmp_path / "run" / "summary.json").write_text("{}")
    assert completed_summary(config, tmp_path / "run") is None


def test_a_run_of_an_older_version_gets_the_defaults_of_fields_that_it_lacks(tmp_path):
    fields = json.loads(valid().to_json_best_effort())
    del fields["data"]["duplicates"], fields["eval"]["sets"]["x"]["duplicates"], fields["rl"]["clip_high"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    validate(recorded(tmp_path))
    assert recorded(tmp_path).eval.sets.x.path == "e.jsonl" and recorded(tmp_path).rl.clip_high == base().rl.clip_high


# ---- every flag of every command

QUICKSTART = "--config=configs/quickstart.py"


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """command(job, *arguments) -> (exit status, stdout, stderr) of python -m srt_jax JOB."""
    assert cli.app  # Its flags exist before a command defines more.
    monkeypatch.setattr(runtime, "start", lambda *_, **__: None)  # the test's process has its devices already
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(REPOSITORY)

    def run(job, *arguments):
        monkeypatch.setattr(sys, "argv", ["srt", job, *arguments])
        before = set(flags.FLAGS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the module is imported already
                __main__.main()
            status = 0
        except SystemExit as e:
            status = e.code or 0
        finally:
            for name in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
            for name, module in list(sys.modules.items()):  # a later config file would be run in this one's module
                if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
                    del sys.modules[name]
        return (status, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        *(
            ("train", [QUICKSTART, "--dry_run", argument])
            for argument in (
                "--config.steps=1.5",
                "--config.steps=None",
                "--config.steps=1e3",
                "--config.steps=",
                "--config.steps=-1",
                f"--config.steps={10**20}",
                "--config.seed=x",
                "--config.rl.kl_coef=nan",
                "--config.rl.kl_coef=inf",
                "--config.rl.kl_coef=x",
                "--config.rl.clip_low=1.5",
                "--config.optimizer.learning_rate=-inf",
                "--config.batch.packing=2",
                "--config.batch.length_buckets=28.5",
                "--config.batch.length_buckets=(28.5,)",
                "--config.batch.length_buckets=",
                "--config.batch.length_buckets=(",
                "--config.batch.length_buckets=('a',)",
                "--config.model=3",
                "--config.model.path=",
                "--config.model.path=/nothing",
                "--config.model.nothing=3",
                "--config.nothing=3",
                "--config.nothing.nothing=3",
                "--config.levels=3",
                "--config.levels=({},)",
                "--config.eval.sets={'x': 3}",
                "--config.eval.sets={'x': {'a': 1}}",
                "--config.eval.sets=x",
                "--config.data=x",
                "--config.data.path=/nothing",
                "--config.data.path=configs",
                "--config.data.kind=csv",
                "--config.data.config={'a': 3",
                "--config.data.limit=-1",
                "--config.data.prompt_column=nothing",
                "--config.prompts.chat_template_kwargs={'a': 1}",
                "--config.prompts.chat_template_kwargs=x",
                "--config.prompts.chat_template_kwargs.enable_thinking=False",
                "--config.prompts.template=chat",
                "--config.name=",
                "--config.mesh.cpu_devices=x",
                "--config.rollout.servers=3",
                "--config.rollout.vllm.gpus=a",
                "--dry_run=3",
                "--nothing",
                "--profile=x",
                "stray",
            )
        ),
        ("train", []),
        ("train", ["--config="]),
        ("train", ["--config=configs"]),
        ("train", ["--config=README.md"]),
        ("train", ["--config=configs/srt.py:nothing"]),
        ("train", ["--config=configs/srt.py:tiny,nothing"]),
        ("train", ["--config=srt_jax/cli.py"]),
        ("label", []),
        ("label", [QUICKSTART]),
        ("label", ["--out=x"]),
        ("label", [QUICKSTART, "--out=x", "--samples=0"]),
        ("label", [QUICKSTART, "--out=x", "--samples=1.5"]),
        ("label", [QUICKSTART, "--out=x", "stray"]),
        ("label", [QUICKSTART, "--out=x", "--config.rollout.temperature=inf"]),
        ("label", [QUICKSTART, "--out=README.md"]),
        ("label", [QUICKSTART, "--out=configs"]),
        ("label", [QUICKSTART, "--out=README.md/x", "--samples=2"]),
        ("subset", []),
        ("subset", [QUICKSTART, "--labels=README.md", "--out=x"]),
        ("subset", [QUICKSTART, "--labels=/nothing", "--out=x"]),
        ("subset", [QUICKSTART, "--labels=configs", "--out=x"]),
        *(
            ("subset", [QUICKSTART, "--labels=x", "--out=x", argument])
            for argument in (
                "--fraction=0",
                "--fraction=nan",
                "--fraction=inf",
                "--fraction=2",
                "--fraction=x",
                "--by=x",
            )
        ),
        ("evaluate", []),
        ("evaluate", ["--model="]),
        ("evaluate", ["--model=/nothing", "--data=/nothing"]),
        ("evaluate", ["--model=cache/miniature"]),
        ("evaluate", ["--model=cache/miniature", "--data=/nothing"]),
        ("evaluate", ["--model=cache/miniature", "--data=README.md", QUICKSTART]),
        ("evaluate", ["--model=cache/miniature", "--prompt_column=question", QUICKSTART]),
        ("evaluate", ["--model=cache/miniature", "--data=README.md", "--config.prompts.template=plain"]),
        *(
            ("evaluate", ["--model=cache/miniature", QUICKSTART, f"--temperatures={value}"])
            for value in ("x", "nan", "inf", "-1", "0,", "1e300")
        ),
        ("replay", []),
        ("replay", ["--run=/nothing"]),
        ("replay", ["--run=configs"]),
        ("replay", ["--run=x", "--steps=0"]),
        ("replay", ["--run=x", "--steps=x"]),
        ("plan", []),
        ("plan", [QUICKSTART]),
        ("plan", [QUICKSTART, "--topology=x"]),
        ("plan", [QUICKSTART, "--topology=h200:8", "--microbatch=0"]),
        ("plan", [QUICKSTART, "--topology=h200:8", "--microbatch=x"]),
        ("plan", [QUICKSTART, "--topology=h200:8", "--config.rl.kl_coef=nan"]),
        ("overlap", []),
        ("overlap", ["nothing", "nothing"]),
        ("overlap", ["README.md", "README.md"]),
        ("overlap", ["configs", "configs"]),
        ("figures", []),
        ("figures", ["nothing"]),
        ("figures", ["configs", "--out=x"]),
        ("figures", ["README.md", "--out=x"]),
        ("pretrain", ["--out=README.md"]),
        ("pretrain", ["--out=README.md/x"]),
        ("pretrain", ["--nothing"]),
        ("pretrain", ["--base=x"]),
        ("pretrain", ["--base=rival", "--seed=-1"]),
        ("pretrain", ["--base=rival", f"--seed={10**20}"]),
        ("probe", []),
        ("probe", ["--model=/nothing"]),
        ("probe", ["--model=/nothing", "--base=/nothing"]),
        ("probe", ["--model=/nothing", "--base=/nothing", QUICKSTART]),
        ("probe", ["--model=/nothing", "--base=/nothing", QUICKSTART, "--config.eval.top_p=0.5"]),
        ("probe", ["--model=/nothing", "--base=/nothing", QUICKSTART, "--samples=0"]),
        ("study", []),
        ("study", ["/nothing"]),
        ("study", ["studies"]),
        ("study", ["README.md"]),
        ("study", ["configs/quickstart.py"]),
        ("study", ["studies/rival.py", "--shard=8/8"]),
        ("study", ["studies/rival.py", "--report", "--results=tests"]),
        ("study", ["studies/rival.py", "--results=README.md/x"]),
        ("grade", ["--pairs=README.md", "--out=configs"]),
        ("grade", ["--pairs=README.md", "--out=README.md/x"]),
        *(
            (job, [*arguments, "--out=configs"])
            for job, arguments in (
                ("label", [QUICKSTART]),
                ("subset", [QUICKSTART, "--labels=cache/miniature/train.jsonl"]),
                ("evaluate", ["--model=cache/miniature", QUICKSTART]),
            )
        ),
        ("evaluate", ["--model=cache/miniature", QUICKSTART, "--out=README.md/x"]),
        *(
            ("train", [QUICKSTART, "--dry_run", argument])
            for argument in ("--config.out=README.md", f"--config.name={'x' * 300}", "--config.name=a\0b")
        ),
        ("grade", []),
        ("grade", ["--pairs=/nothing"]),
        ("grade", ["--pairs=README.md"]),
        ("grade", ["--pairs=configs"]),
        ("grade", ["--vote"]),
        ("grade", ["--predictions=/nothing"]),
        ("grade", ["--predictions=README.md", "--style=x"]),
        ("grade", ["--pairs=README.md", "--workers=0"]),
        ("grade", ["--pairs=README.md", "--workers=x"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value).replace(QUICKSTART, ""),
)
def test_a_wrong_command_line(job, arguments, command, miniature):
    status, out, err = command(job, *arguments)
    assert status == 2, (status, out, err)
    lines = err.strip().splitlines()
    assert "Traceback" not in err and lines[-1].count("error: ") == 1, err
    assert len(lines) == 1 or lines[0].startswith("usage: "), err  # argparse shows its usage first


@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        ("reward.mixture=agreement", "a dict in quotes, \"{'KEY': VALUE}\""),
        ("reward.mixture={'agreement': float('nan')}", "a dict in quotes, \"{'KEY': VALUE}\""),
        ("eval.sets=5", "a dict in quotes, \"{'KEY': VALUE}\""),
        ("rl.mask_answer=yes", "True or False"),
        ("batch.samples_per_prompt=4.5", "a whole number"),
        ("labels.threshold=half", "a number"),
    ],
)
def test_a_value_that_cannot_be_read_is_shown_with_what_may_be_given(argument, remedy, command):
    status, _, err = command("train", QUICKSTART, "--dry_run", f"--config.{argument}")
    assert (status, err) == (2, f"error: --config.{argument} cannot be read: give {remedy}.\n")
    apart = f"--config.{argument}".split("=", 1)
    if remedy != "True or False":  # a flag of this kind has no value apart
        assert command("train", QUICKSTART, "--dry_run", *apart)[2] == err
    long = argument + "x" * 100
    assert "xxx... cannot be read" in command("train", QUICKSTART, f"--config.{long}")[2]


@pytest.mark.parametrize("value", ["None", "x", ""])
def test_a_weight_of_a_mixture_is_a_number(value, command):
    """The default has no such key: the config of the file has it."""
    field = f"--config.reward.mixture.self_certainty={value}"
    status, _, err = command("train", "--config=configs/label_free.py:certain_votes", "--dry_run", field)
    assert (status, err) == (2, f"error: {field} cannot be read: give a number.\n")


@pytest.mark.parametrize(
    "text",
    [
        "def get_config():\n    return None\n",
        "def get_config():\n    return {}\n",
        "x = 1\n",
        "def get_config(:\n",
        "import nothing\n",
        "def get_config():\n    return 1 / 0\n",
        "raise KeyError\n",
        "x = y\n",
        "",
        "import math\nmath.nothing\n",
        "open('/nothing')\n",
        "from srt_jax.config import base\ndef get_config():\n    c = base()\n    c.nothing = 1\n    return c\n",
        "from srt_jax.config import base\ndef get_config():\n    c = base()\n    c.steps = 'x'\n    return c\n",
        "from srt_jax.config import base\ndef get_config():\n    c = base()\n    c.steps = None\n    return c\n",
        "from srt_jax.config import base\n"
        "def get_config():\n    c = base()\n    c.mesh.cpu_devices = True\n    return c\n",
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'steps': 3})\n",
        "\xff",
    ],
)
def test_a_config_file_that_is_wrong(text, command, tmp_path):
    (tmp_path / "config.py").write_bytes(text.encode("latin-1"))
    for job, more in (
        ("train", ["--dry_run"]),
        ("label", ["--out=x"]),
        ("evaluate", ["--model=cache/miniature"]),
        ("subset", ["--labels=x", "--out=x"]),
        ("plan", ["--topology=h200:8"]),
    ):
        status, out, err = command(job, f"--config={tmp_path}/config.py", *more)
        assert status == 2 and err.count("\n") == 1 and err.startswith("error: "), (job, status, out, err)


def test_no_array_is_made_for_input_that_is_refused(command, monkeypatch):
    """The refusals above come before any weights are read."""
    from srt_jax.run import setup

    monkeypatch.setattr(setup, "load_weights", lambda *_: pytest.fail("weights were read"))
    assert command("train", QUICKSTART, "--config.rl.kl_coef=nan")[0] == 2
    assert np.isfinite(base().rl.kl_coef)
