"""Recognises choices with their text, measures in several units and counted things, before the grammar is tried."""

import re
from fractions import Fraction

# For each dimension: the name of a unit (as `unit_name` returns it) -> its size in the smallest unit.
_SIZES = {
    "time": {"week": 604800, "day": 86400, "hour": 3600, "minute": 60, "second": 1},
    "calendar": {"year": 12, "month": 1},
    "length": {"mile": 63360, "yard": 36, "foot": 12, "inch": 1},
    "metric length": {"kilometer": 10**6, "meter": 1000, "centimeter": 10, "millimeter": 1},
    "mass": {"pound": 16, "ounce": 1},
    "metric mass": {"kilogram": 1000, "gram": 1},
    "volume": {"gallon": 16, "quart": 4, "pint": 2, "cup": 1},
    "money": {"dollar": 100, "cent": 1},
    "angle": {"degree": 3600, "arcminute": 60, "arcsecond": 1},
}
_DIMENSIONS = {unit: dimension for dimension, sizes in _SIZES.items() for unit in sizes}
_ABBREVIATIONS = {
    "yr": "year", "mo": "month", "wk": "week",
    "hr": "hour", "h": "hour", "min": "minute", "sec": "second", "s": "second",
    "mi": "mile", "yd": "yard", "ft": "foot", "feet": "foot", "in": "inch", "km": "kilometer", "metre": "meter",
    "kilometre": "kilometer", "centimetre": "centimeter", "cm": "centimeter", "millimetre": "millimeter",
    "mm": "millimeter", "lb": "pound", "oz": "ounce", "kg": "kilogram", "g": "gram", "gal": "gallon", "qt": "quart",
    "pt": "pint", "buck": "dollar", "¢": "cent", "deg": "degree",
}  # fmt: skip
_IRREGULAR = {
    "children": "child", "men": "man", "women": "woman", "people": "person", "mice": "mouse", "geese": "goose",
    "teeth": "tooth", "oxen": "ox", "calves": "calf", "halves": "half", "leaves": "leaf", "pennies": "penny",
    "dice": "die", "vertices": "vertex", "matrices": "matrix",
}  # fmt: skip
_TEXT = re.compile(r"\\(?:text|textrm|mathrm|mbox|textbf|mathbf)\{([^{}]*)\}")
_COMBINATION = re.compile(r"(?:\{\})?[\^_]?\{?(\d{1,4})\}?([CP])_?\{?(\d{1,4})\}?")
_NUMBERS = {word: str(n) for n, word in enumerate(
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
     "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
)}  # fmt: skip
_NUMBER_WORD = "|".join(_NUMBERS)
_WORDY = re.compile(rf"\b(?:{_NUMBER_WORD})\b|[a-z] ?[:=] ?\d", re.IGNORECASE)
_ITEM_ENDS = re.compile(r" ?[,;] ?(?:and )?| and | ?\\?& ?")
_ITEM_SIGNS = (",", ";", "&", " and ")
_COUNT = re.compile(
    rf"(?P<number>\d{{1,9}}|{_NUMBER_WORD}) (?P<things>[a-z]{{3,20}}(?: [a-z]{{3,20}}){{0,2}})", re.IGNORECASE
)
_NAMED_COUNT = re.compile(
    rf"(?P<things>[a-z]{{3,20}}(?: [a-z]{{3,20}})?) ?[:=] ?(?P<number>\d{{1,9}}|{_NUMBER_WORD})", re.IGNORECASE
)
_LAYOUT = re.compile(r"\\[ ,;:!]|[~{}]|\\q?quad\b")
_PART = re.compile(r"(\$?)(\d{1,12}(?:\.\d{1,6})?)(?: ?((?!and )[a-z¢]{1,12}|''|'|\"))?\.?(?: ?, and | ?, ?| and | )?")
_DEGREES = re.compile(r"\^ ?(?:\\circ|\{ ?\\circ ?\})|\^\\circ|°")
_SEVERAL_UNITS = re.compile(r"\d[^\d+*/=(]{0,30}[a-z'°][^\d+*/=(]{0,30}\d")  # a quick test that every measure passes
_LONGEST = 100  # characters; longer text is no measure

