"""Finds and loads the shipped config files. They are in configs/ of a checkout, or in srt_jax/configs/ of a wheel."""

import difflib
import functools
import importlib.util
import os
import pathlib
import sys
import types

PACKAGE = pathlib.Path(__file__).resolve().parents[1]
FOLDER = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"


def names() -> list[str]:
    """The names of the shipped configs, e.g. 'srt'."""
    return sorted(file.stem for file in FOLDER.glob("*.py") if not file.name.startswith("_"))


def find(path: str) -> str:
    """The config file for a path or a shipped name. An existing file has priority.

    path: a path, a shipped name (`srt`), or the path of a shipped config in a checkout (`srt.py`, `configs/srt.py`).
    Raises ValueError, with the nearest names, for any other text.
    """
    name = path.removeprefix("configs/").removesuffix(".py")
    if name in names() and not os.path.isfile(path):
        return str(FOLDER / f"{name}.py")
    if os.path.exists(path):
        return path
    near = difflib.get_close_matches(name, names(), 3) or names()
    raise ValueError(
        f"{path!r} is neither a config file nor the name of a shipped config: correct the path, or give a name such "
        f"as {', '.join(near)}."
    )


@functools.cache
def load(name: str) -> types.ModuleType:
    """The module of a shipped config file, e.g. `load("sept").SEPT`. Raises ValueError for an unknown name."""
    if name not in names():
        raise ValueError(f"there is no shipped config {name!r}: give one of {', '.join(names())}.")
    spec = importlib.util.spec_from_file_location(f"srt_jax.configs.{name}", FOLDER / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
