"""Functions of the user: a field such as rl.advantage may name one as MODULE:FUNCTION.

The module is a file beside the config file or in the current folder, or any installed module. It is trusted like the
config file itself. CONTRIBUTING.md has an example of each kind:

    data.kind, eval.sets.NAME.kind  srt_jax/data/function.py documents the function
    labels.source, reward.shape     srt_jax/reward/functions.py
    rl.advantage                    srt_jax/rl/advantages.py

A run records a hash of each module's source text, so that it is not resumed with another function.
"""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from srt_jax.errors import ConfigError

NAME = re.compile(r"([A-Za-z_]\w*)(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_function(value: object) -> bool:
    """Tells whether the value of a field has the form MODULE:FUNCTION."""
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def named(config: ConfigDict) -> dict[str, str]:
    """Field -> MODULE:FUNCTION, for all fields of the config that name a function."""
    sources = {"data.kind": config.data.kind, **{f"eval.sets.{n}.kind": s.kind for n, s in config.eval.sets.items()}}
    fields = {"labels.source": config.labels.source, "reward.shape": config.reward.shape}
    fields |= {"rl.advantage": config.rl.advantage, **sources}
    return {field: value for field, value in fields.items() if is_function(value)}


def find(field: str, value: str) -> None:
    """Raises ConfigError if there is no such module. It does not import the module, whose import may start jax."""
    module = value.partition(":")[0].partition(".")[0]
    _search_current_folder()
    if module not in sys.modules and importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"{field} is {value!r}, but there is no module {module!r}: give the config file beside {module}.py by "
            f"--config, put {module}.py into the current folder, or correct the name."
        )


@functools.cache
def load(field: str, value: str) -> Callable:
    """The function MODULE:FUNCTION that a field names. Raises ConfigError if there is none."""
    find(field, value)
    path, _, name = value.partition(":")
    try:
        module = importlib.import_module(path)
    except Exception as e:  # a module may raise any exception when it is imported
        raise ConfigError(
            f"{field} is {value!r}, but importing {path} fails ({type(e).__name__}: {e}): correct it there."
        ) from e
    function = getattr(module, name, None)
    if not callable(function):
        there = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == path]
        raise ConfigError(
            f"{field} is {value!r}, but {path} has no function {name!r}: it has {', '.join(there) or 'none'}; correct "
            "the name."
        )
    return function


def fingerprints(config: ConfigDict) -> dict[str, str]:
    """Field -> sha256 of its module's source text.

    Data sources are left out, because a resumed run compares their problems instead.
    """
    fields = {field: value for field, value in named(config).items() if not field.endswith(".kind")}
    return {field: _fingerprint(field, value) for field, value in fields.items()}


def call(field: str, value: str, function: Callable, *arguments: object) -> Any:
    """The function's result. Raises ConfigError if the function raises any exception."""
    try:
        return function(*arguments)
    except Exception as e:
        frame = e.__traceback__
        while frame and frame.tb_next:
            frame = frame.tb_next
        place = f" at {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
        reason = (str(e).strip().splitlines() or [""])[0]
        raise ConfigError(
            f"{field} is {value!r}, which fails{place} ({type(e).__name__}: {reason}): correct it there."
        ) from e


def _fingerprint(field: str, value: str) -> str:
    load(field, value)
    module = value.partition(":")[0]
    file = getattr(sys.modules[module], "__file__", None)  # None: built into Python
    return hashlib.sha256(pathlib.Path(file).read_bytes() if file else module.encode()).hexdigest()


def _search_current_folder() -> None:
    if os.getcwd() not in sys.path and "" not in sys.path:  # Python does not search it for the command `srt`
        sys.path.append(os.getcwd())
