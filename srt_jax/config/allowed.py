"""Rules for the values of config fields. The table of fields has them with the defaults: `dtype=one_of("auto", ...)`.

A field without such a rule takes every value of the type of its default. types.py checks types. validation.py checks
these rules, and conditions on several fields.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from srt_jax.config import functions


@dataclasses.dataclass(frozen=True)
class Field:
    """A default with a rule for the values of its field.

    allows: whether a value of the right type is allowed. remedy: the end of the error message "FIELD is VALUE: ...".
    choices: all allowed values, if they can be listed. elements: the types of a tuple's elements, if the default tuple
    is empty.
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
    """One of these values, or a user's function as MODULE:FUNCTION (functions.py). The first is the default."""
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


def some_of(*choices: str) -> Field:
    """A tuple of some of these names; the default is all of them."""
    return Field(
        choices,
        lambda names: 0 < len(names) == len(set(names)) and set(names) <= set(choices),
        f"choose some of {', '.join(map(repr, choices))}, each once.",
        elements=(str,),
    )


def positive(default) -> Field:
    """A number above 0. If the default is an integer, the number is a whole one from 1."""
    if isinstance(default, int):
        return Field(default, lambda value: value >= 1, "it must be at least 1.")
    return Field(default, lambda value: value > 0, "it must be positive.")


def update_size(default: float) -> Field:
    """A learning rate of Adam, which moves each weight by about this much in an update: above 0 and below 1."""
    rule = "an update moves each weight by about this much: it lies above 0 and below 1, such as 1e-6."
    return Field(default, lambda value: 0 < value < 1, rule)


def not_negative(default) -> Field:
    """A number of at least 0."""
    return Field(default, lambda value: value >= 0, "it must not be negative.")


def share(default: float) -> Field:
    """A number from 0 to 1, both included."""
    return Field(default, lambda value: 0 <= value <= 1, "a share lies in [0, 1].")


def below_one(default: float) -> Field:
    """A number of at least 0 and below 1."""
    return Field(default, lambda value: 0 <= value < 1, "it lies in [0, 1).")


def positive_or_auto(default: int) -> Field:
    """A whole number from 1, or -1 if the hardware decides."""
    return Field(default, lambda value: value == -1 or value >= 1, "give -1 to follow the devices, or at least 1.")


def tuple_of(*elements: type) -> Field:
    """A tuple of elements of these types; the default is empty."""
    return Field((), elements=elements)


def default_of(leaf):
    """The default of an entry of the table that is not a section."""
    return leaf.default if isinstance(leaf, Field) else leaf


def defaults(table: dict) -> dict:
    """The table in which each field is replaced by its default."""
    return {name: defaults(entry) if isinstance(entry, dict) else default_of(entry) for name, entry in table.items()}


def rules(table: dict, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """(dotted name, field) for each field of the table that has a rule."""
    for name, entry in table.items():
        if isinstance(entry, dict):
            yield from rules(entry, f"{prefix}{name}.")
        elif isinstance(entry, Field):
            yield prefix + name, entry
