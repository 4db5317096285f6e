import collections

import jax
import jax.numpy as jnp
import pytest

from srt_jax.errors import ConfigError
from srt_jax.runtime import join_processes, keep_precision, profiled, programs


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


def test_float32_is_computed_in_float32():
    def precision():
        text = jax.jit(jnp.matmul).lower(*(jax.ShapeDtypeStruct((8, 8), jnp.float32),) * 2).as_text()
        return "HIGHEST" if "HIGHEST" in text else "DEFAULT"

    before = jax.config.jax_default_matmul_precision
    try:
        keep_precision("bfloat16")
        assert precision() == "DEFAULT"
        keep_precision("float32")
        assert precision() == "HIGHEST"
    finally:
        jax.config.update("jax_default_matmul_precision", before)


def test_a_process_without_a_number_is_refused():
    with pytest.raises(ConfigError, match="JAX_NUM_PROCESSES is 'two': set it to a number in every process"):
        join_processes({"JAX_COORDINATOR_ADDRESS": "host:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"})


def test_programs_are_shared_by_equal_keys_and_the_oldest_is_dropped(monkeypatch):
    monkeypatch.setattr(programs, "_programs", collections.OrderedDict())
    made = []

    def program(number):
        return programs.shared(("p", number), lambda: made.append(number) or f"program {number}")

    assert [program(number) for number in (0, 1, 0)] == ["program 0", "program 1", "program 0"] and made == [0, 1]
    for number in range(2, programs.KEPT + 1):
        program(number)
    program(0)  # it was used after 1
    assert made == list(range(programs.KEPT + 1))
    program(1)
    assert made[-1] == 1
    with jax.default_matmul_precision("bfloat16"):
        program(0)
    assert made[-1] == 0


def test_the_shape_of_a_tree_is_its_structure_shapes_dtypes_and_shardings():
    second = jax.devices()[1]
    tree = {"a": jnp.zeros((2, 3)), "b": (jnp.zeros(4, jnp.int32), None)}
    others = [
        {"a": jnp.zeros((2, 4)), "b": tree["b"]},
        {"a": tree["a"].astype(jnp.bfloat16), "b": tree["b"]},
        {"a": jax.device_put(tree["a"], second), "b": tree["b"]},
        {"c": tree["a"], "b": tree["b"]},
    ]
    keys = [programs.shape(x) for x in (tree, *others)]
    assert programs.shape(jax.tree.map(lambda x: x + 1, tree)) == keys[0] and len(set(keys)) == 5
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
    assert programs.shape(abstract) == keys[0]
