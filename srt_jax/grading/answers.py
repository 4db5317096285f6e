"""Find the final answer in a model's response.

Pure string functions in linear time: a response is hostile input (a megabyte of braces must cost milliseconds). Each
style is one function `text, start -> (start, end) | None` over the part of the response after its reasoning.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

# `\boxed` may come doubled (`\\boxed`, from responses that were JSON-escaped twice). Escapes are consumed in pairs,
# so `\{` never counts as a brace and a run of backslashes is read once.
_BOX_TOKEN = re.compile(r"\\{1,2}(?:boxed|fbox)(?![A-Za-z])|\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"[^\s$]{1,200}")
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_FINAL_ANSWER = re.compile(r"\b(?:final\s{1,9}answer|answer)\s{1,9}is\b[ \t]{0,9}:?", re.IGNORECASE)
_REASONING_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_REASONING_START = re.compile(r"<think(?:ing)?>", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """An extracted answer: its text (stripped, never empty) and its span [start, end) in characters of the response."""

    text: str
    start: int
    end: int


def extract(response: str, style: str = "boxed") -> Answer | None:
    """The final answer of `response` by one of `STYLES`, or None when there is none.

    Only the part after the last `</think>` counts; reasoning that was opened and never closed has no part after it.
    Raises KeyError on an unknown style.
    """
    find = STYLES[style]
    start = _after_reasoning(response)
    span = None if start is None else find(response, start)
    if span is None:
        return None
    left, right = span
    text = response[left:right]
    left += len(text) - len(text.lstrip())
    text = text.strip()
    return Answer(text, left, left + len(text)) if text else None


def _after_reasoning(text: str) -> int | None:
    if "think" not in text and "THINK" not in text:  # the usual case, without a regex pass
        return 0
    start = 0
    for match in _REASONING_END.finditer(text):
        start = match.end()
    return None if _REASONING_START.search(text, start) else start


def _boxed(text: str, start: int) -> tuple[int, int] | None:
    r"""The content of the last `\boxed{...}` or `\fbox{...}` that closes and is not empty; `\boxed 5` counts too."""
    first = min((i for i in (text.find("\\boxed", start), text.find("\\fbox", start)) if i >= 0), default=-1)
    if first < 0:
        return None
    best: tuple[int, int] | None = None
    open_braces: list[int | None] = []  # for each open brace: where a box's content starts, None for other braces
    position = first
    while (match := _BOX_TOKEN.search(text, position)) is not None:
        token, position = match[0], match.end()
        if token == "{":
            open_braces.append(None)
        elif token == "}":
            content = open_braces.pop() if open_braces else None
            if content is not None and (best is None or content > best[0]) and text[content : match.start()].strip():
                best = (content, match.start())
        elif token.endswith(("boxed", "fbox")):
            after = position + _spaces(text, position)
            if text.startswith("{", after):
                position = after + 1
                open_braces.append(position)
            elif (bare := _bare(text, after)) is not None:
                best, position = bare, bare[1]
    return best


def _spaces(text: str, position: int) -> int:
    limit = text[position : position + 100]
    return len(limit) - len(limit.lstrip())


def _bare(text: str, start: int) -> tuple[int, int] | None:
    r"""`\boxed 5`: the run of characters up to a space or a dollar sign, without closing punctuation."""
    match = _BARE.match(text, start)
    if match is None:
        return None
    run = match[0]
    for stop in ("\\)", "\\]", "}"):  # the end of the surrounding formula or group
        cut = run.find(stop)
        if cut >= 0 and not (stop == "}" and "{" in run[:cut]):
            run = run[:cut]
    run = run.rstrip(".,;:")
    return (start, start + len(run)) if run else None


def _hash(text: str, start: int) -> tuple[int, int] | None:
    """`#### x`: the rest of the line after the last four hashes that have something after them."""
    end = len(text)
    while (at := text.rfind("####", start, end)) >= 0:
        stop = text.find("\n", at, end)
        stop = end if stop < 0 else stop
        if text[at + 4 : stop].strip(" \t\r#"):
            return at + 4 + len(text[at + 4 : stop]) - len(text[at + 4 : stop].lstrip(" \t\r#")), stop
        end = at
    return None


def _answer_tag(text: str, start: int) -> tuple[int, int] | None:
    """`<answer>x</answer>`: the last pair with something inside; an opening tag inside an open pair starts it anew."""
    best, opened = None, None
    for match in _ANSWER_TAG.finditer(text, start):
        if not match[1]:
            opened = match.end()
        elif opened is not None:
            if text[opened : match.start()].strip():
                best = (opened, match.start())
            opened = None
    return best


def _final_answer(text: str, start: int) -> tuple[int, int] | None:
    """`(the) final answer is x`: up to the end of the sentence or line, without the dollars around it."""
    last = None
    for match in _FINAL_ANSWER.finditer(text, start):
        last = match.end()
    if last is None:
        return None
    stop = text.find("\n", last)
    left, right = last, len(text) if stop < 0 else stop
    sentence = re.search(r"\.(?=\s|$)", text[left:right])  # "3.5" has no space after its point
    if sentence is not None:
        right = left + sentence.start()
    boxed = _boxed(text[:right], left)
    if boxed is not None:
        return boxed
    while left < right and text[left] in " \t:*":
        left += 1
    while right > left and text[right - 1] in " \t.*":
        right -= 1
    dollars = text[left:right]
    if dollars.startswith("$") and (close := dollars.find("$", 1)) > 0 and not dollars.startswith("$$"):
        return left + 1, left + close
    return (left, right) if right > left else None


STYLES: dict[str, Callable[[str, int], tuple[int, int] | None]] = {
    "boxed": _boxed,
    "hash": _hash,
    "answer_tag": _answer_tag,
    "final_answer": _final_answer,
}
