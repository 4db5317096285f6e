"""Ctrl-C, SIGTERM and SIGHUP while a compiled program runs.

Python runs its signal handlers in the main thread, between two of its instructions. While that thread waits for XLA to
compile or to compute, which may take minutes, nothing happens. So a second thread reads the signals from a pipe, and
ends the process where the main thread does not.
"""

import os
import signal
import socket
import threading
import time

GRACE = 3.0  # seconds that the main thread has to leave what it does
SAME = 0.5  # seconds in which a second signal is the first one again: launchers pass on what the whole group received
STATUS = 130  # 128 + SIGINT, as shells have it
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """`with Signals(...) as signals`: what happens on SIGNALS in this block, which is the main thread's.

    The first one sets `requested` and prints `message`. With `leave` it also raises KeyboardInterrupt in the main
    thread, and ends the process with status 130 where that has not come to its end after GRACE seconds. A second one
    ends the process at once, unless it follows within SAME seconds. Child processes must notice by themselves that
    their parent is gone.
    """

    def __init__(self, message: str, leave: bool):
        self.requested, self._message, self._leave = False, message, leave
        self._raised = False
        self._unsaid = threading.Lock()  # the thread that acquires it prints the message

    def __enter__(self):
        self._received, self._pipe = socket.socketpair()
        self._pipe.setblocking(False)
        watched = [s for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN]  # nohup ignores SIGHUP
        self._handlers = {s: signal.signal(s, self._in_main_thread) for s in watched}
        self._fd = signal.set_wakeup_fd(self._pipe.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_):
        if self._leave and self.requested:
            return  # the thread still sees to it that the process ends
        signal.set_wakeup_fd(self._fd)
        for s, handler in self._handlers.items():
            signal.signal(s, handler)
        self._pipe.close()

    def _in_main_thread(self, *_) -> None:
        self._note()
        if self._leave and not self._raised:  # a second one would end the cleaning up
            self._raised = True
            raise KeyboardInterrupt

    def _note(self) -> None:
        """The first of both threads says so; not by `print`, which must not be entered twice."""
        self.requested = True
        if self._unsaid.acquire(blocking=False):
            os.write(2, f"\n{self._message}\n".encode())

    def _watch(self) -> None:
        """Waits for the first signal, then for the second, or for the end of the grace."""
        if not self._next():
            return  # the block was left
        self._note()
        asked = time.monotonic()
        self._received.settimeout(GRACE if self._leave else None)
        try:
            while time.monotonic() - asked < SAME:
                if not self._next():
                    return
        except TimeoutError:
            pass
        os._exit(STATUS)

    def _next(self) -> bool:
        """Waits for a signal that is ours; False where the pipe is closed."""
        while number := self._received.recv(1):
            if number[0] in SIGNALS:
                return True
        return False


def run(work, message: str) -> int:
    """The exit status of work(); 130, after `message`, where Ctrl-C or SIGTERM ended it."""
    with Signals(message, leave=True):
        try:
            return work()
        except KeyboardInterrupt:
            return STATUS
