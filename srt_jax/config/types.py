"""Checks that the fields of a config have the types of their defaults; validation.py checks their values."""

import difflib
import math
import re
from collections.abc import Iterator

from ml_collections import ConfigDict

from srt_jax.config.allowed import Field, default_of
from srt_jax.config.fields import FIELDS, SOURCE
from srt_jax.errors import ConfigError
from srt_jax.files import shown

KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a tuple",
    dict: "a section of fields",
}
USERS_OWN = ("config", "chat_template_kwargs", "mixture")  # Users choose the keys of these sections.
LARGEST = 2**31 - 1
FLOAT32 = (1e-37, 1e37)  # Absolute values far outside of this range become 0 or infinity in float32.


def check_types(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is missing, unknown or of another type than its default.

    A float field takes integers, too. True and False are not numbers. Numbers must be finite and fit into 32 bits,
    except for seeds.
    """
    _check_section("", config, FIELDS)


def unknown_field(name: str) -> str:
    """The sentence about a name that is no field: with the name of a similar field, if there is one."""
    own = re.match(r"eval\.sets\.\w+\.", name)
    if own and name[own.end() :] in SOURCE:
        return f"there is no evaluation set for {name!r}: a config file makes them (docs/data.md)."
    names = _names(own.group(), SOURCE) if own else _names("", FIELDS)
    near = difflib.get_close_matches(name, names, 1, cutoff=0.8)
    remedy = f"did you mean {near[0]}?" if near else "srt_jax/config/fields.py lists and explains all fields."
    return f"there is no config field {name!r}: {remedy}"


def _names(prefix: str, table: dict) -> Iterator[str]:
    """The dotted names of all fields of a table."""
    for name, entry in table.items():
        yield from _names(f"{prefix}{name}.", entry) if isinstance(entry, dict) else [prefix + name]


def _check_section(prefix: str, section, table: dict) -> None:
    for name in section:
        if name not in table:
            raise ConfigError(unknown_field(prefix + str(name)))
    for name, entry in table.items():
        field = prefix + name
        if name not in section:
            raise ConfigError(f"{field} is missing: start from base() or source() of srt_jax/config/fields.py.")
        value = section[name]
        if not isinstance(entry, dict):
            _check_value(field, value, entry)
        elif not isinstance(value, dict | ConfigDict):
            raise _wrong(field, value, KINDS[dict])
        elif field == "eval.sets":
            for set_name, eval_set in value.items():
                if not isinstance(eval_set, dict | ConfigDict):
                    raise _wrong(f"{field}.{set_name}", eval_set, "a source: make it with srt_jax.config.source()")
                _check_section(f"{field}.{set_name}.", eval_set, SOURCE)
        elif name in USERS_OWN:
            _check_own(field, value)
        else:
            _check_section(f"{field}.", value, entry)


def _check_value(field: str, value, entry) -> None:
    default = default_of(entry)
    if not isinstance(default, tuple):
        return _check_scalar(field, value, (type(default),))
    if not isinstance(value, tuple | list):
        raise _wrong(field, value, KINDS[tuple])
    kinds = entry.elements if isinstance(entry, Field) else (type(default[0]),)
    for i, element in enumerate(value):
        _check_scalar(f"{field}[{i}]", element, kinds)


def _check_scalar(field: str, value, kinds: tuple[type, ...]) -> None:
    wanted = " or ".join("a dict of fields" if kind is dict else KINDS[kind] for kind in kinds)
    allowed = (*kinds, *((int,) if float in kinds else ()), *((ConfigDict,) if dict in kinds else ()))
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
        raise _wrong(field, value, wanted)
    if isinstance(value, str):
        _check_text(field, value)
    elif isinstance(value, int | float):
        _check_number(field, value)


def _check_number(field: str, value: float) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{field} is {value}: it must be a finite number.")
    if isinstance(value, int) and abs(value) > LARGEST and field.rpartition(".")[2] != "seed":
        raise ConfigError(f"{field} is {shown(value)}: its size must be at most {LARGEST}.")
    if isinstance(value, float) and value and not FLOAT32[0] <= abs(value) <= FLOAT32[1]:
        raise ConfigError(
            f"{field} is {value}: float32 cannot represent it, so give 0, or a size between "
            f"{FLOAT32[0]} and {FLOAT32[1]}."
        )


def _check_text(field: str, text: str) -> None:
    if "\0" in text or any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ConfigError(f"{field} is {shown(text)}, with a character that no file or tokenizer accepts: remove it.")


def _check_own(field: str, value) -> None:
    """Checks a value that belongs to a user's own key. It may have any type of JSON."""
    if isinstance(value, dict | ConfigDict):
        for name in value:
            _check_own(f"{field}.{name}", value[name])
    elif isinstance(value, tuple | list):
        for i, element in enumerate(value):
            _check_own(f"{field}[{i}]", element)
    elif value is not None:
        _check_scalar(field, value, (bool, int, float, str))


def _wrong(field: str, value, wanted: str) -> ConfigError:
    return ConfigError(f"{field} is {shown(value)}: it must be {wanted}.")
