"""Runs the trainer and ends it by SIGKILL at the k-th event of a kind, e.g. at the third file operation of an export.

    python -m tests.crash_point KIND K [COUNTS] --config=... (the arguments of srt_jax.main)

An event is an operation on files, which Python reports to an audit hook before it happens, or a call of a function of
CALLS. With K = 0 nothing is killed, and the numbers of events by kind are written to the file COUNTS as JSON.
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
}
KINDS = (*FILES, "rename", *CALLS)


class Events:
    """Counts the events of each kind, and kills this process before the k-th one of `kind`."""

    def __init__(self, kind: str, k: int):
        self.counts: collections.Counter[str] = collections.Counter()
        self._kind, self._k = kind, k
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
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Replaces the arguments of this program by those of the trainer, and runs it."""
    kind, k = sys.argv[1], int(sys.argv[2])
    counts = None if k else pathlib.Path(sys.argv[3])
    sys.argv = [sys.argv[0], *sys.argv[3 if k else 4 :]]
    events = Events(kind, k)
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
