"""Runs the trainer and sends it a signal at the k-th event of a kind, e.g. at the third file operation of an export.

    python -m tests.crash_point SIGKILL KIND K --config=... (the arguments of srt_jax.main)
    python -m tests.crash_point SIGTERM KIND K+SECONDS --config=...
    python -m tests.crash_point COUNTS --config=...

The second form sends the signal so many seconds after the event. An event is an operation on files, which Python
reports to an audit hook before it happens, or a call of a function of CALLS. The time of the signal is printed, and the
CPU seconds of the process so far. The third form sends no signal, and writes the number of events of each kind to the
file COUNTS as JSON.
"""

import collections
import functools
import importlib
import json
import os
import pathlib
import re
import runpy
import signal
import sys
import threading
import time

# kind -> the paths of its file operations
FILES = {
    "save": r"/checkpoints/\.partial",
    "retain": r"/checkpoints/(\.deleted|newest|\d+$)",
    "rollouts": r"/rollouts/",
    "records": r"metrics\.jsonl|events\.out",
    "export": r"/\.?(final|best)[./]|/summary\.json",
    "publish": r"/weights/",
}
OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
# kind -> the functions whose calls are events. "reload": the requests to a vLLM server.
CALLS = {
    "grading": [("srt_jax.grading.grader", "Grader", "groups"), ("srt_jax.grading.grader", "Grader", "grade")],
    "reload": [("srt_jax.rollout.vllm.client", None, "call")],
    "sampling": [("srt_jax.train", None, "collect_step")],
    "evaluation": [("srt_jax.train", None, "evaluate_sets")],
    "update": [("srt_jax.train", None, "learn")],
}
SENT = "signal sent at "
KINDS = (*FILES, "rename", *CALLS)


class Events:
    """Counts the events of each kind, and sends this process a signal before the k-th one of `kind`, or later."""

    def __init__(self, number: int, kind: str, k: int, after: float = 0.0):
        """after: seconds between the event and the signal."""
        self.counts: collections.Counter[str] = collections.Counter()
        self._number, self._kind, self._k, self._after = number, kind, k, after
        self._patterns = {name: re.compile(pattern) for name, pattern in FILES.items()}

    def audit(self, event: str, arguments: tuple) -> None:
        """The audit hook. A rename is an event of `rename` and of the kind of its paths."""
        if event not in OPERATIONS:
            return
        text = " ".join(os.fspath(path) for path in arguments[:2] if isinstance(path, str | os.PathLike))
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if event == "os.rename":
            self.happens("rename")
        for kind, pattern in self._patterns.items():
            if pattern.search(text):
                self.happens(kind)

    def counted(self, kind: str, function):
        """The function, with an event before each call."""

        @functools.wraps(function)
        def call(*args, **kwargs):
            self.happens(kind)
            return function(*args, **kwargs)

        return call

    def happens(self, kind: str) -> None:
        """Counts one event."""
        self.counts[kind] += 1
        if kind == self._kind and self.counts[kind] == self._k:
            if self._after:
                threading.Timer(self._after, self._send).start()
            else:
                self._send()

    def _send(self) -> None:
        os.write(2, f"{SENT}{time.time()} {time.process_time()}\n".encode())
        os.kill(os.getpid(), self._number)


def main() -> None:
    """Replaces the arguments of this program by those of the trainer, and runs it."""
    first, counts = sys.argv[1], None
    if first in signal.Signals.__members__:
        k, _, after = sys.argv[3].partition("+")
        events = Events(signal.Signals[first], sys.argv[2], int(k), float(after or 0))
        sys.argv[1:4] = []
    else:
        events, counts = Events(0, "", 0), pathlib.Path(first)
        sys.argv[1:2] = []
    for name, functions in CALLS.items():
        for module, owner, function in functions:
            where = importlib.import_module(module)
            where = getattr(where, owner) if owner else where
            setattr(where, function, events.counted(name, getattr(where, function)))
    sys.addaudithook(events.audit)
    try:
        runpy.run_module("srt_jax.main", run_name="__main__", alter_sys=True)
    finally:
        if counts:
            counts.write_text(json.dumps(events.counts))


if __name__ == "__main__":
    main()
