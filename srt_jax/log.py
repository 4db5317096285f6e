"""The messages of the package: one standard logger, one plain line for each message.

    from srt_jax.log import logger
    logger.info("compiling the update ...")   on stdout, in the first process only
    logger.warning("no answer is found")      on stderr as "warning: ...", in every process

In a run of several processes, a warning of any process but the first begins with its number. Jobs print their results
(a table, a JSON object) themselves. Needs no JAX.
"""

import logging
import os
import pathlib
import sys
import threading
from typing import Protocol, TextIO

import absl.logging


def write(text: str, stream: TextIO, end: str = "\n") -> None:
    """Prints to a stream. If the reader has closed the pipe, this and all later text is dropped; the work continues."""
    try:
        print(text, end=end, file=stream, flush=True)
    except BrokenPipeError:
        drop(stream)


def drop(stream: TextIO) -> None:
    """Drops all later text of a stream whose reader has closed the pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Line(Protocol):
    """A line that is rewritten in place on a terminal (srt_jax/run/progress.py)."""

    def note(self, text: str, stream: TextIO | None = None) -> None:
        """Prints the text above the line."""


class Console(logging.Handler):
    """Writes messages to the streams that sys.stdout and sys.stderr name at that moment, above any progress line."""

    def __init__(self):
        super().__init__()
        self.process = 0  # number of this process in the run
        self.lines: list[Line] = []  # open progress lines, the newest last

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one message."""
        text, warns = self.format(record), record.levelno >= logging.WARNING
        if self.process and not warns:
            return
        if warns:
            text = f"warning: {text}"
        if self.process:
            text = f"process {self.process}: {text}"
        stream = sys.stderr if warns else sys.stdout
        if self.lines:
            self.lines[-1].note(text, stream)
        else:
            write(text, stream)


def others_to_file(path: pathlib.Path) -> None:
    """Sends the messages of other libraries to a file from now on, until the process ends.

    On a full disk, orbax alone logs 200 lines of tracebacks, which would bury our sentence. Some messages come from C++
    threads at exit, so the handlers are never restored.
    """
    file = logging.FileHandler(path, delay=True)  # no message, no file
    file.setLevel(logging.WARNING)
    file.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    file.handleError = lambda record: None  # type: ignore[method-assign]  # the disk may be full
    root, hook = logging.getLogger(), sys.excepthook
    root.handlers[:] = [file]
    absl.logging.get_absl_handler().handle = file.handle  # type: ignore[method-assign]  # libraries install it again

    def store(message: str, error) -> None:
        file.handle(root.makeRecord("thread", logging.ERROR, "", 0, message, (), error))

    def uncaught(*error) -> None:
        if threading.current_thread() is threading.main_thread():
            hook(*error)
        else:
            store("uncaught", error)

    def in_thread(error: threading.ExceptHookArgs) -> None:
        if error.exc_type is not SystemExit:
            store("uncaught", (error.exc_type, error.exc_value, error.exc_traceback))

    def unraisable(error: "sys.UnraisableHookArgs") -> None:
        store(str(error.err_msg), (error.exc_type, error.exc_value, error.exc_traceback))

    # Threads of C++ use the first one, tensorstore's the second one, TensorBoard's writer the third one.
    sys.excepthook, sys.unraisablehook, threading.excepthook = uncaught, unraisable, in_thread


console = Console()
logger = logging.getLogger("srt_jax")
logger.setLevel(logging.INFO)
logger.propagate = False  # absl's handler of the root logger would print every warning a second time
logger.addHandler(console)
