"""Whether the fields of a config have the types of `base()`; validation.py checks what their values mean."""

import math

from ml_collections import ConfigDict

from srt_jax.config import base, source
from srt_jax.errors import ConfigError
from srt_jax.files import shown

KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a tuple",
    ConfigDict: "a section of fields",
}
# What the tuples hold that are empty in `base()`; the others hold what their first element is.
ELEMENTS = {"rollout.servers": (str,), "rollout.vllm.gpus": (int,), "levels": (dict, ConfigDict)}
OF_SOURCES = {"levels": (str, int)}
USERS_OWN = ("config", "chat_template_kwargs")  # sections whose keys are the user's
LARGEST = 2**31 - 1
FLOAT32 = (1e-37, 1e37)  # what float32 can tell from 0 and from infinity


def check_types(config: ConfigDict) -> None:
    """Raises ConfigError where a field is missing, unknown or not of the type that it has in `base()`.

    An integer will do for a float, True and False are no numbers, and numbers are finite and fit 32 bits.
    """
    _check_section("", config, base())


def _check_section(prefix: str, section, like: ConfigDict) -> None:
    for name in section:
        if name not in like:
            raise ConfigError(
                f"there is no config field {prefix + str(name)!r}: "
                "srt_jax/config/fields.py names and explains all of them."
            )
    for name, usual in like.items():
        field = prefix + name
        if name not in section:
            raise ConfigError(f"{field} is missing: start from base() or source() of srt_jax/config/fields.py.")
        value = section[name]
        if not isinstance(usual, ConfigDict):
            _check_value(field, value, usual)
        elif not isinstance(value, dict | ConfigDict):
            raise _wrong(field, value, KINDS[ConfigDict])
        elif field == "eval.sets":
            for set_name, judge in value.items():
                if not isinstance(judge, dict | ConfigDict):
                    raise _wrong(f"{field}.{set_name}", judge, "a source: make it with srt_jax.config.source()")
                _check_section(f"{field}.{set_name}.", judge, source())
        elif name in USERS_OWN:
            _check_own(field, value)
        else:
            _check_section(f"{field}.", value, usual)


def _check_value(field: str, value, usual) -> None:
    if not isinstance(usual, tuple):
        return _check_scalar(field, value, (type(usual),))
    if not isinstance(value, tuple | list):
        raise _wrong(field, value, KINDS[tuple])
    of_sources = OF_SOURCES if field.startswith(("data.", "eval.sets.")) else {}
    kinds = ELEMENTS.get(field) or of_sources.get(field.rpartition(".")[2]) or (type(usual[0]),)
    for i, element in enumerate(value):
        _check_scalar(f"{field}[{i}]", element, kinds)


def _check_scalar(field: str, value, kinds: tuple[type, ...]) -> None:
    wanted = " or ".join(KINDS.get(kind, "a dict of fields") for kind in kinds if kind is not ConfigDict)
    allowed = (*kinds, int) if float in kinds else kinds
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
        raise ConfigError(f"{field} is {shown(value)}: its largest number is {LARGEST}.")
    if isinstance(value, float) and value and not FLOAT32[0] <= abs(value) <= FLOAT32[1]:
        raise ConfigError(
            f"{field} is {value}: in float32 that is 0 or infinite, so give 0, or a size between "
            f"{FLOAT32[0]} and {FLOAT32[1]}."
        )


def _check_text(field: str, text: str) -> None:
    if "\0" in text or any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ConfigError(
            f"{field} is {shown(text)}, which holds a character that no file or tokenizer takes: remove it."
        )


def _check_own(field: str, value) -> None:
    """Keys of the user's own may hold whatever JSON can."""
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
