"""A pool of worker processes with wall-clock limits. It takes tasks and returns values, and no call waits forever.

It installs no signal handler, starts no thread and uses no worker that a fork inherited. Therefore it works the same in
any thread, inside an event loop and in a forked child, which starts its own workers. Workers are separate programs, so
they share neither memory nor accelerators with the trainer.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

STARTUP_SECONDS = 90.0  # time to import sympy or reasoning_gym and build a data set, on a busy machine
RECYCLE_AFTER = 2_000  # tasks after which a worker is replaced, because sympy's caches grow
LOOK_SECONDS = 1.0  # between two looks whether the call was abandoned
SKIPPED = object()  # the value of a task that was not tried
_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()


class AbandonedError(Exception):
    """Another thread has abandoned the tasks of this call."""


class Worker:
    """One process and its pipes."""

    def __init__(self, memory_mb: int, isolated: bool = False):
        root = str(Path(__file__).resolve().parents[2])
        environment = dict(os.environ, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", PYTHONHASHSEED="0")
        environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "srt_jax.grading.worker", str(memory_mb), *(["--isolated"] if isolated else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
        )
        self.ready = False
        self.tasks = 0
        self.buffer = b""

    def send(self, message: dict) -> None:
        self.tasks += 1
        data = memoryview(json.dumps(message, default=lambda fraction: {"f": str(fraction)}).encode() + b"\n")
        while data:
            data = data[os.write(self.process.stdin.fileno(), data) :]

    def receive(self) -> list[dict] | None:
        """The complete messages that have arrived; None if the worker has closed its output."""
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        if not data:
            return None
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def stop(self) -> None:
        self.process.kill()
        self.release()
        self.process.wait()

    def release(self) -> None:
        """Closes this process's ends of the pipes."""
        self.process.stdin.close()
        self.process.stdout.close()


@dataclass
class Job:
    """A running task: its index, its worker, its deadline, and whether its clock has started."""

    index: int
    worker: Worker
    deadline: float
    started: bool = False


class Pool:
    """A pool of `size` workers, which start when they are first needed.

    isolated: whether the workers have no network. `network` says how it is closed: "namespace" or "blocked", or "open"
    if it is not; "" before a worker has started. `counts` has timeouts, crashes, errors, skipped and restarts.
    """

    def __init__(self, size: int, memory_mb: int, isolated: bool = False):
        self.size, self.memory_mb, self.isolated = size, memory_mb, isolated
        self.network = ""
        self.counts: Counter[str] = Counter()
        self._idle: list[Worker] = []
        self._lock, self._abandoned = threading.Lock(), False
        _pools.add(self)
        weakref.finalize(self, _stop, self._idle)  # stops the workers when the pool is freed or the program ends

    def run(self, tasks: Sequence[dict], timeout: float, budget: float) -> list:
        """The value of each task. None if it timed out, crashed or failed; SKIPPED if the budget was spent before it.

        timeout: seconds for each task. budget: seconds for all tasks, from the start of the first. Raises
        AbandonedError within LOOK_SECONDS in a block of `abandoned`.
        """
        with self._lock:
            return self._run(tasks, timeout, budget) if tasks else []

    def _run(self, tasks: Sequence[dict], timeout: float, budget: float) -> list:
        values: list = [None] * len(tasks)
        waiting, jobs = deque(range(len(tasks))), {}
        give_up: float | None = None  # set when the first task starts: starting workers costs no budget
        with selectors.DefaultSelector() as selector:
            try:
                while waiting or jobs:
                    if self._abandoned:
                        raise AbandonedError
                    while waiting and len(jobs) < self.size:
                        job = self._dispatch(waiting.popleft(), tasks, timeout)
                        jobs[job.worker.process.stdout.fileno()] = job
                        selector.register(job.worker.process.stdout, selectors.EVENT_READ)
                    next_deadline = min(job.deadline for job in jobs.values())
                    patience = min(LOOK_SECONDS, next_deadline - time.monotonic())
                    for ready, _ in selector.select(max(0.0, patience)):
                        job = jobs[ready.fd]
                        over = self._progress(job, values, timeout)
                        if give_up is None and job.started:
                            give_up = time.monotonic() + budget
                        if over:
                            self._finish(jobs, ready.fd, selector)
                    now = time.monotonic()
                    for fd in [fd for fd, job in jobs.items() if job.deadline <= now]:
                        self.counts["timeouts"] += 1
                        jobs[fd].worker.ready = False
                        self._finish(jobs, fd, selector)
                    if give_up is not None and now > give_up and waiting:
                        self.counts["skipped"] += len(waiting)
                        for index in waiting:
                            values[index] = SKIPPED
                        waiting.clear()
            finally:  # an interrupt must leave no worker with a half-read reply
                for job in jobs.values():
                    job.worker.stop()
        return values

    def _dispatch(self, index: int, tasks: Sequence[dict], timeout: float) -> Job:
        message = {**tasks[index], "id": index, "limit_s": timeout}
        while self._idle:
            worker = self._idle.pop()
            try:
                worker.send(message)
            except OSError:  # the idle worker died, e.g. it was killed for its memory use
                self.counts["crashes"] += 1
                self.counts["restarts"] += 1
                worker.stop()
                continue
            return Job(index, worker, time.monotonic() + STARTUP_SECONDS)
        worker = Worker(self.memory_mb, self.isolated)
        with contextlib.suppress(OSError):  # the worker died at once; _progress sees the end of its output and reports
            worker.send(message)
        return Job(index, worker, time.monotonic() + STARTUP_SECONDS)

    def _progress(self, job: Job, values: list, timeout: float) -> bool:
        """Reads a worker's output. Returns True if its task is finished."""
        messages = job.worker.receive()
        if messages is None:
            if not job.worker.ready:
                job.worker.stop()
                raise RuntimeError(
                    "a grading worker ended before it was ready; run `python -m srt_jax.grading.worker 1024` to see why"
                )
            self.counts["crashes"] += 1
            job.worker.ready = False
            return True
        for message in messages:
            if "ready" in message:
                job.worker.ready, self.network = True, message.get("network", "")
            elif message.get("id") != job.index:
                continue
            elif "started" in message:
                job.started, job.deadline = True, time.monotonic() + timeout
            elif "broken" in message:  # a missing package or an unknown task must not become a reward of 0
                raise RuntimeError(f"a grading worker cannot be set up: {message['broken']}")
            else:
                self.counts["errors"] += "error" in message
                values[job.index] = message.get("value")
                return True
        return False

    def _finish(self, jobs: dict[int, Job], fd: int, selector: selectors.BaseSelector) -> None:
        worker = jobs.pop(fd).worker
        selector.unregister(worker.process.stdout)
        if worker.ready and worker.tasks < RECYCLE_AFTER:
            self._idle.append(worker)
        else:
            self.counts["restarts"] += 1
            worker.stop()

    @contextlib.contextmanager
    def abandoned(self) -> Iterator[None]:
        """During the block, calls of `run` in other threads raise AbandonedError."""
        self._abandoned = True
        try:
            yield
        finally:
            self._abandoned = False

    def close(self) -> None:
        """Stops all workers. The next task starts new ones."""
        with self._lock:
            _stop(self._idle)

    def forget(self) -> None:
        """Drops the workers and the lock in a forked child.

        The workers belong to the parent. A thread of the parent, which the child lacks, may hold the lock.
        """
        self._lock = threading.Lock()
        for worker in self._idle:
            worker.release()
        self._idle.clear()


def _stop(workers: list[Worker]) -> None:
    while workers:
        workers.pop().stop()


def _after_fork_in_child() -> None:
    for pool in _pools:
        pool.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
