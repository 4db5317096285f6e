"""Functions of a user's own folder as MODULE:FUNCTION: data source, label, reward and advantage."""

import json
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from srt_jax.config import base, functions, source
from srt_jax.config.records import fingerprint_fields
from srt_jax.config.validation import validate
from srt_jax.data import problems as data
from srt_jax.data.base import Problem
from srt_jax.errors import CheckpointError, ConfigError, DataError
from srt_jax.reward.labels import LabelSettings
from srt_jax.reward.rewards import grade
from srt_jax.rl import advantages
from srt_jax.run.identity import check_same_run
from srt_jax.run.prepare import check_functions
from tests.helpers import REPOSITORY

MODULE = """
import jax.numpy as jnp

def problems(source):
    return [{"problem": f"{i}+{i}", "answer": 2 * i, "level": i % 2} for i in range(source["size"])]

def last(answers, responses, problem):
    return answers[-1]

def brief(answers, label, responses, truth):
    return [(answer == label) - len(text) / 100 for answer, text in zip(answers, responses)]

def signs(returns, trained):
    return jnp.sign(returns - returns.mean(1, keepdims=True)) * trained

def no_list(*_): return 3
def no_rows(source): return [1, 2]
def nan(answers, *_): return [float("nan")] * len(answers)
def short(answers, *_): return [1.0]
def fails(*_): raise KeyError("my own mistake")
def number(answers, responses, problem): return 5
def divides(returns, trained): return returns / returns.std(1, keepdims=True)
def sums(returns, trained): return returns.sum(1)
NOT_A_FUNCTION = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in a folder of the user's, beside the config file."""
    (tmp_path / "my_functions.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_functions"
    functions.load.cache_clear()
    for name in ("my_functions", "broken"):
        sys.modules.pop(name, None)


def config_with(field, value):
    config = base()
    config.name, config.model.path = "x", "y"
    config.batch.prompts_per_step = config.batch.samples_per_prompt = 4
    section, _, name = field.partition(".")
    config[section][name] = value
    return config


def check(field, value):
    """The checks of a run before it computes."""
    config = config_with(field, value)
    validate(config)
    if field == "data.kind":
        data.load(config.data)
    check_functions(config)


@pytest.mark.parametrize(
    ("field", "name"),
    [("data.kind", "problems"), ("labels.source", "last"), ("reward.shape", "brief"), ("rl.advantage", "signs")],
)
def test_a_function_of_the_user_s_folder_passes_the_checks(field, name, module):
    check(field, f"{module}:{name}")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rl.advantage", "nowhere:f", "no module 'nowhere': give the config file beside nowhere.py by --config"),
        ("reward.shape", "broken:f", "importing broken fails .ModuleNotFoundError: No module named 'nothing_of_that"),
        ("labels.source", "my_functions:lst", "has no function 'lst': it has problems, last, brief, signs"),
        ("rl.advantage", "my_functions:NOT_A_FUNCTION", "has no function 'NOT_A_FUNCTION'"),
        ("rl.advantage", "rlo", "choose one of 'rloo', .* or name a function of your own as module:function"),
        ("rl.advantage", "my_functions:", "name a function of your own as module:function"),
        ("data.kind", "my_functions:no_list", "returns 3: let it return a list of rows"),
        ("data.kind", "my_functions:no_rows", "returns the row 1: let each row be a dict"),
        ("data.kind", "my_functions:fails", r"fails at .*my_functions.py:\d+ .KeyError: 'my own mistake'.: correct it"),
        ("labels.source", "my_functions:fails", r"fails at .*my_functions.py:\d+"),
        ("labels.source", "my_functions:number", "returns 5: return a str or None"),
        ("reward.shape", "my_functions:fails", r"fails at .*my_functions.py:\d+"),
        ("reward.shape", "my_functions:short", r"returns \[1.0\] for 4 samples: return 4 numbers, one for each"),
        (
            "reward.shape",
            "my_functions:nan",
            "some of these numbers are not finite: return a finite reward for every sample",
        ),
        ("rl.advantage", "my_functions:fails", r"fails at .*my_functions.py:\d+"),
        ("rl.advantage", "my_functions:sums", r"returns shape \(4,\) for returns of shape \(4, 4\)"),
        ("rl.advantage", "my_functions:divides", "not finite for the returns .*: return finite numbers, also where"),
    ],
)
def test_a_wrong_function_is_refused_before_compute_with_field_value_and_remedy(field, value, message, module):
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        check(field, value)
    assert repr(value) in str(caught.value) and "\n" not in str(caught.value)
    assert field.partition(".")[2] in str(caught.value)


