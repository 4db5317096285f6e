"""Ctrl-C, SIGTERM and SIGHUP while a compiled program runs.

Python runs signal handlers in the main thread, between two of its instructions. While that thread waits for XLA to
compile or to compute, which may take minutes, no handler runs. So a second thread reads the signals from a pipe, and
ends the process if the main thread does not.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType

GRACE = 3.0  # seconds in which the main thread must end its work
SAME = 0.5  # seconds in which a second signal counts as the first one, passed on by a launcher
IMPORTING = "<frozen importlib._bootstrap>"  # the file of Python's functions that import modules
STATUS = 130  # 128 + SIGINT, as in shells
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def watched() -> list[signal.Signals]:
    """SIGNALS, without SIGHUP if this process was started by nohup."""
    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [s for s in SIGNALS if not (nohup and s == signal.SIGHUP)]


def leave_quietly(message: str = "stopped: nothing has begun.") -> None:
    """From now on one of SIGNALS prints `message` and ends the process. For the time in which a program is imported.

    Does nothing if the program was started by the command `srt`, which handles them.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def leave(*_: object) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"\n{message}\n".encode())
        os._exit(STATUS)

    for number in watched():
        signal.signal(number, leave)


class Signals:
    """Handles SIGNALS during the block `with Signals(...) as signals`, in the main thread.

    The first signal sets `requested` and prints `message`. With `leave` it also raises KeyboardInterrupt in the main
    thread, and if the block has not ended after GRACE seconds, the process exits with status 130. It exits at once if
    the main thread imports a module: an exception in the middle of that can crash C++ libraries. A second signal ends
    the process at once, unless it follows within SAME seconds. Child processes must notice by themselves that their
    parent is gone.
    """

    def __init__(self, message: str, leave: bool):
        self.requested, self._message, self._leave = False, message, leave
        self._raised = False
        self._printed = False
        self._printing = threading.RLock()  # reentrant: a handler may interrupt the main thread while it prints

    def __enter__(self):
        self._received, self._pipe = socket.socketpair()
        self._pipe.setblocking(False)
        self._handlers = {s: signal.signal(s, self._in_main_thread) for s in watched()}
        self._fd = signal.set_wakeup_fd(self._pipe.fileno(), warn_on_full_buffer=False)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_):
        if self._leave and self.requested:
            return  # the thread still ends the process after the grace period
        sys.unraisablehook = self._hook
        signal.set_wakeup_fd(self._fd)
        for s, handler in self._handlers.items():
            signal.signal(s, handler)
        self._pipe.close()

    def _in_main_thread(self, _, frame: FrameType | None) -> None:
        self._note()
        if self._leave and not self._raised:  # a second exception would interrupt the clean-up
            self._raised = True
            while frame:
                if frame.f_code.co_filename == IMPORTING:
                    os._exit(STATUS)
                frame = frame.f_back
            raise KeyboardInterrupt

    def _unraisable(self, unraisable) -> None:
        """Raises KeyboardInterrupt again if it was raised in a callback, such as the garbage collector's, and lost."""
        if not self._raised or not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._hook(unraisable)
            return
        self._raised = False
        main = threading.main_thread().ident
        threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()

    def _note(self) -> None:
        """Sets `requested`; the first of both threads writes the message, without `print`, which is not reentrant.

        The other thread waits until it is written, because the main thread may end the process next.
        """
        self.requested = True
        with self._printing:
            if not self._printed:
                self._printed = True
                with contextlib.suppress(OSError):  # the reader of a pipe may be gone, by the same signal
                    os.write(2, f"\n{self._message}\n".encode())

    def _watch(self) -> None:
        """Waits for the first signal, and then for the second one or the end of the grace period."""
        if not self._next():
            return  # the block was left
        self._note()
        asked = time.monotonic()
        self._received.settimeout(GRACE if self._leave else None)
        try:
            # The time is read after a signal only: this thread may have to wait between any two of its lines.
            while self._next():
                if time.monotonic() - asked >= SAME:
                    break
            else:
                return
        except TimeoutError:
            pass
        os._exit(STATUS)

    def _next(self) -> bool:
        """Waits for one of SIGNALS; False if the pipe is closed."""
        while number := self._received.recv(1):
            if number[0] in SIGNALS:
                return True
        return False


def run(work, message: str) -> int:
    """Runs work() and returns its exit status. After a signal, prints `message` and ends the process with status 130.

    An orderly end of Python would wait for programs that XLA's threads still run, and could crash in them. If several
    processes get the signal, collectives of the slower ones fail, so an exception after the signal is no fault.
    """
    signals = Signals(message, leave=True)
    try:
        with signals:
            return work()
    except (Exception, KeyboardInterrupt) as e:
        if not (signals.requested or isinstance(e, KeyboardInterrupt)):
            raise
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # the reader of a pipe may be gone
                stream.flush()
        os._exit(STATUS)
