"""The HLO reader on small compiled programs whose collectives are known, and on lines that other backends write."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from srt_jax.plan import hlo
from tests.tiny_decoder import mesh_of

D = 64
BYTES = 4 * D * D


def compiled(function, *shapes, specs, out, trips=None):
    """The program on 4 devices along fsdp."""
    mesh = mesh_of(fsdp=4)
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, specs)
    ]
    done = jax.jit(function, out_shardings=NamedSharding(mesh, out)).lower(*arguments).compile()
    return hlo.Program(done.as_text(), trips)


def products(x, weights):
    """x times each of the stacked weights, in a scan that gathers one of them at a time."""

    def body(x, w):
        return jnp.tanh(x @ w), None

    return jax.lax.scan(body, x, weights)[0]


def test_a_scan_counts_its_collectives_as_often_as_it_runs():
    """7 layers whose weights are split along their input: each is gathered, 7 times D x D floats."""
    program = compiled(products, (8, D), (7, D, D), specs=(P("fsdp"), P(None, "fsdp")), out=P("fsdp"))
    assert program.collective_bytes() == {"all-gather": 7 * BYTES}
    assert program.collective_calls() == {"all-gather": 7}


def test_loops_in_loops_multiply():
    def twice(x, weights):
        return jax.lax.fori_loop(0, 5, lambda _, x: products(x, weights), x)

    program = compiled(twice, (8, D), (3, D, D), specs=(P("fsdp"), P(None, "fsdp")), out=P("fsdp"))
    # XLA may gather all three layers outside of the outer loop: no more than 15 gathers, no fewer than 3.
    assert sum(program.collective_bytes().values()) in (3 * BYTES, 15 * BYTES)
    assert max(program.runs.values()) >= 15


def test_the_caller_gives_trip_counts_that_depend_on_data():
    asked = []

    def trips(program, loop):
        asked.append((loop.op_name, program.has_loop(loop)))
        return 11

    def until_large(x, w):
        return jax.lax.while_loop(lambda x: x.sum() < 100, lambda x: jnp.tanh(x @ w) + 1, x)

    program = compiled(
        until_large, (D, D), (D, D), specs=(P(None, "fsdp"), P("fsdp")), out=P(None, "fsdp"), trips=trips
    )
    once = compiled(
        until_large,
        (D, D),
        (D, D),
        specs=(P(None, "fsdp"), P("fsdp")),
        out=P(None, "fsdp"),
        trips=lambda program, loop: 1,
    )
    with pytest.raises(ValueError, match="trip count of the loop while"):
        compiled(until_large, (D, D), (D, D), specs=(P(None, "fsdp"), P("fsdp")), out=P(None, "fsdp"))
    assert len(asked) == 1 and "while" in asked[0][0] and not asked[0][1]
    assert program.collective_bytes()
    assert all(program.runs[name] in (runs, 11 * runs) for name, runs in once.runs.items())
    assert sum(program.collective_bytes().values()) > 5 * sum(once.collective_bytes().values())


@pytest.mark.parametrize(
    "spec, out, kinds, size",
    [
        (P(None, "fsdp"), P(), ("all-reduce",), BYTES),
        # Some versions of XLA add up whole arrays on every device, and slice them afterwards.
        (P(None, "fsdp"), P("fsdp"), ("reduce-scatter", "all-reduce"), BYTES / 4),
    ],
)
def test_a_product_over_a_split_dimension_is_added_up(spec, out, kinds, size):
    """x @ w with the summed dimension split over 4 devices gives one sum of D x D."""
    program = compiled(jnp.matmul, (D, D), (D, D), specs=(spec, P("fsdp")), out=out)
    (kind,) = program.collective_calls()
    assert kind in kinds and program.collective_calls()[kind] == 1
    assert program.collective_bytes()[kind] == (size if kind == kinds[0] else BYTES)


# ---- lines as other backends and versions write them

MODULE = """HloModule test, is_scheduled=true

