"""Rollouts as a table of prompts x samples: selecting and joining."""

import dataclasses

import numpy as np
import pytest

from srt_jax.rollout.sampler import ARRAYS, Rollouts


def rollouts(prompts=4, n=3, T=5, seed=0, version=7) -> Rollouts:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, T + 1, (prompts, n), dtype=np.int32)
    inside = np.arange(T) < lengths[..., None]
    return Rollouts(
        rng.integers(1, 9, (prompts, 2)).tolist(),
        np.where(inside, rng.integers(1, 9, (prompts, n, T)), 0),
        lengths,
        np.where(inside, -rng.random((prompts, n, T)), 0.0),
        rng.random((prompts, n)) < 0.5,
        version,
    )


def same(a: Rollouts, b: Rollouts) -> bool:
    return (
        a.prompts == b.prompts
        and a.version == b.version
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ARRAYS)
    )


def test_arrays_are_all_the_arrays():
    fields = {f.name for f in dataclasses.fields(Rollouts)}
    assert fields == {*ARRAYS, "prompts", "version"}


def test_take_keeps_prompts_with_their_responses_in_the_given_order():
    r = rollouts()
    taken = r.take([2, 0])
    assert taken.prompts == [r.prompts[2], r.prompts[0]]
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(taken, name), np.stack([getattr(r, name)[2], getattr(r, name)[0]]))
    assert r.take(np.array([], int)).tokens.shape == (0, 3, 5)


def test_first_keeps_the_first_samples_of_every_prompt():
    r = rollouts()
    few = r.first(2)
    assert few.prompts == r.prompts
    assert [[x.tolist() for x in row] for row in few.responses()] == [
        [x.tolist() for x in row[:2]] for row in r.responses()
    ]
    np.testing.assert_array_equal(few.logprobs, r.logprobs[:, :2])
    np.testing.assert_array_equal(few.stopped, r.stopped[:, :2])


def test_join_undoes_take():
    r = rollouts()
    assert same(Rollouts.join([r.take([0]), r.take([1, 2]), r.take([3])]), r)


@pytest.mark.parametrize("other", [dict(T=6), dict(n=2), dict(version=8)])
def test_join_refuses_rollouts_that_do_not_go_together(other):
    with pytest.raises(ValueError, match="do not go together"):
        Rollouts.join([rollouts(), rollouts(**other)])