def test_a_data_source_gets_its_fields_and_returns_rows(module):
    found = data.load(source(kind=f"{module}:problems", size=6, limit=2, levels=("1",)))
    assert [(p.prompt, p.answer, p.level) for p in found] == [("1+1", "2", "1"), ("3+3", "6", "1")]
    assert data.title(source(kind=f"{module}:problems")) == "my_functions:problems"


def test_label_and_reward_replace_the_vote_and_the_agreement(module, grader):
    config = config_with("labels.source", f"{module}:last")
    answers, texts = ["1", "1", "2"], ["a" * 10, "b" * 20, "c" * 30]
    problem = Problem("p", "?", "2", "test")
    graded = grade(problem, answers, grader, LabelSettings.of(config), responses=texts)
    assert graded.label.text == "2" and graded.label.source == f"{module}:last"
    assert graded.rewards.tolist() == [0, 0, 1] and graded.labelled and graded.label_correct == 1
    config.reward.shape = f"{module}:brief"
    graded = grade(problem, answers, grader, LabelSettings.of(config), responses=texts)
    np.testing.assert_allclose(graded.rewards, [-0.1, -0.2, 0.7], rtol=1e-6)
    assert graded.true_rewards.tolist() == [0, 0, 1]


def test_an_advantage_is_what_the_update_uses(module):
    returns = jnp.array([[1.0, 0.0], [2.0, 2.0]])
    found = advantages.per_rollout(f"{module}:signs")(returns, jnp.array([[True, True], [True, False]]))
    assert found.tolist() == [[1, -1], [0, 0]]


def test_a_run_is_not_resumed_with_another_function(module, tmp_path):
    config = config_with("reward.shape", f"{module}:brief")
    before = functions.fingerprints(config)
    assert before.keys() == {"reward.shape"}
    same = {what: {} for what in ("config", "data", "prompts", "labels", "model")}
    check_same_run(
        {"identity": {**same, "functions": before}}, {**same, "functions": functions.fingerprints(config)}, "run"
    )
    (tmp_path / "my_functions.py").write_text(MODULE + "\n# changed\n")
    with pytest.raises(CheckpointError, match="differs in functions contents: restore the modules of your own"):
        check_same_run(
            {"identity": {**same, "functions": before}}, {**same, "functions": functions.fingerprints(config)}, "run"
        )


def test_runs_from_before_there_were_functions_go_on():
    config = fingerprint_fields(config_with("rl.advantage", "rloo"))
    older = {**config, "reward": {name: value for name, value in config["reward"].items() if name != "shape"}}
    same = {"data": "", "prompts": "", "labels": [], "model": ""}
    record = {"format": 1, "identity": {**same, "config": older}}
    check_same_run(record, {**same, "config": config, "functions": {}}, "run")
    with pytest.raises(CheckpointError, match=r"reward\.shape"):
        check_same_run(record, {**same, "config": fingerprint_fields(config_with("reward.shape", "m:f"))}, "run")


@pytest.mark.slow
def test_the_example_trains_from_another_folder(miniature, tmp_path):
    mine = tmp_path / "my_problems"
    shutil.copytree(REPOSITORY / "examples" / "my_problems", mine)
    cpu = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY), "PATH": ""}
    fields = [f"--config.model.path={miniature}", "--config.steps=2", "--config.eval.samples=4"]
    command = [sys.executable, "-m", "srt_jax", "train", f"--config={mine}/my_config.py", *fields]
    done = subprocess.run(command, cwd=tmp_path, env=cpu, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "my_problems"
    assert json.loads((run / "summary.json").read_text())["steps"] == 2 and (run / "final" / "config.json").exists()
    with (mine / "my_reward.py").open("a") as file:
        file.write("# another reward\n")
    done = subprocess.run(
        [*command, "--config.steps=3"], cwd=tmp_path, env=cpu, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "restore the modules of your own functions" in done.stderr
