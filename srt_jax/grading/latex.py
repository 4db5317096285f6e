"""Turns an answer into a clean string and into tokens. Handles LaTeX spacing, styling, unicode and escapes only.

Every regular expression here takes linear time on every input: each starts at a fixed character, and none has nested
repetition.
"""

import re
import unicodedata

from srt_jax.grading.vocabulary import ALIASES, FUNCTIONS, GREEK, RENAME, SPACING, STYLE, TEXT_COMMANDS, UNICODE

_DOUBLED = re.compile(
    r"(?<!\\)\\\\(?=(?:[dtc]?frac|sqrt|begin|end|text|left|right|pi|cdot|times|circ|infty|pm|mathrm|boxed|overline|theta"
    r"|sin|cos)(?![a-z]))"
)
_COMMAND = re.compile(r"(?<!\\)(\\+)[A-Za-z]{2}")
_THOUSANDS = re.compile(r"(?<=\d)\s{0,3}(?:\{,\}|,\\!|\\,|\\:|\\;|\\ |~|\{\\,\})\s{0,3}(?=\d{3}(?!\d))")
# A number in groups of three digits at the start of an answer: 10 000 km. But 2 125/1000 is a mixed number.
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?: \d{3})+(?=\.\d|[^\d/]*$)")
# A quotient of units after a value, e.g. km/h as a LaTeX fraction.
_UNITS = re.compile(
    r"(?<=[\d}])((?:\\[ ,;:]|[ ~]){0,4})\\[dt]?frac\{\\(?:text|mathrm)\{([A-Za-z ]{1,30})\}\}"
    r"\{\\(?:text|mathrm)\{([A-Za-z ]{1,30})\}(?:\^\{?\d\}?)?\}"
)
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,6}(?![A-Za-z0-9.]))?)"
    r"|(?P<command>\\[A-Za-z]+\*?|\\.)"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<symbol><=|>=|!=|==|\*\*|\+/-|.)",
    re.DOTALL,
)


_ITEMS = re.compile(r"[a-z](?:,| and| or) ?\d")


class NotMathError(ValueError):
    """The text is not an expression that the parser and the algebra know. It is then compared as text."""


def clean(answer: str) -> str:
    """The answer as one trimmed line of printable text.

    Unicode signs become LaTeX. Double escapes, and thousands separators other than commas, are removed.
    """
    text = answer.translate(UNICODE)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")  # zero-width and direction marks
    # A control character becomes a space: "1\x002" is not 12.
    text = "".join(c if c.isprintable() else " " for c in text)
    if "\\" in text:
        runs = [len(run) for run in _COMMAND.findall(text)]
        if runs and not any(length % 2 for length in runs):  # every command was escaped twice
            text = text.replace("\\\\", "\\")
        text = _DOUBLED.sub(lambda _: "\\", text)
    if "\\" in text or "{,}" in text or "~" in text:
        text = _UNITS.sub(r"\1\\text{\2/\3}", _THOUSANDS.sub("", text))
    text = trim(text)
    return text.replace(" ", "", grouped[0].count(" ")) if (grouped := _GROUPED.match(text)) else text


def trim(text: str) -> str:
    """The text without blanks, dollar signs, sentence punctuation and unfinished escapes at its ends."""
    while True:
        before = text
        text = text.strip(" \t\n$~").rstrip(".,;:") if not text.endswith("...") else text.strip(" \t\n$~")
        if text.endswith("\\"):
            text = text.rstrip("\\")
        for opening, closing in (("\\(", "\\)"), ("\\[", "\\]"), ("**", "**")):
            text = text.removeprefix(opening).removesuffix(closing)
        if text == before:
            return text


Token = tuple[str, str]  # (kind, text); kinds: number, command, word, symbol, text, space


def tokenize(text: str, limit: int) -> list[Token]:
    r"""The tokens of clean text. Raises NotMathError for more than `limit` tokens.

    `\text{...}` usually becomes one token. Styling commands become spaces.
    """
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        position, kind, lexeme = match.end(), match.lastgroup, match[0]
        if kind == "command":
            name = lexeme[1:].rstrip("*")
            if name in ("quad", "qquad"):
                tokens.append(("symbol", ","))
                continue
            if name in SPACING or name in STYLE:
                if name in ("left", "right") and text.startswith(".", position):
                    position += 1
                tokens.append(("space", " "))
                continue
            name = RENAME.get(name, name)
            if name in TEXT_COMMANDS:
                content, position = group(text, position)
                upright = content in FUNCTIONS or content in ALIASES or content in GREEK
                if upright and content not in ("sec", "min"):  # these two are units
                    tokens.append(("command", content))
                else:
                    tokens += _text_tokens(content)
                continue
            if name in ("hspace", "vspace", "phantom", "label", "tag", "color", "textcolor"):
                _, position = group(text, position)
                continue
            kind, lexeme = ("symbol", name) if name in "<>[]()|*:/" else ("command", name)
        elif kind == "symbol" and lexeme in "$~":
            kind, lexeme = "space", " "
        elif lexeme == "+/-":
            kind, lexeme = "command", "pm"
        tokens.append((kind, lexeme))
        if len(tokens) > limit:
            raise NotMathError(f"more than {limit} tokens")
    return tokens


def _text_tokens(content: str) -> list[Token]:
    r"""The tokens of a text's content.

    `\text{ chickens and }` becomes the words and the separator "and". `\text{ cats, 3 dogs}` is tokenised further.
    """
    if _ITEMS.search(content) is not None:
        return tokenize(content, len(content))
    words = content.rstrip()
    for separator in (" and", " or"):
        if words.endswith(separator) and words[: -len(separator)].strip(" ,"):
            return [("text", words[: -len(separator)]), ("text", separator)]
    if words.endswith((",", ";")) and words.strip(" ,;"):
        return [("text", words[:-1]), ("symbol", words[-1])]
    return [("text", content)]


def group(text: str, position: int) -> tuple[str, int]:
    """(the content of the braced group at `position`, the position after the group). Skips blanks before the group.

    Raises NotMathError if there is no closed group.
    """
    while position < len(text) and text[position] == " ":
        position += 1
    if position >= len(text) or text[position] != "{":
        raise NotMathError("a braced group was expected")
    depth, start, escaped = 0, position + 1, False
    for index in range(position, len(text)):
        char = text[index]
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return text[start:index], index + 1
    raise NotMathError("a brace is not closed")


def plain(text: str) -> str:
    """The form in which words are compared: without styling, casefolded, with one space between words."""
    out, position = [], 0
    formula = "^" in text or "_" in text  # here braces have a meaning and are kept
    while position < len(text):
        match = _TOKEN.match(text, position)
        position, kind, lexeme = match.end(), match.lastgroup, match[0]
        if kind == "command":
            name = RENAME.get(lexeme[1:].rstrip("*"), lexeme[1:].rstrip("*"))
            if name in SPACING:
                lexeme = " "
            elif name in TEXT_COMMANDS or name in STYLE:
                lexeme = ""
            elif name in "{}%$&#_":
                lexeme = name
            else:
                lexeme = f"\\{name} "
        elif lexeme in "{}$~":
            lexeme = " " if lexeme in "$~" else lexeme if formula else ""
        out.append(lexeme)
    return " ".join("".join(out).split()).casefold().strip(" .,;:'\"!?")
