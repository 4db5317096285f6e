"""Canonical keys of answers: equal keys mean equal answers. Pure functions with bounded time on any string."""

import re
from collections.abc import Mapping
from functools import lru_cache

from srt_jax.grading.shape import Read, Shape, read

# These brackets mark a key. A key is its own key: a response that contains a key states that answer.
OPEN, CLOSE = "⟦", "⟧"
_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,17})")
CACHED_LENGTH = 200  # characters; longer answers are not cached, so that the cache stays small
UNORDERED = {"list", "set", "union"}


def canonical(answer: str) -> str:
    """The key of any string. Equal keys mean equal answers. The key of a key is the key itself."""
    if answer.startswith(OPEN) and answer.endswith(CLOSE):
        return answer
    if _INTEGER.fullmatch(answer):
        return f"{OPEN}{int(answer)}{CLOSE}"
    return key(cached_read(answer).shape)


def cached_read(answer: str) -> Read:
    """`read` with a cache for short answers, because the rollouts of a problem repeat a few answers."""
    return remembered(answer) if len(answer) <= CACHED_LENGTH else read(answer)


remembered = lru_cache(maxsize=20_000)(read)


def key(shape: Shape, classes: Mapping[str, str] | None = None) -> str:
    """The key of a shape. classes: leaf key -> the leaf key that represents its equivalence class."""
    return f"{OPEN}{_render(shape, classes or {})}{CLOSE}"


def _render(shape: Shape, classes: Mapping[str, str]) -> str:
    kind, detail, children = shape
    if kind == "leaf":
        return classes.get(detail, detail)
    parts = [_render(child, classes) for child in children]
    if kind == "assign":
        return f"assign({';'.join(sorted(f'{n}={p}' for n, p in zip(detail, parts)))})"
    if kind in UNORDERED:
        # A set equals a list of the same solutions. Repeated elements of a set count once. A single element equals
        # the collection of it.
        parts = sorted(set(parts) if kind == "set" else parts)
        if len(parts) == 1:
            return parts[0]
        kind = "list" if kind == "set" else kind
    return f"{kind}:{detail}({';'.join(parts)})"
