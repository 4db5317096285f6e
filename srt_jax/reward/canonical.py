"""Canonical keys of answers (first form: text only)."""

MAX_LENGTH = 10_000


def canonical(answer: str) -> str:
    """A key: equal keys mean equal answers; the key of a key is itself."""
    return " ".join(answer.replace("\\!", "").replace("\\left", "").replace("\\right", "").split())
