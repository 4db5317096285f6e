import datetime
import json
import os
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from srt_jax.data.gym import _plain, load_gym, make_some
from srt_jax.data.problems import load
from srt_jax.errors import DataError

TASKS = {
    "knights_knaves": ({"n_people": 3}, "n_people=3,depth_constraint=2,width_constraint=2"),
    "bitwise_arithmetic": ({"difficulty": 3}, "3"),
    "family_relationships": ({"min_family_size": 5}, "family_size=5-8"),
    "chain_sum": ({"min_terms": 3, "max_terms": 5, "max_digits": 1}, "num_terms=3-5,num_digits=1-1"),
    "basic_arithmetic": ({}, "num_terms=2-6,num_digits=1-4"),
    "spell_backward": ({"max_word_len": 4}, "word_len=3-4"),
}
PRINT_FINGERPRINTS = """
import json, sys
from srt_jax.data.base import fingerprint
from srt_jax.data.problems import load
print([fingerprint(load(source)) for source in json.load(sys.stdin)])
"""


def source(task, config=None, seed=1, size=20, **settings):
    return {"kind": "gym", "task": task, "config": config or {}, "seed": seed, "size": size, **settings}


@pytest.mark.parametrize("task", TASKS)
def test_task_and_its_own_scorer(task):
    import reasoning_gym

    config, level = TASKS[task]
    problems = load(source(task, config, seed=5))
    assert [problem.id for problem in problems] == [f"gym/{task}/5/{index}" for index in range(20)]
    assert all(isinstance(problem.prompt, str) and isinstance(problem.answer, str) for problem in problems)
    assert {problem.source for problem in problems} == {f"gym/{task}"}
    assert {problem.level for problem in problems} == {level}
    for index, problem in enumerate(problems):
        metadata = json.loads(json.dumps(problem.metadata, allow_nan=False))
        assert metadata == problem.metadata  # JSON changes nothing
        assert (metadata["entry"]["question"], metadata["entry"]["answer"]) == (problem.prompt, problem.answer)
        # A later process creates the task's scorer from the stored metadata.
        scorer = reasoning_gym.create_dataset(metadata["task"], **metadata["config"])
        assert scorer[index]["question"] == problem.prompt
        assert scorer.score_answer(problem.answer, entry=metadata["entry"]) == 1.0
        assert scorer.score_answer("neither of them", entry=metadata["entry"]) < 1.0


def test_generation_is_the_same_in_another_process():
    sources = [source(task, config, seed=3) for task, (config, _) in TASKS.items()]
    answers = []
    for hash_seed in ("1", "2"):  # with another seed, sets of strings have another order
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", PRINT_FINGERPRINTS]
        done = subprocess.run(
            command, input=json.dumps(sources), env=environment, capture_output=True, text=True, check=True
        )
        answers.append(done.stdout)
    assert answers[0] == answers[1] and answers[0].count(",") == len(TASKS) - 1


def test_tasks_that_are_not_repeatable(monkeypatch):
    with pytest.raises(DataError, match="'codeio' ignores its seed"):
        load(source("codeio"))
    for value in (None, "random"):
        monkeypatch.delenv("PYTHONHASHSEED", raising=False)
        if value:
            monkeypatch.setenv("PYTHONHASHSEED", value)
        with pytest.raises(DataError, match=r"'word_ladder' gives other problems .* PYTHONHASHSEED to 0"):
            load(source("word_ladder"))
    sources = [source("ransom_note"), source("isomorphic_strings")]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", PRINT_FINGERPRINTS]
    runs = [
        subprocess.run(command, input=json.dumps(sources), env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout != ""


def test_seed_config_size_and_limit():
    base = [problem.prompt for problem in load(source("chain_sum"))]
    assert base == [problem.prompt for problem in load(source("chain_sum"))]
    assert base != [problem.prompt for problem in load(source("chain_sum", seed=2))]
    assert base != [problem.prompt for problem in load(source("chain_sum", {"min_terms": 4}))]
    assert base[:3] == [problem.prompt for problem in load(source("chain_sum", limit=3))]
    assert len(load(source("chain_sum", limit=50))) == 20


def test_a_dry_run_makes_some_problems_and_a_run_the_others():
    config = source("chain_sum", seed=77, size=50)
    assert make_some(config, seconds=0.0, least=3) == 3
    assert make_some(config, seconds=0.0, least=1) == 3  # the three that exist already
    assert make_some({**config, "limit": 2}, seconds=0.0, least=9) == 2
    whole = load(config)
    assert len(whole) == 50 and make_some(config, seconds=0.0, least=0) == 50
    assert whole[:3] == load({**config, "limit": 3}) and whole == load(config)


def test_making_hard_problems_shows_progress(monkeypatch, capsys):
    monkeypatch.setattr("srt_jax.data.gym.SILENT_SECONDS", -1.0)
    load_gym(source("chain_sum", seed=78, size=9))
    out = capsys.readouterr().out
    assert "making chain_sum: problem 1/9" in out and "9/9" in out
    load_gym(source("chain_sum", seed=78, size=9))
    assert capsys.readouterr().out == ""  # nothing is generated again


def test_metadata_becomes_plain_json():
    value = {1: (np.int64(2), np.float32(0.5)), "set": {"b", "a"}, "array": np.arange(2), "name": np.str_("x")}
    value |= {"day": datetime.date(2025, 1, 2), "none": None, "true": True}
    plain = {"1": [2, 0.5], "set": ["a", "b"], "array": [0, 1], "name": "x", "day": "2025-01-02"}
    assert json.dumps(_plain(value)) == json.dumps(plain | {"none": None, "true": True})


def test_a_config_dict_is_accepted():
    config = ml_collections.ConfigDict(source("spell_backward", {"min_word_len": 4}))
    assert load(config) == load(source("spell_backward", {"min_word_len": 4}))


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        (source("chainsum"), ("no task 'chainsum'", "chain_sum", "`task`")),
        (source("zzzz"), ("no task 'zzzz'", "`task`")),
        (source("chain_sum", {"min_term": 2}), ("'min_term'", "min_terms, max_terms")),
        (source("chain_sum", {"seed": 2}), ("'seed'", "source's own `seed`")),
        (source("chain_sum", {"min_terms": 9}), ("'min_terms': 9", "max_terms must be >= min_terms")),
        (source("chain_sum", {"min_terms": "many"}), ("'min_terms': 'many'",)),
        (source("composite"), ("composite", "Must specify at least one dataset")),
        (source("chain_sum", size=0), ("size", "0")),
    ],
)
def test_bad_requests(bad, parts):
    with pytest.raises(DataError) as caught:
        load(bad)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message and message.endswith("."), message


def test_the_package_is_imported_only_when_asked_for():
    code = "import sys, srt_jax.data.problems; print('reasoning_gym' in sys.modules, 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
