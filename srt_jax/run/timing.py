"""Measures the seconds of each phase, estimates the time left, and counts compilations."""

import collections
import contextlib
import time
from collections.abc import Callable, Sequence

import jax

RECENT = 20  # number of steps in the mean: response lengths change over a run


class CompilationCounter:
    """Counts the XLA compilations of this process until it is closed. After warm-up there must be none."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def close(self) -> None:
        """Stops counting. JAX would keep the counter, and call it, until the process ends."""
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        del duration_secs
        self.count += event == "/jax/core/compile/backend_compile_duration"


class Phases:
    """Wall-clock seconds of the named phases of a step: `with phases("sample"): ...`. `total` covers the whole run.

    begins(name), if given, is called at the start of a phase, and at its end with the name "step".
    """

    def __init__(self, total: dict[str, float] | None = None, begins: Callable[[str], None] | None = None):
        self.seconds, self.total, self._begins = {}, dict(total or {}), begins or (lambda _: None)

    @contextlib.contextmanager
    def __call__(self, name: str):
        start = time.perf_counter()
        self._begins(name)
        try:
            yield
        finally:
            self.add({name: time.perf_counter() - start})
            self._begins("step")

    def add(self, seconds: dict[str, float]) -> None:
        """Adds seconds that were measured elsewhere."""
        for name, s in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + s
            self.total[name] = self.total.get(name, 0.0) + s

    def pop(self) -> dict[str, float]:
        """`time/<phase>` since the last call, and their sum as `time/step`."""
        seconds, self.seconds = self.seconds, {}
        return {**{f"time/{name}": s for name, s in seconds.items()}, "time/step": sum(seconds.values())}


class Pace:
    """Estimates the time left of a run from the mean of the last steps, and of all evaluations and checkpoints."""

    def __init__(self, total_steps: int, eval_every: int, save_every: int, evaluations: Sequence[float] = ()):
        """evaluations: seconds of the evaluations before the run was resumed."""
        self._total, self._eval_every, self._save_every = total_steps, eval_every, save_every
        self._steps = collections.deque(maxlen=RECENT)
        self._evaluations, self._saves = list(evaluations), []
        self._first: float | None = None

    def add(self, seconds: dict[str, float]) -> None:
        """Adds the result of Phases.pop() after a step, or after the evaluation before the first step."""
        if "time/eval" in seconds:
            self._evaluations.append(seconds["time/eval"])
        if "time/save" in seconds:
            self._saves.append(seconds["time/save"])
        if "time/update" not in seconds:
            return
        step = seconds_of_step(seconds)
        if self._first is None:  # it may include compilation, so it counts only until there is a second one
            self._first = step
        else:
            self._steps.append(step)

    def seconds_left(self, step: int) -> float | None:
        """Seconds from the end of this step to the end of the last one; None before the first step."""
        if self._first is None:
            return None
        evaluated = {*_multiples(self._eval_every, step, self._total), *_multiples(self._total, step, self._total)}
        saved = evaluated | set(_multiples(self._save_every, step, self._total))
        return (
            _mean(self._steps or [self._first]) * (self._total - step)
            + _mean(self._evaluations) * len(evaluated)
            + _mean(self._saves) * len(saved)
        )


def seconds_of_step(seconds: dict[str, float]) -> float:
    """The seconds of a step without evaluation and checkpoint, from its `time/*`."""
    return seconds["time/step"] - seconds.get("time/eval", 0.0) - seconds.get("time/save", 0.0)


def _multiples(every: int, after: int, last: int) -> range:
    return range((after // every + 1) * every, last + 1, every)


def _mean(values) -> float:
    return sum(values) / len(values) if values else 0.0
