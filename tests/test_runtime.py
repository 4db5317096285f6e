import jax.numpy as jnp
import pytest

from srt_jax.runtime import profiled


def traces(directory):
    return list(directory.rglob("*.xplane.pb"))


def test_the_third_to_the_fifth_step_are_traced(tmp_path):
    seen, written = [], []
    for step in profiled(range(11, 18), tmp_path):
        seen.append(step)
        written.append(len(traces(tmp_path)))
        (jnp.ones(8) + step).block_until_ready()
    assert seen == list(range(11, 18))
    assert written == [0, 0, 0, 0, 0, 1, 1]  # the file is complete when the sixth step begins
    assert b"step" in traces(tmp_path)[0].read_bytes()


@pytest.mark.parametrize("steps, enabled, files", [(4, True, 1), (2, True, 0), (6, False, 0)])
def test_short_runs_and_runs_without_a_trace(tmp_path, steps, enabled, files):
    assert list(profiled(range(steps), tmp_path, enabled)) == list(range(steps))
    assert len(traces(tmp_path)) == files
