"""Extraction: which part of a response is the answer, and its position."""

import time

import pytest

from srt_jax.grading.answers import STYLES, Format, extract, opens_reasoning

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


MENTIONED = [  # the text after or before the box also mentions the command
    (r"\boxed{12}. I wrote it inside \boxed as requested.", "12"),
    (r"\boxed{12}. The answer is inside \boxed{} as asked.", "12"),
    (r"\boxed{12}. The \boxed command was used.", "12"),
    (r"\boxed{12} (in \boxed{...} notation)", "12"),
    (r"\boxed{12}. I put it in \boxed{answer} form.", "12"),
    (r"\boxed{12}. Format: \boxed{\text{your answer}}", "12"),
    (r"\boxed{12}. As you asked for `\boxed`.", "12"),
    (r"\boxed{12}. Final answer in \boxed!", "12"),
    (r"\boxed{12}. It is in a \fbox too.", "12"),
    (r"\boxed{12}. See \boxed 7 above.", "12"),
    (r"I will use \boxed for it: \boxed{12}", "12"),
    (r"I will use \boxed at the end. So it is $\boxed 12$.", "12"),
    (r"\boxed{\text{Yes}}, and \boxed is what you wanted", r"\text{Yes}"),
    (r"put it in \boxed as requested", None),
    (r"put it in \boxed{} please", None),
    (r"write \boxed{answer}", None),
    (r"\boxed{...}", None),
    (r"\boxed{x}", "x"),
]
SEVERAL = [  # the boxes of one statement are one answer
    (r"The solutions are $\boxed{3}$, $\boxed{5}$ and $\boxed{7}$.", "3, 5, 7"),
    (r"\boxed{3}, \boxed{5} and \boxed{7}", "3, 5, 7"),
    (r"\[\boxed{3},\quad\boxed{5}\]", "3, 5"),
    (r"\[\boxed{3} \text{ or } \boxed{5}\]", "3, 5"),
    (r"\(\boxed{-1}\) and \(\boxed{2}\)", "-1, 2"),
    (r"\[x=\boxed{3},\ y=\boxed{5}\]", "x=3, y=5"),
    ("$x = \\boxed{3}$ and $y = \\boxed{5}$", "x=3, y=5"),
    (r"\boxed{3}; \boxed{5}", "3, 5"),
    ("\\boxed{3},\n\\boxed{5}", "3, 5"),
    ("\\begin{aligned} x&=\\boxed{3}\\\\ y&=\\boxed{5}\\end{aligned}", "x=3, y=5"),
    (r"$\boxed{5}$, $\boxed{5}$", "5"),
    (r"$\boxed{\frac12}$ or $\boxed{0.5}$", "0.5"),
    (r"First \boxed{2}. Then \boxed{3} and \boxed{5}.", "3, 5"),
    (r"\boxed{3}. \boxed{5}", "5"),
    (r"\boxed{3} \boxed{5}", "5"),
    (r"\boxed{3}, no wait, \boxed{5}", "5"),
    (r"\boxed{3} and therefore \boxed{5}", "5"),
    (r"\boxed{3} = \boxed{5}", "5"),
    ("\\boxed{3}\n\n\\boxed{5}", "5"),
    (r"\boxed{1}, \boxed{2}. Check: 2+2=4, so \boxed{4}", "4"),
]


@pytest.mark.parametrize(("response", "expected"), MENTIONED + SEVERAL)
def test_which_box(response, expected):
    answer = extract(response)
    assert (answer and answer.text) == expected


def test_the_last_box_where_that_is_asked_for():
    last = Format(boxes="last")
    assert extract(r"\boxed{3}, \boxed{5} and \boxed{7}", last).text == "7"
    assert extract(r"\boxed{7}. In \boxed as asked.", last).text == "7"
    response = r"\boxed{3} and $\boxed{ 5 }$"
    answer = extract(response)
    assert response[answer.start : answer.end] == r"3} and $\boxed{ 5"  # from the first box to the last


ANNOUNCED = [
    ("Answer: $13$", "13"),
    ("Some steps.\nAnswer: 13", "13"),
    ("Final Answer: **73**", "73"),
    ("**Final Answer:** 73", "73"),
    ("**Answer**: $x^2$", "x^2"),
    ("## Final Answer\n\n73", "73"),
    ("**Final Answer**\n\n\\[ 73 \\]", "73"),
    ("### Answer\n$13$", "13"),
    ("Answer:\n13\n", "13"),
    ("Final Answer:\n\\[\n\\boxed{73}\n\\]", "73"),
    ("Final answer\n$$\\frac{1}{2}$$", r"\frac{1}{2}"),
    ("The answer is **73**.", "73"),
    ("The final answer is: \\(5\\).", "5"),
    ("Answer: $3$ and $5$", "$3$ and $5$"),
    ("Answer: 13 apples", "13 apples"),
    ("Answer: 7\nI hope this answer is correct.", "7"),
    ("The answer is 3.14.", "3.14"),
    ("ANSWER: 42", "42"),
    ("I hope this answer is helpful.", None),
    ("There is no answer here", None),
    ("An answer that nobody gave", None),
]