%body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p = (s32[], bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %all-gather-start.1 = ((bf16[4,8]{1,0}), bf16[16,8]{1,0}) all-gather-start(%x), replica_groups=[2,4]<=[8]
  %all-gather-done.1 = bf16[16,8]{1,0:T(8,128)S(1)} all-gather-done(%all-gather-start.1)
  %step = s32[]{:T(128)} constant(STEP)
  %next = s32[]{:T(128)} add(%i, %step)
  ROOT %out = (s32[], bf16[4,8]{1,0}) tuple(%next, %x)
}

%condition (q: (s32[], bf16[4,8])) -> pred[] {
  %bound = s32[]{:T(128)} constant(6)
  %q = (s32[], bf16[4,8]{1,0}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %less = pred[]{:T(512)} compare(%j, %bound), direction=LT
}

%fused (r: s32[]) -> pred[] {
  %r = s32[] parameter(0)
  %nine = s32[] constant(9)
  ROOT %compare = pred[] compare(%r, %nine), direction=LT
}

%fused_condition (q: (s32[], bf16[4,8])) -> pred[] {
  %q.1 = (s32[], bf16[4,8]{1,0}) parameter(0)
  %j.1 = s32[] get-tuple-element(%q.1), index=0
  ROOT %fusion = pred[] fusion(%j.1), kind=kLoop, calls=%fused
}

ENTRY %main (a: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %a = (s32[], bf16[4,8]{1,0}, /*index=2*/f32[]) parameter(0)
  ROOT %loop = (s32[], bf16[4,8]{1,0}) while(%a), condition=%condition, body=%body, metadata={op_name="jit(f)/while"}
}
"""


def test_an_asynchronous_collective_counts_once():
    program = hlo.Program(module())
    assert program.collective_bytes() == {"all-gather": 6 * 2 * 16 * 8}
    assert program.collective_calls() == {"all-gather": 6}


def module(step=1):
    return MODULE.replace("STEP", str(step))


@pytest.mark.parametrize(
    ("condition", "step", "runs"),
    [
        ("condition", 1, 6),
        ("condition", 2, 3),
        ("condition", 4, 2),
        ("fused_condition", 1, 9),
        ("fused_condition", 2, 5),
    ],
)
def test_a_loop_runs_from_0_to_its_bound_in_steps(condition, step, runs):
    program = hlo.Program(module(step=step).replace("condition=%condition", f"condition=%{condition}"))
    assert program.collective_bytes() == {"all-gather": runs * 2 * 16 * 8}


def test_the_caller_gives_the_trip_count_of_a_loop_with_an_unknown_step():
    text = module().replace("add(%i, %step)", "multiply(%i, %step)")
    assert hlo.Program(text, trips=lambda program, loop: 5).collective_bytes() == {"all-gather": 5 * 2 * 16 * 8}


def test_a_reduce_scatter_may_be_a_kernel():
    text = """HloModule test

%all-reduce-scatter.1 (x: bf16[64,8]) -> bf16[8,8] {
  %x = bf16[64,8]{1,0} parameter(0)
  %sum = bf16[64,8]{1,0} all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%add
  %id = u32[] partition-id()
  ROOT %own = bf16[8,8]{1,0} dynamic-slice(%sum, %id), dynamic_slice_sizes={8,8}
}

ENTRY %main (a: bf16[64,8]) -> bf16[8,8] {
  %a = bf16[64,8]{1,0} parameter(0)
  ROOT %k = bf16[8,8]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    program = hlo.Program(text)
    assert program.collective_bytes() == {"reduce-scatter": 128}
    assert program.collective_calls() == {"reduce-scatter": 1}


def test_size_of_shapes():
    assert hlo.size("(bf16[4,8]{1,0}, f32[2]{0:T(128)S(1)}, pred[3], s4[2])") == 64 + 8 + 3 + 1
