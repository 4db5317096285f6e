"""The reader of HLO against small compiled programs of which every byte is known, and lines of other backends."""

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
    """The program on 4 devices along fsdp, and XLA's own count of the bytes that it accesses."""
    mesh = mesh_of(fsdp=4)
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, specs)
    ]
    done = jax.jit(function, out_shardings=NamedSharding(mesh, out)).lower(*arguments).compile()
    return hlo.Program(done.as_text(), trips), done.cost_analysis()["bytes accessed"]


def products(x, weights):
    """x times each of the stacked weights, in a scan that gathers one of them at a time."""

    def body(x, w):
        return jnp.tanh(x @ w), None

    return jax.lax.scan(body, x, weights)[0]


def test_a_scan_counts_its_collectives_as_often_as_it_runs():
    """7 layers whose weights are split along their input: each is gathered, 7 times D x D floats."""
    program, _ = compiled(products, (8, D), (7, D, D), specs=(P("fsdp"), P(None, "fsdp")), out=P("fsdp"))
    assert program.collective_bytes() == {"all-gather": 7 * BYTES}
    assert program.received_bytes() == 7 * BYTES * 3 / 4


def test_loops_in_loops_multiply():
    def twice(x, weights):
        return jax.lax.fori_loop(0, 5, lambda _, x: products(x, weights), x)

    program, _ = compiled(twice, (8, D), (3, D, D), specs=(P("fsdp"), P(None, "fsdp")), out=P("fsdp"))
    # XLA may gather all three layers outside of the outer loop: no more than 15 gathers, no fewer than 3.
    assert sum(program.collective_bytes().values()) in (3 * BYTES, 15 * BYTES)
    assert max(program.runs.values()) >= 15


def test_trip_counts_that_are_data_are_asked_for():
    asked = []

    def trips(program, loop):
        asked.append((loop.op_name, program.has_loop(loop)))
        return 11

    def until_large(x, w):
        return jax.lax.while_loop(lambda x: x.sum() < 100, lambda x: jnp.tanh(x @ w) + 1, x)

    program, _ = compiled(
        until_large, (D, D), (D, D), specs=(P(None, "fsdp"), P("fsdp")), out=P(None, "fsdp"), trips=trips
    )
    once, _ = compiled(
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
    "spec, out, kind, received",
    [
        (P(None, "fsdp"), P(), "all-reduce", 2 * BYTES * 3 / 4),
        (P(None, "fsdp"), P("fsdp"), "reduce-scatter", BYTES * 3 / 4),
    ],
)
def test_what_a_device_receives(spec, out, kind, received):
    """x @ w with the summed dimension split over 4 devices: each sum of D x D is added up over them."""
    program, _ = compiled(jnp.matmul, (D, D), (D, D), specs=(spec, P("fsdp")), out=out)
    found = program.collective_bytes()
    if kind == "reduce-scatter" and "reduce-scatter" not in found:  # this XLA adds up everywhere, and cuts then
        kind, received = "all-reduce", 2 * BYTES * 3 / 4
    assert list(found) == [kind]
    assert program.received_bytes() == received


def test_memory_traffic_equals_xlas_count_without_loops():
    def function(x, w, v):
        return jax.nn.softmax(jnp.tanh(x @ w) @ v) + x[:, :1]

    program, counted = compiled(function, (256, D), (D, D), (D, D), specs=(P("fsdp"), P(), P()), out=P("fsdp"))
    assert program.memory_bytes() == pytest.approx(counted, rel=0.15)


def test_of_stacked_weights_a_loop_reads_one_layer_at_a_time():
    """100 layers: about 100 reads of one layer each, not 100 reads of all layers."""
    program, _ = compiled(products, (8, D), (100, D, D), specs=(P(), P()), out=P())
    assert 100 * BYTES < program.memory_bytes() < 100 * 5 * BYTES


# ---- lines as other backends and versions write them

MODULE = """HloModule test, is_scheduled=true

%body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p = (s32[], bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %all-gather-start.1 = ((bf16[4,8]{1,0}), bf16[16,8]{1,0}) all-gather-start(%x), replica_groups=GROUPS
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


@pytest.mark.parametrize(
    "groups, members",
    [
        ("{{0,1,2,3},{4,5,6,7}}", (0, 1, 2, 3)),
        ("[2,4]<=[8]", (0, 1, 2, 3)),
        ("[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("mesh['data'=2,'fsdp'=4] {'fsdp'}", (0, 1, 2, 3)),
        ("mesh['data'=2,'fsdp'=4] {'data'}", (0, 4)),
        ("mesh['data'=2,'fsdp'=4] {'data','fsdp'}", tuple(range(8))),
        ("mesh['axis_0'=8] {'axis_0':(1)2}", (0, 4)),
    ],
)
def test_asynchronous_collectives_count_once_and_groups_are_read(groups, members):
    program, g = hlo.Program(module(groups)), len(members)
    assert hlo.group(f"replica_groups={groups}") == members
    assert program.collective_bytes() == {"all-gather": 6 * 2 * 16 * 8}
    assert program.received_bytes() == pytest.approx(6 * 2 * 16 * 8 * (g - 1) / g)
    assert program.received_bytes(node=4) == (program.received_bytes() if max(members) >= 4 else 0)


def module(groups="[2,4]<=[8]", step=1):
    return MODULE.replace("GROUPS", groups).replace("STEP", str(step))


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


def test_a_step_that_is_not_read_is_asked_for():
    text = module().replace("add(%i, %step)", "multiply(%i, %step)")
    assert hlo.Program(text, trips=lambda program, loop: 5).collective_bytes() == {"all-gather": 5 * 2 * 16 * 8}


# One layer of a stack of four is 4 x 8 bf16, 64 bytes.
KERNELS = """HloModule kernels

