"""The messages of the package: one standard logger, one plain line for each message.

    from srt_jax.log import logger
    logger.info("compiling the update ...")   on stdout, in the first process only
    logger.warning("no answer is found")      on stderr as "warning: ...", in every process

In a run of several processes a warning of another process than the first begins with its number. The result of a job (a
table, a JSON object) is no message: jobs print it. Needs no JAX.
"""

import logging
import os
import sys
from typing import Protocol, TextIO


def write(text: str, stream: TextIO, end: str = "\n") -> None:
    """Prints to a stream. A reader that has closed its end of the pipe ends no work of hours: later text is dropped."""
    try:
        print(text, end=end, file=stream, flush=True)
    except BrokenPipeError:
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


console = Console()
logger = logging.getLogger("srt_jax")
logger.setLevel(logging.INFO)
logger.propagate = False  # absl's handler of the root logger would print every warning a second time
logger.addHandler(console)
