"""Extraction: which part of a response is the answer, and where it stands."""

import time

import pytest

from srt_jax.grading.answers import STYLES, extract

BOXED = [
    (r"so \boxed{5}", "5"),
    (r"\boxed{ 5 }", "5"),
    (r"\boxed {42}", "42"),
    (r"\boxed 5 and text $ x", "5"),
    (r"$\boxed5$.", "5"),
    (r"$\boxed -3$", "-3"),
    (r"$\boxed \frac{1}{2}$.", r"\frac{1}{2}"),
    (r"\fbox{3}", "3"),
    (r"\\boxed{7}", "7"),
    (r"\boxed{1} then \boxed{2}, which is final", "2"),
    (r"\boxed 3 then \boxed{7}", "7"),
    (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
    (r"\boxed{5}. So \boxed{", "5"),
    (r"\boxed{42 and \boxed{7}", "7"),
    (r"\boxed{3} or \boxed{}", "3"),
    ("\\boxed{a\nb}", "a\nb"),
    (r"\boxed{42", None),
    (r"\boxed{}", None),
    (r"\boxed{  }", None),
    (r"\boxedx{5}", None),
    ("the answer is 5", None),
    ("", None),
    ("\\boxed{1} <think> no </think> \\boxed{2}", "2"),
    ("<think> maybe \\boxed{1} </think> It is 2.", None),
    ("reasoning \\boxed{1} </think> \\boxed{2}", "2"),
    ("<think> \\boxed{1} and so on", None),
]


@pytest.mark.parametrize(("response", "expected"), BOXED)
def test_boxed(response, expected):
    answer = extract(response)
    assert (answer and answer.text) == expected
    if answer:
        assert response[answer.start : answer.end] == answer.text


@pytest.mark.parametrize(
    ("style", "response", "expected"),
    [
        ("hash", "3 + 4 = 7\n#### 1,234\n", "1,234"),
        ("hash", "#### 1\n#### 2", "2"),
        ("hash", "####\n", None),
        ("answer_tag", "x <answer> 5 </answer> y", "5"),
        ("answer_tag", "<answer>1</answer> <answer>a\nb</answer>", "a\nb"),
        ("answer_tag", "<answer>5", None),
        ("answer_tag", "<answer>5</answer><answer></answer>", "5"),
        ("final_answer", "The final answer is $3.5$. I hope it is correct.", "3.5"),
        ("final_answer", "Final Answer: The final answer is 42.", "42"),
        ("final_answer", "So the answer is: \\boxed{7}. Done.", "7"),
        ("final_answer", "nothing here", None),
    ],
)
def test_other_styles(style, response, expected):
    answer = extract(response, style)
    assert (answer and answer.text) == expected
    if answer:
        assert response[answer.start : answer.end] == answer.text


def test_unknown_style():
    with pytest.raises(KeyError):
        extract("5", "nowhere")


@pytest.mark.parametrize(
    "unit",
    [
        "\\boxed{",
        "{",
        "\\",
        "\\boxed",
        "\\boxed ",
        " ",
        "####\n",
        "<answer>",
        "final answer is ",
        "\\boxed{x}",
        "<think>",
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_linear_time(unit, style):
    text = unit * (1_000_000 // len(unit))
    start = time.perf_counter()
    extract(text, style)
    assert time.perf_counter() - start < 2.0  # a second regex pass over a megabyte takes a tenth of this
