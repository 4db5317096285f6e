"""What the processes of a run on several hosts must agree on. With one process all of this costs nothing.

Every process runs the same program on the same values. What may differ, because it depends on clocks, files or signals,
is decided by one of them; only the first one writes. All must call these functions, in the same order.
"""

import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from srt_jax.runtime import is_first_process

CHUNK = 1 << 16  # bytes that are sent at a time: one shape, compiled once


def from_first(compute: Callable[[], Any]) -> Any:
    """The result of `compute()` in the first process, which alone calls it, for all of them.

    Where it raises there, the others raise RuntimeError.
    """
    if jax.process_count() == 1:
        return compute()
    if not is_first_process():
        failed, result = pickle.loads(_broadcast(b""))
        if failed:
            raise RuntimeError(f"the first process failed: {result}")
        return result
    try:
        result = compute()
    except Exception as e:
        _broadcast(pickle.dumps((True, f"{type(e).__name__}: {e}")))
        raise
    _broadcast(pickle.dumps((False, result)))
    return result


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def _broadcast(data: bytes) -> bytes:
    """The first process's bytes."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    received = np.zeros(-(-size // CHUNK) * CHUNK, np.uint8)
    received[: len(data)] = np.frombuffer(data, np.uint8)
    for start in range(0, size, CHUNK):
        chunk = slice(start, start + CHUNK)
        received[chunk] = multihost_utils.broadcast_one_to_all(received[chunk])
    return received[:size].tobytes()
