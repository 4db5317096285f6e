"""Majority vote over the answers to one problem. Pure functions; the group ids come from `Grader.groups`."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Vote:
    """The outcome of one problem's vote over n samples.

    n: number of samples, those without an answer included.
    label: the majority's earliest answer. None if no answer can be parsed or the share is below the threshold.
    group: group id of the majority, also below the threshold. -1 if no answer can be parsed.
    share: votes of the majority / n, in [0, 1].
    share_parsed: votes of the majority / number of parseable answers, in [0, 1].
    parsed: number of parseable answers.
    distinct: number of groups.
    tie: does another group have as many votes as the majority?
    counts, representatives: votes and earliest answer of each group, in order of first appearance.
    """

    n: int
    label: str | None
    group: int
    share: float
    share_parsed: float
    parsed: int
    distinct: int
    tie: bool
    counts: tuple[int, ...] = ()
    representatives: tuple[str, ...] = ()

    @property
    def winner(self) -> str | None:
        """The majority's earliest answer, also below the threshold. None if no answer can be parsed."""
        return self.representatives[self.counts.index(max(self.counts))] if self.counts else None

    @property
    def margin(self) -> float:
        """(Votes of the majority - votes of the second group) / n, in [0, 1]. 0 if no sample votes."""
        first, second, *_ = *sorted(self.counts, reverse=True), 0, 0
        return (first - second) / self.n if self.n else 0.0


def majority(answers: Sequence[str | None], groups: Sequence[int], threshold: float = 0.0) -> Vote:
    """The vote of `answers` [n] with group ids `groups` [n]; -1 marks an unparseable answer.

    The largest group is the majority. Of groups with equally many votes, the one whose first sample comes first wins.
    The majority becomes the label if its share of all n samples is at least `threshold`. None, '' and whitespace never
    vote, whatever their group. Raises ValueError if the lengths differ.
    """
    if len(answers) != len(groups):
        raise ValueError(f"{len(answers)} answers but {len(groups)} group ids: give one id for each answer.")
    ids, counts, first = _tally(answers, groups)
    if not ids:
        return Vote(len(answers), None, -1, 0.0, 0.0, 0, 0, False)
    best = max(range(len(ids)), key=lambda k: (counts[k], -first[k]))
    parsed, share = sum(counts), counts[best] / len(answers)
    return Vote(
        n=len(answers),
        label=answers[first[best]] if share >= threshold else None,
        group=ids[best],
        share=share,
        share_parsed=counts[best] / parsed,
        parsed=parsed,
        distinct=len(ids),
        tie=counts.count(counts[best]) > 1,
        counts=tuple(counts),
        representatives=tuple(str(answers[i]) for i in first),
    )


def most_frequent_wrong(vote: Vote, right: Sequence[float], n: int, threshold: float = 0.0) -> str | None:
    """The earliest answer of the largest wrong group; None if none is wrong, or if its votes / n are below threshold.

    right [G]: is the answer of each group right? 1, 0, or NaN if that is unknown. Of equally large groups the first one
    counts.
    """
    wrong = [k for k, value in enumerate(right) if value == 0]
    best = max(wrong, key=lambda k: vote.counts[k], default=None)
    return vote.representatives[best] if best is not None and vote.counts[best] / n >= threshold else None


def soft_votes(answers: Sequence[str | None], groups: Sequence[int]) -> list[float]:
    """Soft rewards [n]: for each sample, votes of its own group / n. A sample that does not vote gets 0."""
    ids, counts, _ = _tally(answers, groups)
    share = {group: count / len(answers) for group, count in zip(ids, counts)}
    return [share[g] if _votes(a, g) else 0.0 for a, g in zip(answers, groups)]


def _votes(answer: str | None, group: int) -> bool:
    return group >= 0 and answer is not None and bool(answer.strip())


def _tally(answers: Sequence[str | None], groups: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """(group ids in order of first appearance, their numbers of votes, the index of their first samples)."""
    order: dict[int, int] = {}
    counts: list[int] = []
    first: list[int] = []
    for index, (answer, group) in enumerate(zip(answers, groups)):
        if not _votes(answer, group):
            continue
        if group not in order:
            order[group] = len(counts)
            counts.append(0)
            first.append(index)
        counts[order[group]] += 1
    return list(order), counts, first