@pytest.mark.parametrize(("response", "expected"), ANNOUNCED)
def test_announced_answers(response, expected):
    answer = extract(response, "final_answer")
    assert (answer and answer.text) == expected
    if answer:
        assert response[answer.start : answer.end] == answer.text


@pytest.mark.parametrize(
    ("form", "response", "expected"),
    [
        (Format("last_number"), "3 cats and 1,234.50 dogs.", "1,234.50"),
        (Format("last_number"), "so -7.", "-7"),
        (Format("last_number"), "costs $18.", "18"),
        (Format("last_number"), "none", None),
        (Format("boxed,final_answer,last_number"), r"It is 5. \boxed{3}", "3"),
        (Format("boxed,final_answer,last_number"), "The answer is 7. See page 9", "7"),
        (Format("boxed,final_answer,last_number"), "we get 4 and then 9", "9"),
        (Format("json"), 'x {"answer": "42"} y', "42"),
        (Format("json"), '{"answer": 42, "why": "..."}', "42"),
        (Format("json"), '{"answer": "1"} then {"answer": "2"}', "2"),
        (Format("json"), '{"answer": [1, "2"]}', "1, 2"),
        (Format("json"), r'{"answer": "\frac{1}{2}"}', r"\frac{1}{2}"),
        (Format("json"), '{"answer": "\\\\frac{1}{2}"}', r"\frac{1}{2}"),
        (Format("json"), '{"answer": null}', None),
        (Format("json"), '{"answer": "3"} {"answer": null}', "3"),
        (Format("json"), '{"answer": "cut', None),
        (Format("json", field="result"), '{"answer": 1, "result": -2.5e3}', "-2.5e3"),
        (Format("regex", pattern=r"ANS=(\S+)"), "ANS=1 ANS=2", "2"),
        (Format("regex", pattern=r"ANS=(\S+)"), "no", None),
    ],
)
def test_styles_with_settings(form, response, expected):
    answer = extract(response, form)
    assert (answer and answer.text) == expected


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"style": "boxed,nothing"}, "'boxed,nothing'"),
        ({"boxes": "first"}, "'first'"),
        ({"style": "regex", "pattern": "("}, "no regular expression"),
        ({"style": "regex", "pattern": "a"}, "0 groups"),
        ({"style": "regex", "pattern": "(a)(b)"}, "2 groups"),
        ({"style": "json", "field": ""}, "field is empty"),
    ],
)
def test_settings_that_cannot_work(settings, says):
    with pytest.raises(ValueError, match=says):
        Format(**settings)


def test_reasoning_that_the_prompt_opened():
    assert opens_reasoning("<|im_start|>assistant\n<think>\n")
    assert opens_reasoning("[THINK]")
    assert not opens_reasoning("<think>\n\n</think>\n\n")
    assert not opens_reasoning("What is 1+1?")
    cut = "maybe \\boxed{1}, but wait"
    assert extract(cut, reasoning_open=True) is None
    assert extract(cut).text == "1"
    assert extract("maybe \\boxed{1} </think> \\boxed{2}", reasoning_open=True).text == "2"
    assert extract("\\boxed{1} [/THINK] \\boxed{2}", reasoning_open=True).text == "2"
    assert extract("<think> a </think> \\boxed{2} <think> b", reasoning_open=False) is None
    for tag in ("think", "thinking", "reasoning", "seed:think"):
        assert extract(f"<{tag}> \\boxed{{1}} </{tag}> It is \\boxed{{2}}").text == "2"
        assert extract(f"<{tag}> \\boxed{{1}}") is None


def test_unknown_style():
    with pytest.raises(ValueError, match="'nowhere'"):
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
        "\\boxed{3}, ",
        "Answer: ",
        "## Answer\n",
        '"answer": ',
        '"answer": "',
        "1,",
        "Answer: \\[",
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_linear_time(unit, style):
    text = unit * (1_000_000 // len(unit))
    form = Format(style, pattern=r"(\d+)")
    start = time.thread_time()
    extract(text, form)
    assert time.thread_time() - start < 2.0  # a second regex pass over a megabyte takes a tenth of this
