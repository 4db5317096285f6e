"""Compiled programs that the runs of one process share: the levels of a run, and the runs of a study.

Tracing, lowering and loading a program take seconds even if XLA's cache on disk has it.
"""

import collections
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax

KEPT = 16  # programs; the least recently used one is dropped first
Program = TypeVar("Program")
_programs: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()


def shared(key: Hashable, make: Callable[[], Program]) -> Program:
    """The program of an earlier call with an equal key, or the result of make().

    key: everything that the program depends on, except for settings of JAX, which are added.
    """
    key = key, jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if key not in _programs:
        _programs[key] = make()
        while len(_programs) > KEPT:
            _programs.popitem(last=False)
    _programs.move_to_end(key)
    return _programs[key]


def shape(tree: Any) -> Hashable:
    """The structure of a tree of (abstract) arrays with their shapes, dtypes and shardings, for a key."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, str(leaf.dtype), leaf.sharding) for leaf in leaves)
