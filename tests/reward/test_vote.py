"""Majority votes: shares, ties, thresholds, and who may vote."""

import pytest

from srt_jax.reward.votes import majority, soft_votes


def test_shares_and_counts():
    vote = majority(["1/2", "0.5", "3", None], [0, 0, 1, -1])
    assert (vote.label, vote.group) == ("1/2", 0)
    assert (vote.share, vote.share_parsed) == (0.5, 2 / 3)
    assert (vote.parsed, vote.distinct, vote.tie) == (3, 2, False)
    assert (vote.counts, vote.representatives) == ((2, 1), ("1/2", "3"))


def test_ties_go_to_the_earliest_sample():
    vote = majority(["b", "a", "a", "b"], [0, 1, 1, 0])
    assert (vote.label, vote.tie) == ("b", True)
    assert majority([None, "a", "b"], [-1, 5, 2]).label == "a"


def test_nobody_parsed():
    vote = majority([None, ""], [-1, -1])
    assert (vote.label, vote.group, vote.share, vote.parsed, vote.distinct) == (None, -1, 0.0, 0, 0)
    assert majority([], []).label is None


def test_the_margin_is_the_lead_over_the_second_answer():
    for votes, margin in (
        ("aaaaabbc", 3 / 8),
        ("abbccccc", 3 / 8),
        ("aaaaaa..", 0.75),
        ("aaabbb..", 0.0),
        ("....", 0.0),
    ):
        answers = [None if answer == "." else answer for answer in votes]
        vote = majority(answers, [-1 if answer is None else ord(answer) for answer in answers])
        assert (vote.margin, vote.n) == (margin, len(votes))
    assert majority([], []).margin == 0.0


def test_empty_strings_never_vote():
    assert majority(["", " ", "7"], [0, 0, 1]).label == "7"
    assert soft_votes(["", "7"], [0, 1]) == [0.0, 0.5]


def test_threshold_is_on_all_rollouts():
    answers, groups = ["1", "1", None, None], [0, 0, -1, -1]
    assert majority(answers, groups, threshold=0.5).label == "1"
    below = majority(answers, groups, threshold=0.51)
    assert (below.label, below.group, below.share) == (None, 0, 0.5)


def test_soft_votes():
    assert soft_votes(["a", "b", "a", None], [0, 1, 0, -1]) == [0.5, 0.25, 0.5, 0.0]


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 answers but 1"):
        majority(["a", "b"], [0])
