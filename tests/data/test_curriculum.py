import dataclasses
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from srt_jax.config import base
from srt_jax.data.base import Problem
from srt_jax.data.curriculum import Curriculum
from srt_jax.errors import DataError


@st.composite
def curricula(draw):
    per_step = draw(st.integers(1, 12))
    sizes = [draw(st.integers(per_step, 40)) for _ in range(2)]
    indices = np.random.default_rng(draw(st.integers(0, 9))).permutation(sum(sizes))
    shares = st.floats(0, 1)
    return Curriculum(
        np.sort(indices[: sizes[0]]),
        np.sort(indices[sizes[0] :]),
        draw(shares),
        draw(shares),
        draw(st.integers(1, 60)),
        per_step,
        draw(st.integers(0, 2**40)),
    )


TIGHT = Curriculum(np.arange(8), np.arange(8, 13), 0.2, 0.6, 30, 8, 0)  # a step may need the whole pool


def epochs_of(stream, pool):
    """The sequence of problems that were taken from a pool, split into epochs."""
    return [stream[i : i + len(pool)] for i in range(0, len(stream), len(pool))]


@settings(max_examples=15, deadline=None)
@given(curricula())
@example(TIGHT)
def test_steps_hold_no_problem_twice_and_pools_are_seen_in_whole_epochs(c):
    steps = [c.indices(step) for step in range(50)]
    for step, chosen in enumerate(steps):
        assert chosen.shape == (c.prompts_per_step,) and chosen.dtype == np.int64
        assert len(set(chosen.tolist())) == c.prompts_per_step, step
    for pool in (c.easy, c.hard):
        stream = [i for chosen in steps for i in chosen.tolist() if i in pool]
        for epoch in epochs_of(stream, pool):
            assert len(set(epoch)) == len(epoch)
            assert len(epoch) < len(pool) or sorted(epoch) == pool.tolist()


@settings(max_examples=30, deadline=None)
@given(curricula(), st.integers(0, 100))
def test_the_share_of_hard_problems_grows_linearly(c, step):
    hard = np.isin(c.indices(step), c.hard).sum()
    share = c.hard_start + min(1.0, step / c.steps) * (c.hard_end - c.hard_start)
    assert abs(hard - share * c.prompts_per_step) <= 0.5 + 1e-9
    assert c.num_hard(step) == hard


def test_the_order_depends_on_the_seed_and_the_epoch():
    orders = {tuple(dataclasses.replace(TIGHT, seed=seed).indices(step)) for seed in range(3) for step in range(5)}
    assert len(orders) == 15
    assert TIGHT.indices(17).tolist() == TIGHT.indices(17).tolist()


def configured(tmp_path, scores, **fields):
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps({"id": id, "label": "1", "vote_share": s}) + "\n" for id, s in scores.items()))
    config = base()
    config.batch.prompts_per_step = 2
    config.curriculum.update({"path": str(path), "easy_fraction": 0.5, "steps": 10} | fields)
    return config


def problems(names):
    return [Problem(name, "?", None, "test") for name in names]


def test_scores_decide_what_is_easy_and_ids_decide_ties(tmp_path):
    config = configured(tmp_path, {"a": 0.2, "d": 0.5, "c": 0.5, "b": 0.9, "elsewhere": 1.0})
    found = Curriculum.of(config, problems("dcba"))
    assert found.easy.tolist() == [1, 2] and found.hard.tolist() == [0, 3]  # b and c; d and a
    assert sorted(found.indices(0).tolist()) == [1, 2] and sorted(found.indices(10).tolist()) == [0, 3]


def test_what_a_curriculum_lacks_is_said(tmp_path):
    scores = {"a": 0.2, "b": 0.5, "c": 0.5}
    with pytest.raises(DataError, match=r"2 of 4 problems have no row in .*labels.jsonl, e\.g\. 'x'"):
        Curriculum.of(configured(tmp_path, scores), problems("abxy"))
    with pytest.raises(DataError, match="wants 2 hard problems in a step, but there are 1"):
        Curriculum.of(configured(tmp_path, scores), problems("abc"))
    with pytest.raises(DataError, match="needs pass_rate of all problems"):
        Curriculum.of(configured(tmp_path, scores, by="pass_rate"), problems("abc"))
