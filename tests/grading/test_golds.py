"""Golds with more text than the answer. The answer is extracted if possible; other such golds are recognised."""

import pytest

from srt_jax.grading.golds import bare_answer, looks_worked

WORKED = "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether in April and May."


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("#### 5", "5"),
        (f"{WORKED}\n#### 72", "72"),
        (f"{WORKED}\n#### 1,072\n", "1,072"),
        ("['5']", "5"),
        ('["5"]', "5"),
        ("['3', '4']", "3, 4"),
        (r"['\\frac{1}{2}']", r"\frac{1}{2}"),
        (r"We add both sides. Hence $x = \boxed{7}$.", "7"),
        (r"\boxed{7}", "7"),
        ("<answer>7</answer>", "7"),
        (f"{WORKED}\nThe answer is 72.", "72"),
        ("5", "5"),
        ("[1, 2]", "[1, 2]"),
        ("[0,1)", "[0,1)"),
        ("['a', 5]", "['a', 5]"),
        ("[['5']]", "[['5']]"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
        (WORKED, WORKED),
        ("####", "####"),
        ("['" * 900, "['" * 900),
    ],
)
def test_bare_answer(gold, answer):
    assert bare_answer(gold) == answer
    assert bare_answer(answer) == answer


@pytest.mark.parametrize("gold", [WORKED, "x" * 400, "We add. Then we divide by two. So it is small and green"])
def test_worked_solutions_are_noticed(gold):
    assert looks_worked(gold)


@pytest.mark.parametrize(
    "gold",
    [
        "5",
        "5 km. north",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        "all real numbers",
        "The function is increasing on the whole line",
    ],
)
def test_answers_are_not_taken_for_solutions(gold):
    assert not looks_worked(gold)
