r"""Finds the final answer in a model's response.

These are pure string functions in linear time, because a response is hostile input: a megabyte of braces must cost
milliseconds. Each style is one function `text, start, format -> [(start, end), ...]`. It searches the response from
`start`, where the reasoning ends, and returns the spans of the answer. There are several spans if several boxes make
one answer, such as `\boxed{3}` and `\boxed{5}`.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from srt_jax.grading.canonical import canonical

# `\boxed` may have two backslashes (`\\boxed`, in responses that were JSON-escaped twice). An escape is matched with
# the character after it. Thus `\{` never counts as a brace, and each backslash of a long run is read once.
_BOX_TOKEN = re.compile(r"\\{1,2}(?:boxed|fbox)(?![A-Za-z])|\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"[^\s$]{1,200}")
_SPOKEN = re.compile(r"[A-Za-z]{2,}[.,;:!?`'\")\]]*")  # "as" in "inside \boxed as requested" is not an answer
# A box with this content only shows the format.
_PLACEHOLDER = re.compile(
    r"(?:\\text\{)?\s*(?:\.{2,}|…|\\[lc]?dots|\?+|_+|\\square|\\cdot|\\,|\s"
    r"|(?:the |your |my )?(?:final |numerical |numeric )?(?:answer|result)(?: here)?)\s*\}?",
    re.IGNORECASE,
)
# Two boxes belong to one statement if only these signs are between them and at least one is a _CONNECTION.
_LAYOUT = re.compile(r"[\s$}]|\\[()\[\]:!;, ]|\\(?:text|mathrm)\s?\{")
_CONNECTION = re.compile(r"[,;&]|\\\\|\\q?quad(?![A-Za-z])|(?:and|or)\b")
_NEXT_NAME = re.compile(r"[A-Za-z](?:_\{?\w{1,3}\}?)?\s{0,3}&?=&?\s{0,3}")
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
MAX_BOXES = 100  # boxes in one statement
_NAME = re.compile(r"([A-Za-z](?:_\{?\w{1,3}\}?)?)\s{0,3}&?=&?\s{0,3}$")
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_ANNOUNCED = re.compile(
    r"\banswer[*_]{0,3}\s{0,9}(?:is\b(?:[*_]{0,3}\s{0,3}[:：])?|are\b:?|[:：=])"
    r"|^[#*_>\s]{0,12}(?:the )?(?:final )?answer[*_:：\s]{0,9}$",
    re.IGNORECASE | re.MULTILINE,
)
_REMARK = re.compile(
    r"(?:the )?(?:correct|right|wrong|incorrect|helpful|clear|useful|valid|reasonable|as follows|below|given by|to)\b",
    re.IGNORECASE,
)
_DISPLAYS = (("\\[", "\\]"), ("$$", "$$"))
_INLINE = (("\\(", "\\)"), ("$", "$"))
_SENTENCE_END = re.compile(r"\.(?=\s|$|\*)")  # "3.5" has no space after its point
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3}){1,20}(?!\d)|\d{1,100})(?:\.\d{1,100})?|-?\.\d{1,100}")
_REASONING = re.compile(
    r"(?P<open><(?:seed:)?think(?:ing)?>|<reasoning>|\[THINK\]|<\|begin_of_thought\|>|◁think▷)"
    r"|</(?:seed:)?think(?:ing)?>|</reasoning>|\[/THINK\]|<\|end_of_thought\|>|◁/think▷",
    re.IGNORECASE,
)
MAX_SEARCHED = 20_000  # `regex` and `last_number` search only this many characters at the end of a response
BOXES = ("statement", "last")


@dataclass(frozen=True)
class Format:
    r"""How responses mark their answer. Raises ValueError for invalid values.

    style: one of `STYLES`, or several with commas between them. The first style that finds an answer counts.
    boxes: `statement` (all boxes of the last statement are one answer: `\boxed{3} and \boxed{5}` is 3, 5) or `last`
      (only the last box counts).
    field: the name of the JSON field with the answer, for style json.
    pattern: a regular expression with one group, for style regex. The last match counts.
    """

    style: str = "boxed"
    boxes: str = "statement"
    field: str = "answer"
    pattern: str = ""

    def __post_init__(self) -> None:
        for name in self.styles:
            if name not in STYLES:
                raise ValueError(f"style is {self.style!r}; use one of {', '.join(STYLES)}, or several with commas")
        if self.boxes not in BOXES:
            raise ValueError(f"boxes is {self.boxes!r}; use one of {', '.join(BOXES)}")
        if "json" in self.styles and not self.field:
            raise ValueError("field is empty; style json needs the name of the field that has the answer")
        if "regex" not in self.styles:
            return
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"pattern is {self.pattern!r}, which is no regular expression ({error})") from error
        if groups != 1:
            raise ValueError(f"pattern is {self.pattern!r} with {groups} groups; put one group around the answer")

    @cached_property
    def styles(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.style.split(","))


@dataclass(frozen=True)
class Answer:
    """An extracted answer: its text (stripped, never empty) and its span [start, end) in characters of the response.

    The text is that of the span, with two exceptions: several boxes are joined, and JSON strings are decoded.
    """

    text: str
    start: int
    end: int


def extract(response: str, style: str | Format = "boxed", reasoning_open: bool = False) -> Answer | None:
    """The final answer of `response`, or None if there is none. Raises ValueError for an unknown style.

    Only the part after the last `</think>` counts. A response whose reasoning is never closed has no answer.
    reasoning_open: whether the prompt already opens the reasoning, as many chat templates do.
    """
    form = _format(style) if isinstance(style, str) else style
    start = _after_reasoning(response, reasoning_open)
    if start is None:
        return None
    for name in form.styles:
        if spans := STYLES[name](response, start, form):
            answer = _json_answer(response, spans[0]) if name == "json" else _joined(response, spans)
            if answer is not None:
                return answer
    return None


_format = lru_cache(maxsize=16)(Format)


def opens_reasoning(prompt: str) -> bool:
    """Tells whether the prompt opens reasoning at its end, so that the response begins inside the reasoning."""
    last = _last(_REASONING.finditer(prompt[-1000:]))
    return last is not None and last["open"] is not None


def reasoning_tags(tokens: list[str]) -> list[str]:
    """The tokens that open or close reasoning."""
    return [token for token in tokens if _REASONING.fullmatch(token)]


def _last(matches: Iterable[re.Match]) -> re.Match | None:
    return next(iter(deque(matches, maxlen=1)), None)


def _may_have_tags(text: str) -> bool:
    if "<" in text and ("hink" in text or "HINK" in text or "easoning>" in text or "hought" in text):
        return True
    return "THINK]" in text or "◁" in text


def _after_reasoning(text: str, opened: bool) -> int | None:
    if not _may_have_tags(text):  # the usual case, without a regex pass
        return None if opened else 0
    start = 0
    for match in _REASONING.finditer(text):
        opened = match["open"] is not None
        start = match.end()
    return None if opened else start


def _joined(text: str, spans: list[tuple[int, int]]) -> Answer | None:
    """One answer from its spans. Each span is stripped, and the spans are joined with ", ".

    If every span has a name before it (`x = `), the answer contains the names. Several spans of one value count as the
    last of them.
    """
    if len(spans) == 1:
        left, right = spans[0]
        while left < right and text[left].isspace():
            left += 1
        piece = text[left:right].rstrip()
        return Answer(piece, left, left + len(piece)) if piece else None
    pieces = []
    for left, right in spans:
        piece = text[left:right].strip()
        if piece:
            at = text.index(piece, left)
            pieces.append((piece, at, at + len(piece)))
    if not pieces:
        return None
    words = [pieces[-1][0]]
    if len({canonical(piece) for piece, _, _ in pieces}) > 1:  # else one answer in two forms
        names = [_name_before(text, left) for left, _ in spans]
        words = [piece for piece, _, _ in pieces]
        if None not in names and len(names) == len(words):
            words = [f"{name}={word}" for name, word in zip(names, words)]
    return Answer(", ".join(words), pieces[0][1], pieces[-1][2])


def _name_before(text: str, content: int) -> str | None:
    """The name `x` in `x = \\boxed{5}`. content: the position of the 5."""
    box = max(text.rfind("\\boxed", 0, content), text.rfind("\\fbox", 0, content))
    match = _NAME.search(text[max(0, box - 30) : box].rstrip("\\"))
    return match[1] if match else None


# --- styles -----------------------------------------------------------------------------------------------------------
class _Box(NamedTuple):
    """A closed box: the positions of its command, its content, its closing brace and the text after it."""

    command: int
    content: int
    close: int
    end: int


def _boxed(text: str, start: int, form: Format) -> list[tuple[int, int]]:
    r"""The boxes `\boxed{...}` or `\fbox{...}` of the last statement that has any; else the last bare `\boxed 5`."""
    boxes, bare = _boxes(text, start)
    if not boxes:
        return [bare] if bare else []
    chain = [boxes[-1]]
    if form.boxes == "statement" and len(boxes) > 1:
        for box in boxes[-2 : -MAX_BOXES - 1 : -1]:
            if not _connected(text, box.end, chain[-1].command):
                break
            chain.append(box)
    return [(box.content, box.close) for box in reversed(chain)]


def _boxes(text: str, start: int) -> tuple[list[_Box], tuple[int, int] | None]:
    r"""(all closed boxes that are not empty, the span of the last bare `\boxed 5`). Only inner nested boxes count."""
    first = min((i for i in (text.find("\\boxed", start), text.find("\\fbox", start)) if i >= 0), default=-1)
    found: list[_Box] = []
    bare: tuple[int, int] | None = None
    if first < 0:
        return found, bare
    open_braces: list[tuple[int, int] | None] = []  # a box's command and content, None for other braces
    position = first
    while (match := _BOX_TOKEN.search(text, position)) is not None:
        token, position = match[0], match.end()
        if token == "{":
            open_braces.append(None)
        elif token == "}":
            if not open_braces or (box := open_braces.pop()) is None or (found and found[-1].content > box[1]):
                continue
            content = text[box[1] : match.start()]
            if content[:1].isdigit() or (content.strip() and not _is_placeholder(content)):
                found.append(_Box(*box, match.start(), match.end()))
        elif len(token) > 2:
            after = position + _spaces(text, position)
            if text.startswith("{", after):
                position = after + 1
                open_braces.append((match.start(), position))
            elif (run := _bare(text, after)) is not None:
                bare, position = run, run[1]
    return found, bare


def _is_placeholder(content: str) -> bool:
    return len(content) < 60 and _PLACEHOLDER.fullmatch(content) is not None


def _connected(text: str, end: int, start: int) -> bool:
    """Tells whether two boxes are in one statement. end, start: the positions between the boxes.

    Between them there must be a comma, "and", "or", a new row or a wide space. There may also be layout commands and
    the name of the next unknown, but nothing else.
    """
    if start - end > 60 or _PARAGRAPH.search(text, end, start):
        return False
    connected = False
    while end < start:
        match = _CONNECTION.match(text, end, start)
        connected |= match is not None
        match = match or _LAYOUT.match(text, end, start)
        if match is None:
            match = _NEXT_NAME.match(text, end, start)
            return connected and match is not None and match.end() == start
        end = match.end()
    return connected


def _spaces(text: str, position: int) -> int:
    limit = text[position : position + 100]
    return len(limit) - len(limit.lstrip())


def _bare(text: str, start: int) -> tuple[int, int] | None:
    r"""The span of an answer without braces, as in `\boxed 5`. None for a plain word.

    It ends before a space, a dollar sign or final punctuation.
    """
    match = _BARE.match(text, start)
    if match is None or _SPOKEN.fullmatch(match[0]):
        return None
    run = match[0]
    for stop in ("\\)", "\\]", "}"):  # the end of the surrounding formula or group
        cut = run.find(stop)
        if cut >= 0 and not (stop == "}" and "{" in run[:cut]):
            run = run[:cut]
    run = run.rstrip(".,;:`'\"")
    return (start, start + len(run)) if any(c.isalnum() for c in run) else None


def _hash(text: str, start: int, _: Format) -> list[tuple[int, int]]:
    """`#### x`: the rest of the line after the last `####` that is not at the end of its line."""
    end = len(text)
    while (at := text.rfind("####", start, end)) >= 0:
        stop = text.find("\n", at, end)
        stop = end if stop < 0 else stop
        if text[at + 4 : stop].strip(" \t\r#"):
            return [(at + 4 + len(text[at + 4 : stop]) - len(text[at + 4 : stop].lstrip(" \t\r#")), stop)]
        end = at
    return []


def _answer_tag(text: str, start: int, _: Format) -> list[tuple[int, int]]:
    """`<answer>x</answer>`: the text in the last pair of tags that is not empty.

    A second opening tag before the closing tag replaces the first.
    """
    best, opened = [], None
    for match in _ANSWER_TAG.finditer(text, start):
        if not match[1]:
            opened = match.end()
        elif opened is not None:
            if text[opened : match.start()].strip():
                best = [(opened, match.start())]
            opened = None
    return best


def _final_answer(text: str, start: int, form: Format) -> list[tuple[int, int]]:
    """The text after the last "answer is", "Answer:" or heading "Final answer".

    It ends with the sentence or line. If the rest of the line is empty, the next line counts.
    """
    ends = [match.end() for match in _ANNOUNCED.finditer(text, start)]
    for end in reversed(ends[-20:]):
        if spans := _announced(text, end, form):
            return spans
    return []


def _announced(text: str, left: int, form: Format) -> list[tuple[int, int]]:
    limit = min(len(text), left + 2_000)
    while left < limit and text[left] in " \t\r\n:：*_#=>":
        left += 1
    for opening, closing in _DISPLAYS:  # a display may have several lines
        if text.startswith(opening, left) and (close := text.find(closing, left + 2, limit)) > 0:
            return _boxed(text[:close], left, form) or [(left + 2, close)]
    stop = text.find("\n", left, limit)
    right = limit if stop < 0 else stop
    if (sentence := _SENTENCE_END.search(text, left, right)) is not None:
        right = sentence.start()
    if boxes := _boxed(text[:right], left, form):
        return boxes
    while right > left and text[right - 1] in " \t\r.*_":
        right -= 1
    if right <= left or _REMARK.match(text, left, right):
        return []
    for opening, closing in _INLINE:
        if text.startswith(opening, left) and text.find(closing, left + len(opening), right) == right - len(closing):
            return [(left + len(opening), right - len(closing))]
    return [(left, right)]


def _last_number(text: str, start: int, _: Format) -> list[tuple[int, int]]:
    """The last number. It may have groups of three digits (1,234). GSM8K's flexible form; TTRL's last fallback."""
    last = _last(_NUMBER.finditer(text, max(start, len(text) - MAX_SEARCHED)))
    return [last.span()] if last else []


def _json(text: str, start: int, form: Format) -> list[tuple[int, int]]:
    """The value of the last `"field":` with a value: a string with its quotes, a number, true, false or a flat list."""
    key = json.dumps(form.field, ensure_ascii=False)
    end = len(text)
    while (at := text.rfind(key, start, end)) >= 0:
        colon = at + len(key) + _spaces(text, at + len(key))
        if text.startswith(":", colon):
            value = colon + 1 + _spaces(text, colon + 1)
            match = _JSON_VALUE.match(text, value)
            if match is not None and match[0] not in ("null", '""', "[]", "NaN"):
                return [match.span()]
        end = at
    return []


_JSON_STRING = r'"(?:[^"\\\n]|\\.){0,10000}"'
_JSON_NUMBER = r"-?\d{1,1000}(?:\.\d{1,1000})?(?:[eE][+-]?\d{1,4})?"
_JSON_VALUE = re.compile(
    rf"{_JSON_STRING}|{_JSON_NUMBER}|true|false|null|NaN"
    rf"|\[\s{{0,9}}(?:(?:{_JSON_STRING}|{_JSON_NUMBER})\s{{0,9}},?\s{{0,9}}){{0,100}}\]"
)


def _json_answer(text: str, span: tuple[int, int]) -> Answer | None:
    r"""The value as text. Models write LaTeX in JSON with one or two backslashes, so `\f` in `\frac` is not decoded."""
    value = text[span[0] : span[1]]
    parts = [_unquoted(part) for part in re.findall(rf"{_JSON_STRING}|[^\s,\[\]]+", value)]
    words = ", ".join(part for part in parts if part)
    return Answer(words, *span) if words else None


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    return re.sub(r'\\(["/\\]|n(?![a-zA-Z]))', lambda m: "\n" if m[1] == "n" else m[1], value[1:-1]).strip()


def _regex(text: str, start: int, form: Format) -> list[tuple[int, int]]:
    """The group in the last match of the user's pattern."""
    found = re.compile(form.pattern).finditer(text, max(start, len(text) - MAX_SEARCHED))
    last = _last(match for match in found if match[1] and match[1].strip())
    return [last.span(1)] if last else []


STYLES: dict[str, Callable[[str, int, Format], list[tuple[int, int]]]] = {
    "boxed": _boxed,
    "hash": _hash,
    "answer_tag": _answer_tag,
    "final_answer": _final_answer,
    "last_number": _last_number,
    "json": _json,
    "regex": _regex,
}
# These styles need no further setting. They find nothing in a response that does not mark its answer.
MARKED_STYLES = ("boxed", "hash", "answer_tag", "final_answer")
