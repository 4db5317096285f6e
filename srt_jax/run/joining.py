"""A process without a parent that joins others, as in `srt check`, ends with a sentence if they do not come.

The main thread waits in C++. JAX would abort it minutes later, with a stack of C++ functions and no name.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

from srt_jax.log import write
from srt_jax.run.watchdog import STATUS
from srt_jax.runtime.place import Place

POLL = 1.0  # seconds between two tries to reach process 0


@contextlib.contextmanager
def at_most(place: Place, seconds: float) -> Iterator[None]:
    """Ends this process with status 75 if the block, in which it joins the others, lasts longer."""
    joined = threading.Event()
    threading.Thread(target=_wait, args=(place, seconds, joined), name="joining", daemon=True).start()
    try:
        yield
    finally:
        joined.set()


def _wait(place: Place, seconds: float, joined: threading.Event) -> None:
    """Ends this process if it has not joined the others within the time."""
    end, answered = time.monotonic() + seconds, False
    if joined.wait(seconds / 2):
        return
    # Process 0 may have given up just before this one does. Then it has answered before.
    while (left := end - time.monotonic()) > 0:
        answered = answered or place.index == 0 or answers(place.address, left)
        if joined.wait(min(left, POLL)):
            return
    write(f"\n{missing(place, seconds, answered)}", sys.stderr)
    with contextlib.suppress(OSError, ValueError):  # the reader of a pipe may be gone
        sys.stdout.flush()
    os._exit(STATUS)


def missing(place: Place, seconds: float, answered: bool) -> str:
    """The sentence about processes that have not come.

    seconds: stop.join_seconds. answered: something listened at the address of process 0.
    """
    waited = f"has waited {seconds:.0f} s (stop.join_seconds) for the others"
    if place.index is None or place.count is None:
        return f"this process {waited}, which JAX looks for: start the same command on all hosts at the same time."
    if place.index == 0 and place.count == 2:
        reason = "process 1 has not come"
    elif place.index == 0:
        reason = f"not all of processes 1 to {place.count - 1} have come"
    elif place.address and not answered:
        reason = "process 0 does not answer there"
    else:
        reason = "not all of them have come"
    where = f" at {place.address}" if place.address else ""
    opened = " with this address, and open this port between the hosts" if place.address else ""
    return (
        f"process {place.index} of {place.count} {waited}{where}, but {reason}: start the same command in all "
        f"{place.count} processes at the same time{opened}."
    )


def answers(address: str, seconds: float) -> bool:
    """Tells whether a program listens at host:port, and answers within the time."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError, ValueError), socket.create_connection((host.strip("[]"), int(port)), seconds):
        return True
    return False
