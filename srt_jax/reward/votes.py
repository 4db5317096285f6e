"""Majority vote over the answers to one problem. Pure: no parsing, no processes; `groups` come from `Grader.groups`."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Vote:
    """The outcome of one problem's vote.

    label: text of the label's earliest voter; None when nobody could be parsed or the share is below the threshold.
    group: group id of the majority (also below the threshold), -1 when nobody could be parsed.
    share, share_parsed: votes of the majority / n and / parseable answers, in [0, 1].
    parsed, distinct: parseable answers and distinct groups. tie: another group has as many votes.
    counts, representatives: votes and earliest text of each group, in order of first appearance (for the log).
    """

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
        """Text of the largest group, also below the threshold; None when nobody could be parsed."""
        return self.representatives[self.counts.index(max(self.counts))] if self.counts else None


def majority(answers: Sequence[str | None], groups: Sequence[int], threshold: float = 0.0) -> Vote:
    """The largest group of `answers` [n]; `groups` [n] are group ids, -1 where unparseable. Ties go to the earliest
    sample.

    A label needs share >= threshold, the share over all n rollouts. None, '' and whitespace never vote, whatever
    their group.
    """
    if len(answers) != len(groups):
        raise ValueError(f"{len(answers)} answers but {len(groups)} group ids; give one id for each answer")
    ids, counts, first = _tally(answers, groups)
    if not ids:
        return Vote(None, -1, 0.0, 0.0, 0, 0, False)
    best = max(range(len(ids)), key=lambda k: (counts[k], -first[k]))
    parsed, share = sum(counts), counts[best] / len(answers)
    return Vote(
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


def soft_votes(answers: Sequence[str | None], groups: Sequence[int]) -> list[float]:
    """For each rollout [n] the share (of all n) of its own group: a soft reward. 0 for rollouts that cannot vote."""
    ids, counts, _ = _tally(answers, groups)
    share = {group: count / len(answers) for group, count in zip(ids, counts)}
    return [share[g] if _votes(a, g) else 0.0 for a, g in zip(answers, groups)]


def _votes(answer: str | None, group: int) -> bool:
    return group >= 0 and answer is not None and bool(answer.strip())


def _tally(answers: Sequence[str | None], groups: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Group ids in order of first appearance, their vote counts, and the sample index of each first appearance."""
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