_LABELLED = re.compile(
    r"(?:(?i:option|choice) )?(?:\(([A-J])\)[).:]?|([A-J])[).:])(?:\s{1,9}|(?<=:)(?=\d))(.{1,1000})", re.DOTALL
)
_NAMED = re.compile(r"(?i:option|choice) \(?([A-J])\)?")
_LOOSE = re.compile(
    r"(?:(?i:option|choice) )?\(?([A-J])\)?"
    r"(?: ?(---?) ?(.{1,1000})|(?: - |, ?)(.{1,1000})| \(([^()]{1,1000})\))",
    re.DOTALL,
)
_CHOICE_STARTS = frozenset("ABCDEFGHIJ(\\oOcC")
_OPERATION = re.compile(r"[-+*/^=<>!_|:]|\\(?:cdot|times|div|le|ge|ne|in|cup|cap|to|approx|pm)(?![a-z])")
_WORD = re.compile(r"(?:an? )?[A-Za-z][a-z'’]+(?![A-Za-z(^_=])")
_FUNCTION = re.compile(r"(?:a ?)?(?:sin|cos|tan|cot|sec|csc|log|ln|lg|exp|sqrt|max|min|gcd|lcm|abs|and|or)\b")
_SEVERAL = re.compile(r"(?:\b(?:and|or|not)\b|[,;&/])\s{0,3}\(?[A-J]\b(?!')")
_DENIAL = re.compile(r"(?:is )?(?:false|no|incorrect|wrong|untrue|not (?:correct|true|right|valid|the answer))", re.I)


def choice(text: str) -> str | None:
    r"""The letter of a choice with its text (`B. 12`, `(B) 12`, `B: 5`, `B - the second`); None for other text.

    After a dash or a comma, or in brackets, the text must begin with a word, because `C - 5`, `A, B` and `A(1)` are
    mathematics. Text with several letters (`A and B`) or a denied letter (`B: false`) is not a choice.
    """
    if text[:1] not in _CHOICE_STARTS or len(text) < 3:
        return None
    if (alone := _NAMED.fullmatch(text)) is not None:
        return alone[1]
    if "\\" in text[:20]:
        text = re.sub(r"\\[ ,;:]|~", " ", _TEXT.sub(r"\1", text))
    if (match := _LABELLED.fullmatch(text)) is not None and not _OPERATION.match(match[3]):
        letter, said = match[1] or match[2], match[3]
        fits = not re.match(r"[A-J](?![a-z])\s*(?:[:=,]|$)", said)
    elif (match := _LOOSE.fullmatch(text)) is not None:
        letter, said = match[1], match[3] or match[4] or match[5]
        fits = match[2] is not None or (_WORD.match(said) is not None and not _FUNCTION.match(said.lower()))
    else:
        return None
    return letter if fits and not _SEVERAL.search(said) and not _DENIAL.fullmatch(said.strip(" .!")) else None


def combination(text: str) -> str:
    """`10C3`, `{}_{10}C_3` and `^{10}P_3` as LaTeX or as a call. Other text is returned unchanged."""
    match = _COMBINATION.fullmatch(text) if "C" in text or "P" in text else None
    if match is None:
        return text
    return f"\\binom{{{match[1]}}}{{{match[3]}}}" if match[2] == "C" else f"perm({match[1]},{match[3]})"


