import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from srt_jax.data.batching import _epoch_order, batch_indices, refill_order
from srt_jax.errors import DataError


@st.composite
def sizes(draw):
    num_problems = draw(st.integers(1, 60))
    return num_problems, draw(st.integers(1, num_problems))


def steps_of(num_problems, prompts_per_step, seed, steps):
    return [batch_indices(num_problems, prompts_per_step, seed, step) for step in steps]


@settings(max_examples=300, deadline=None)
@given(sizes(), st.integers(0, 2**40), st.integers(0, 5000))
@example((30, 16), 0, 0)
@example((17, 16), 0, 0)
@example((16, 16), 3, 7)
@example((1, 1), 0, 0)
def test_a_step_holds_no_problem_twice(size, seed, step):
    num_problems, prompts_per_step = size
    batch = batch_indices(num_problems, prompts_per_step, seed, step)
    assert batch.shape == (prompts_per_step,) and batch.dtype == np.int64
    assert len(set(batch.tolist())) == prompts_per_step
    assert batch.min() >= 0 and batch.max() < num_problems


@settings(max_examples=200, deadline=None)
@given(sizes(), st.integers(0, 2**40))
@example((30, 16), 0)
@example((17, 16), 1)
def test_the_stream_of_steps_is_a_stream_of_whole_epochs(size, seed):
    num_problems, prompts_per_step = size
    stream = np.concatenate(steps_of(num_problems, prompts_per_step, seed, range(4 * num_problems // prompts_per_step)))
    for epoch in range(len(stream) // num_problems):
        seen = stream[epoch * num_problems : (epoch + 1) * num_problems]
        assert sorted(seen.tolist()) == list(range(num_problems))


@settings(max_examples=200, deadline=None)
@given(sizes(), st.integers(0, 2**40), st.integers(0, 100), st.integers(1, 100))
def test_in_any_window_of_steps_problems_are_seen_equally_often(size, seed, start, length):
    num_problems, prompts_per_step = size
    window = np.concatenate(steps_of(num_problems, prompts_per_step, seed, range(start, start + length)))
    counts = np.bincount(window, minlength=num_problems)
    # In a window from step 0 only the last epoch can be incomplete. In other windows the first one can be, too.
    assert counts.max() - counts.min() <= (1 if start == 0 else 2)


@settings(max_examples=50, deadline=None)
@given(sizes(), st.integers(0, 2**40), st.lists(st.integers(0, 300), min_size=1, max_size=10))
def test_a_step_does_not_depend_on_the_steps_asked_for_before(size, seed, steps):
    asked = {}
    for step in steps:
        _epoch_order.cache_clear()
        asked[step] = batch_indices(*size, seed, step)
    for step in sorted(asked):
        assert np.array_equal(batch_indices(*size, seed, step), asked[step])


def test_the_order_is_pinned():
    # A change here changes the data of every resumed run.
    assert batch_indices(30, 16, 0, 1).tolist() == [4, 3, 12, 26, 24, 10, 15, 14, 6, 18, 29, 23, 7, 27, 17, 22]
    assert batch_indices(30, 16, 0, 1).tolist() != batch_indices(30, 16, 1, 1).tolist()


def test_epochs_and_seeds_differ():
    epochs = [np.concatenate(steps_of(100, 20, seed, range(5 * e, 5 * e + 5))) for seed in (0, 1) for e in (0, 1, 2)]
    assert len({tuple(order.tolist()) for order in epochs}) == len(epochs)


def test_positions_of_an_epoch_are_uniform():
    # The exchange between two epochs must not favour a problem: each is first in an epoch about equally often.
    firsts = np.bincount([_epoch_order(8, 5, seed, 3)[0] for seed in range(4000)], minlength=8)
    assert abs(firsts - 500).max() < 100  # 500 expected, standard deviation 21


def test_a_caller_may_change_what_it_got():
    first = batch_indices(30, 16, 0, 0)
    first[:] = 0
    assert batch_indices(30, 16, 0, 0).tolist() != first.tolist()


@pytest.mark.parametrize("prompts_per_step", [0, 31])
def test_more_prompts_than_problems_is_an_error(prompts_per_step):
    message = f"batch.prompts_per_step is {prompts_per_step} but the data set has 30 problems; .* between 1 and 30"
    with pytest.raises(DataError, match=message):
        batch_indices(30, prompts_per_step, 0, 0)


def test_refills_are_all_the_others_in_an_order_of_the_step():
    own = batch_indices(20, 8, 0, 3)
    orders = [refill_order(20, seed, step, own).tolist() for seed, step in ((0, 4), (0, 4), (0, 5), (1, 4))]
    assert orders[0] == orders[1] and orders[0] not in orders[2:]
    assert sorted([*orders[0], *own]) == list(range(20))
