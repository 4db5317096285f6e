"""The values that a config field allows, written where its default stands: `dtype=one_of("auto", "float32")`.

A field without such a rule takes every value that has the type of its default. types.py checks types, and
validation.py checks these rules and what fields mean together.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from srt_jax.config import functions


@dataclasses.dataclass(frozen=True)
class Field:
    """A default with a rule for the values of its field.

    allows: says whether a value of the right type is allowed. remedy: ends the error "FIELD is VALUE: ...".
    choices: all allowed values, where they can be listed. elements: types of a tuple's elements, where the default
    tuple is empty.
    """

    default: Any
    allows: Callable[[Any], bool] = lambda value: True
    remedy: str = ""
    choices: tuple = ()
    elements: tuple[type, ...] = ()


def one_of(default, *others) -> Field:
    """One of these values; the first is the default."""
    choices = (default, *others)
    return Field(default, choices.__contains__, f"choose one of {', '.join(map(repr, choices))}.", choices)


def one_of_or_function(default, *others) -> Field:
    """One of these values, or a function of one's own as MODULE:FUNCTION (functions.py); the first is the default."""
    listed = one_of(default, *others)
    remedy = listed.remedy.removesuffix(".") + ", or name a function of your own as module:function."
    return dataclasses.replace(
        listed, allows=lambda value: listed.allows(value) or functions.is_function(value), remedy=remedy
    )


def names_of(default: str, *others: str) -> Field:
    """One of these names, or several with commas between them; the first is the default."""
    choices = (default, *others)
    return Field(
        default,
        lambda text: {name.strip() for name in text.split(",")} <= set(choices),
        f"use one of {', '.join(choices)}, or several with commas between them.",
        choices,
    )


def positive(default) -> Field:
    """A whole number from 1, or a number above 0."""
    if isinstance(default, int):
        return Field(default, lambda value: value >= 1, "it must be at least 1.")
    return Field(default, lambda value: value > 0, "it must be positive.")


def not_negative(default) -> Field:
    """A number from 0."""
    return Field(default, lambda value: value >= 0, "it must not be negative.")


def share(default: float) -> Field:
    """A number from 0 to 1."""
    return Field(default, lambda value: 0 <= value <= 1, "a share lies in [0, 1].")


def below_one(default: float) -> Field:
    """A number from 0 to 1, without 1."""
    return Field(default, lambda value: 0 <= value < 1, "it lies in [0, 1).")


def positive_or_auto(default: int) -> Field:
    """A whole number from 1, or -1 where the hardware decides."""
    return Field(default, lambda value: value == -1 or value >= 1, "give -1 to follow the devices, or at least 1.")


def tuple_of(*elements: type) -> Field:
    """A tuple of elements of these types; the default is empty."""
    return Field((), elements=elements)


def default_of(leaf):
    """The default of a table's entry that is no section."""
    return leaf.default if isinstance(leaf, Field) else leaf


def defaults(table: dict) -> dict:
    """The table with defaults in the place of its fields."""
    return {name: defaults(entry) if isinstance(entry, dict) else default_of(entry) for name, entry in table.items()}


def rules(table: dict, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """(dotted name, field) of all fields of the table that have a rule."""
    for name, entry in table.items():
        if isinstance(entry, dict):
            yield from rules(entry, f"{prefix}{name}.")
        elif isinstance(entry, Field):
            yield prefix + name, entry