def counted(text: str) -> str:
    """`nine cats and ten dogs` and `cats: 9, dogs: 10` as `9 cats, 10 dogs`. Other text is returned unchanged."""
    if not any(sign in text for sign in _ITEM_SIGNS) or len(text) > _LONGEST or _WORDY.search(text) is None:
        return text
    parts = _ITEM_ENDS.split(_TEXT.sub(r"\1", text))
    items = [_COUNT.fullmatch(part.strip()) or _NAMED_COUNT.fullmatch(part.strip()) for part in parts]
    if not 2 <= len(items) <= 8 or None in items:
        return text
    numbers = [match["number"].casefold() for match in items]
    return ", ".join(f"{_NUMBERS.get(n, n)} {match['things']}" for n, match in zip(numbers, items))


def unit_name(words: str) -> str:
    """The name of a unit or of counted things, in the singular and without abbreviations: hour for `hrs`."""
    return " ".join(_singular(word) for word in words.split())


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _ABBREVIATIONS:
        return _ABBREVIATIONS[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "zes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 2:
        return _ABBREVIATIONS.get(word[:-1], word[:-1])
    return word


def measure(text: str) -> tuple[str, Fraction] | None:
    """(dimension, amount in its smallest unit) of a text such as `3 hours and 20 minutes` or `5'3"`; else None.

    A measure has at least two parts, and each unit is smaller than the one before. A text of one part is a number, and
    the parser drops its unit.
    """
    parts = _parts(text) if _SEVERAL_UNITS.search(text) else None
    if parts is None or len(parts) < 2:
        return None
    dimension = _DIMENSIONS[parts[0][1]]
    sizes = [_SIZES[dimension].get(unit, 0) for _, unit in parts]
    if 0 in sizes or sizes != sorted(set(sizes), reverse=True):
        return None
    return dimension, sum((value * size for (value, _), size in zip(parts, sizes)), Fraction(0))


def units_of(text: str) -> list[str]:
    """The units of a measure, from the largest to the smallest."""
    return [unit for _, unit in _parts(text) or []]


def unit_of(text: str) -> str | None:
    """The unit of a single value. "" if it has no unit, None if its words are not one known unit."""
    parts = _parts(text)
    if parts is not None:
        return parts[0][1] if len(parts) == 1 else None
    words = re.findall(r"[a-z]+", _LAYOUT.sub(" ", _TEXT.sub(r" \1 ", re.sub(r"\\[dt]?frac", " ", text))).casefold())
    names = {unit_name(word) for word in words}
    return "" if not names else names.pop() if len(names) == 1 and names <= set(_DIMENSIONS) else None


def size(unit: str) -> tuple[str, int]:
    """(dimension, size in the smallest unit) of a known unit."""
    dimension = _DIMENSIONS[unit]
    return dimension, _SIZES[dimension][unit]


def _parts(text: str) -> list[tuple[Fraction, str]] | None:
    """The text as pairs (value, known unit). None if any other text remains."""
    if len(text) > _LONGEST:
        return None
    text = _LAYOUT.sub(" ", _DEGREES.sub(" degree ", _TEXT.sub(r" \1 ", text).replace("\\$", "$")))
    text = " ".join(text.casefold().split())
    found: list[tuple[Fraction, str]] = []
    at = 0
    while at < len(text):
        match = _PART.match(text, at)
        if match is None or not (match[1] or match[3]):
            return None
        unit = "dollar" if match[1] else _mark(match[3], found) or unit_name(match[3])
        if (unit not in _DIMENSIONS and unit != "m") or (match[1] and match[3]):
            return None
        found.append((Fraction(match[2]), unit))
        at = match.end()
    minutes = any(_DIMENSIONS.get(unit) == "time" for _, unit in found)
    return [(value, unit if unit != "m" else "minute" if minutes else "meter") for value, unit in found]


def _mark(sign: str, before: list[tuple[Fraction, str]]) -> str | None:
    """The unit of a mark: foot and inch, or minute and second of arc after degrees. None for words."""
    if sign not in ("'", '"', "''"):
        return None
    angle = bool(before) and before[0][1] == "degree"
    return ("arcminute" if angle else "foot") if sign == "'" else ("arcsecond" if angle else "inch")