%slice (s: bf16[4,4,8], t: s32[]) -> bf16[1,4,8] {
  %s = bf16[4,4,8]{2,1,0} parameter(0)
  %t = s32[] parameter(1)
  ROOT %layer = bf16[1,4,8]{2,1,0} dynamic-slice(%s, %t), dynamic_slice_sizes={1,4,8}
}

%nested (u: bf16[4,4,8], v: s32[]) -> bf16[1,4,8] {
  %u = bf16[4,4,8]{2,1,0} parameter(0)
  %v = s32[] parameter(1)
  ROOT %inner = bf16[1,4,8]{2,1,0} fusion(%u, %v), kind=kLoop, calls=%slice
}

%update (w: bf16[4,4,8], y: bf16[1,4,8], z: s32[]) -> bf16[4,4,8] {
  %w = bf16[4,4,8]{2,1,0} parameter(0)
  %y = bf16[1,4,8]{2,1,0} parameter(1)
  %z = s32[] parameter(2)
  ROOT %updated = bf16[4,4,8]{2,1,0} dynamic-update-slice(%w, %y, %z)
}

%scattered (w: bf16[4,4,8], y: bf16[1,4,8], z: s32[]) -> bf16[4,4,8] {
  %w = bf16[4,4,8]{2,1,0} parameter(0)
  %y = bf16[1,4,8]{2,1,0} parameter(1)
  %z = s32[] parameter(2)
  ROOT %updated = bf16[4,4,8]{2,1,0} scatter(%w, %z, %y), to_apply=%add
}

%turned (b: bf16[4,4,8]) -> bf16[16,8] {
  %b = bf16[4,4,8]{2,1,0} parameter(0)
  ROOT %flat = bf16[16,8]{1,0} bitcast(%b)
}

%read (c: bf16[4,4,8]) -> bf16[8] {
  %c = bf16[4,4,8]{2,1,0} parameter(0)
  %d = bf16[16,8]{1,0} fusion(%c), kind=kLoop, calls=%turned
  ROOT %sum = bf16[8]{0} reduce(%d), dimensions={0}, to_apply=%add
}

%product (k: bf16[1,4,8]) -> (bf16[1,4,8], s8[4096]) {
  %k = bf16[1,4,8]{2,1,0} parameter(0)
  ROOT %gemm = (bf16[1,4,8]{2,1,0}, s8[4096]{0}) custom-call(%k), custom_call_target="gemm"
}

ENTRY %main (a: bf16[4,4,8], i: s32[]) -> bf16[4,4,8] {
  %a = bf16[4,4,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
KERNEL
}
"""


@pytest.mark.parametrize(
    ("kernel", "traffic"),
    [
        ("%k = bf16[1,4,8]{2,1,0} fusion(%a, %i), kind=kLoop, calls=%slice", 64 + 4 + 64),
        ("%k = bf16[1,4,8]{2,1,0} fusion(%a, %i), kind=kLoop, calls=%nested", 64 + 4 + 64),
        (
            "%s = ((bf16[4,4,8], s32[]), bf16[1,4,8], u32[]) fusion-start(%a, %i), kind=kLoop, calls=%slice\n"
            "  %k = bf16[1,4,8]{2,1,0} fusion-done(%s)",
            64 + 4 + 64,
        ),
        (
            "%l = bf16[1,4,8]{2,1,0:S(1)} parameter(2)\n"
            "  %s = (bf16[4,4,8], u32[]) fusion-start(%a, %l, %i), kind=kLoop, calls=%update\n"
            "  %k = bf16[4,4,8]{2,1,0} fusion-done(%s)",
            64 + 4,
        ),
        (
            "%l = bf16[1,4,8]{2,1,0} parameter(2)\n"
            "  %k = (bf16[1,4,8]{2,1,0}, s8[4096]{0}) fusion(%l), kind=kCustom, calls=%product",
            64 + 64,
        ),
        (
            "%l = bf16[1,4,8]{2,1,0} parameter(2)\n"
            "  %k = bf16[4,4,8]{2,1,0} fusion(%a, %l, %i), kind=kLoop, calls=%scattered",
            64 + 4 + 64,
        ),
        ("%k = bf16[8]{0} fusion(%a), kind=kLoop, calls=%read", 256 + 16),
        (
            "%s = (bf16[4,4,8]{2,1,0:S(1)}, bf16[4,4,8]{2,1,0}, u32[]) copy-start(%a)\n"
            "  %k = bf16[4,4,8]{2,1,0:S(1)} copy-done(%s)",
            256,
        ),
    ],
)
def test_kernels_count_what_they_touch(kernel, traffic):
    assert hlo.Program(KERNELS.replace("KERNEL", f"  {kernel}")).memory_bytes() == traffic


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
    assert program.received_bytes() == 7 * 128


def test_on_chip_memory_is_no_traffic():
    assert hlo.size("(bf16[4,8]{1,0}, f32[2]{0:T(128)S(1)}, pred[3], s4[2])") == 64 + 8 + 3 + 1
    assert hlo.in_memory("(bf16[4,8]{1,0}, f32[2]{0:T(128)S(1)})") == 64
