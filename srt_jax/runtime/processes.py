"""Agreement between the processes of a run. With one process these functions cost nothing.

Every process runs the same program on the same values. One process decides everything that depends on clocks, files,
signals or servers, and only the first process writes. All processes must call these functions in the same order.
"""

import contextlib
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from srt_jax.errors import raised_by_all
from srt_jax.runtime import is_first_process

CHUNK, LARGE_CHUNK = 1 << 16, 1 << 22  # bytes of one broadcast; each shape compiles once
PARTS = 1_000_000  # a share of work is sent as a whole number of these parts
WORD = 1 << 30  # numbers are sent as two int32: quotient and remainder
Report = Callable[[float, int], None]  # (share of the work that is done, tokens so far)

_thread = threading.local()


def decides_alone() -> bool:
    """Tells whether this thread decides without the other processes: there are none, or `alone` is in force."""
    return jax.process_count() == 1 or getattr(_thread, "alone", False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """In this thread and block, the functions of this module do not communicate: this process decides alone."""
    before, _thread.alone = getattr(_thread, "alone", False), True
    try:
        yield
    finally:
        _thread.alone = before


def from_first(compute: Callable[[], Any]) -> Any:
    """Calls `compute()` in the first process only, alone, and returns its result in all of them.

    If it raises, all processes raise the same exception, and the command line prints it once (errors.raised_by_all);
    RuntimeError if pickle cannot copy it.
    """
    return led_by_first(lambda _: compute(), lambda *_: None)


def led_by_first(compute: Callable[[Report], Any], advanced: Report) -> Any:
    """Like `from_first`, for long work, so that each process can stop it and sees its progress.

    Its messages also keep the processes connected: gloo, for CPUs, gives up a message that is 30 minutes late.

    compute(report) calls report(share, tokens) about every second, in its own thread. At each call every process calls
    advanced(share, tokens). If that raises in one process, `compute` ends and all processes raise the exception.
    """
    if decides_alone():
        return compute(advanced)
    return _lead(compute, advanced) if is_first_process() else _follow(advanced)


def report_together(advanced: Report, share: float, tokens: int) -> None:
    """Calls advanced(share, tokens) in every process. If it raises in one of them, all raise the exception.

    The function must not communicate with other processes.
    """
    if decides_alone():
        advanced(share, tokens)
    else:
        _exchange(True, _exception_in(advanced, share, tokens), share, tokens)


def any_of(flag: bool) -> bool:
    """Tells whether the flag is true in any process."""
    return flag if decides_alone() else bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def gather(value: Any) -> list:
    """The values of all processes, in their order, in all of them."""
    if decides_alone():
        return [value]
    data = pickle.dumps(value)
    size = int(multihost_utils.process_allgather(np.int32(len(data))).max())
    padded = np.zeros(size, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    return [pickle.loads(row.tobytes()) for row in multihost_utils.process_allgather(padded)]


# ---- the protocol of led_by_first: messages of fixed shape, and at the end the result or an exception as bytes


def _lead(compute: Callable[[Report], Any], advanced: Report) -> Any:
    """The first process's part."""
    agreed: list[BaseException] = []  # the exception that ended the work in all processes

    def report(share: float, tokens: int) -> None:
        try:
            _exchange(True, _exception_in(advanced, share, tokens), share, tokens)
        except Exception as e:
            agreed.append(e)
            raise

    result, error = b"", None
    try:
        with alone():
            value = compute(report)
        result = pickle.dumps(value)
    except Exception as e:
        error = e
    if agreed:
        raise agreed[0]
    _exchange(False, error, 0.0, len(result))
    _broadcast(result, len(result))
    return value


def _follow(advanced: Report) -> Any:
    """The part of the other processes."""
    error = None
    while True:
        goes_on, share, number = _exchange(True, error, 0.0, 0)
        if not goes_on:
            return pickle.loads(_broadcast(b"", number))
        error = _exception_in(advanced, share, number)


def _exception_in(advanced: Report, share: float, tokens: int) -> Exception | None:
    """The exception of advanced(share, tokens), in which this process decides alone; None if it raises none."""
    try:
        with alone():
            advanced(share, tokens)
    except Exception as e:
        return e
    return None


def _exchange(goes_on: bool, error: Exception | None, share: float, number: int) -> tuple[bool, float, int]:
    """Sends one message to all processes; returns (goes_on, share, number) of the first one.

    number: tokens so far, at the end the bytes of the result. If a process sends an exception, all of them raise it,
    that of the lowest process if there are several.
    """
    copy = b"" if error is None else _pickled(error)
    message = np.array([goes_on, len(copy), int(share * PARTS), *divmod(number, WORD)], np.int32)
    messages = multihost_utils.process_allgather(message)
    if messages[:, 1].any():
        source = int(np.argmax(messages[:, 1] > 0))
        received = _broadcast(copy if source == jax.process_index() else b"", int(messages[source, 1]), source)
        agreed = error if error is not None and source == jax.process_index() else pickle.loads(received)
        raise raised_by_all(agreed, is_first_process())
    goes_on, _, parts, *words = messages[0].tolist()
    return bool(goes_on), parts / PARTS, words[0] * WORD + words[1]


def _pickled(error: Exception) -> bytes:
    """The exception as bytes; a RuntimeError with its text if another process could not read it."""
    try:
        copy = pickle.dumps(error)
        pickle.loads(copy)
        return copy
    except Exception:  # e.g. a class whose arguments are not its own
        text = f"process {jax.process_index()} failed: {type(error).__name__}: {error}"
        return pickle.dumps(RuntimeError(text))


def _broadcast(data: bytes, size: int, source: int = 0) -> bytes:
    """Returns the `size` bytes of one process in all of them. The others give b""."""
    received, start = np.zeros(size + LARGE_CHUNK, np.uint8), 0
    received[: len(data)] = np.frombuffer(data, np.uint8)
    while start < size:
        chunk = slice(start, start + (LARGE_CHUNK if size - start > 16 * CHUNK else CHUNK))
        received[chunk] = multihost_utils.broadcast_one_to_all(received[chunk], jax.process_index() == source)
        start = chunk.stop
    return received[:size].tobytes()
