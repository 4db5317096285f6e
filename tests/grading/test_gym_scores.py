"""Reasoning Gym: its scorers decide, in the workers, and nothing that an answer says is executed."""

import json
from pathlib import Path

import pytest

from srt_jax.grading.grader import Grader

reasoning_gym = pytest.importorskip("reasoning_gym", reason="reasoning_gym is not installed")
# One task of each kind: exact text, numbers, evaluated literals, parsed arithmetic, symbolic algebra, tuples in the
# metadata.
TASKS = [
    "chain_sum",
    "leg_counting",
    "binary_matrix",
    "n_queens",
    "countdown",
    "puzzle24",
    "simple_integration",
    "rearc",
]
CONFIG = {"size": 2, "seed": 1}


@pytest.fixture(scope="module")
def gym_grader():
    with Grader(workers=2, timeout=20, budget=120) as grader:
        yield grader


def entries():
    for task in TASKS:
        dataset = reasoning_gym.create_dataset(task, **CONFIG)
        entry = dataset[0]
        yield task, dataset, entry, {"task": task, "config": CONFIG, "entry": json.loads(json.dumps(entry))}


def test_own_scorers(gym_grader):
    answers, packed, expected = [], [], []
    for _, dataset, entry, wire in entries():
        for answer in (entry["answer"], "0"):
            answers.append(answer)
            packed.append(wire)
            expected.append(float(dataset.score_answer(answer=answer, entry=entry)) if answer else 0.0)
    assert gym_grader.grade_gym(answers, packed) == expected
    assert max(expected) == 1.0 > min(expected)


def test_answers_are_not_executed(gym_grader, tmp_path):
    target = tmp_path / "executed"
    attacks = [
        f"__import__('os').system('touch {target}')",
        f"__import__('pathlib').Path('{target}').touch()",
        f"open('{target}', 'w')",
        f"[open('{target}', 'w')]",
        f"(lambda: open('{target}', 'w'))()",
        f'print(eval(\'open("{target}", "w")\'))',
    ]
    wires = [wire for *_, wire in entries()]
    scores = gym_grader.grade_gym([a for a in attacks for _ in wires], [w for _ in attacks for w in wires])
    assert max(scores) < 0.1
    assert not Path(target).exists()


def test_nothing_scores_zero_and_an_unknown_task_is_an_error(gym_grader):
    wire = next(entries())[-1]
    assert gym_grader.grade_gym([None, "", "\x00"], [wire, wire, wire]) == [0.0, 0.0, 0.0]
    with pytest.raises(RuntimeError, match="no_such_task"):
        gym_grader.grade_gym(["5"], [{**wire, "task": "no_such_task"}])
