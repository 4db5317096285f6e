"""Known answers as files contain them: extracts the bare answer, and recognises texts that have none."""

import ast
import re

from srt_jax.grading.answers import Format, extract

_WORKED = Format("boxed,answer_tag,final_answer", boxes="statement")
LONG = 300  # characters; a response rarely repeats a longer answer
_SENTENCE = re.compile(r"[a-z)\]}$][.!?]\s+[A-Z\\$]")


def bare_answer(gold: str) -> str:
    """The answer in `#### 5`, in a solution that ends in `#### 42` or in a box, or in `['5']`.

    All other texts are returned unchanged.
    """
    text = gold.strip()
    if "####" in text:
        found = extract(text, "hash")
        return found.text if found else gold
    if text.startswith("[") and text.endswith("]") and ("'" in text or '"' in text):
        return _listed(text) or gold
    if "\\boxed" in text or "\\fbox" in text or "<answer>" in text or looks_worked(text):
        found = extract(text, _WORKED)
        return found.text if found else gold
    return gold


def looks_worked(gold: str) -> bool:
    """Tells whether this text has several sentences or lines, so that the answer of a response cannot match it."""
    text = gold.strip()
    return len(text) > LONG or (len(text) > 40 and (_SENTENCE.search(text) is not None or _has_lines_of_words(text)))


def _has_lines_of_words(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) > 1 and any(re.search(r"[A-Za-z]{2,} [A-Za-z]{2,} [A-Za-z]{2,}", line) for line in lines)


def _listed(text: str) -> str | None:
    """The items of a Python list of strings: 5 for `['5']`, and 3, 4 for `['3', '4']`. None for everything else."""
    try:
        items = ast.literal_eval(text) if len(text) <= 2_000 else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if not isinstance(items, list) or not items or not all(isinstance(item, str) and item.strip() for item in items):
        return None
    return ", ".join(item.strip() for item in items)
