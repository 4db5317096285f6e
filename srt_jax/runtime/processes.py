"""Agreement between the processes of a run. With one process these functions cost nothing.

Every process runs the same program on the same values. One process decides everything that depends on clocks, files or
signals, and only the first process writes. All processes must call these functions in the same order.
"""

import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from srt_jax.runtime import is_first_process

CHUNK = 1 << 16  # bytes of one broadcast; a single shape compiles once


def from_first(compute: Callable[[], Any]) -> Any:
    """Calls `compute()` in the first process only, and returns its result in all of them.

    If it raises, the other processes raise RuntimeError.
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
    """Tells whether the flag is true in any process."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def _broadcast(data: bytes) -> bytes:
    """Returns the bytes of the first process in all of them."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    received = np.zeros(-(-size // CHUNK) * CHUNK, np.uint8)
    received[: len(data)] = np.frombuffer(data, np.uint8)
    for start in range(0, size, CHUNK):
        chunk = slice(start, start + CHUNK)
        received[chunk] = multihost_utils.broadcast_one_to_all(received[chunk])
    return received[:size].tobytes()
