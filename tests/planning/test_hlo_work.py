"""Operations and bytes of compiled programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from flaxdream.planning.hlo_text import parse
from flaxdream.planning.hlo_work import operations
from tests.planning.programs_text import LOOP, LOOPS, ROW, STACK, WEIGHT


def by_name(text):
    return {one.name: one for one in operations(parse(text))}


def flops(function, *shapes):
    compiled = jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile()
    ours = sum(one.flops * one.times for one in operations(parse(compiled.as_text())))
    return ours, compiled.cost_analysis()["flops"]


def test_a_fusions_products_count_and_its_operands_are_read_once():
    product = by_name(LOOP)["y"]
    assert (product.flops, product.times) == (2 * 8 * 16 * 16, LOOPS)
    assert product.bytes == ROW + WEIGHT + ROW


def test_a_fusion_that_takes_and_puts_a_row_moves_rows_and_not_the_stack():
    assert by_name(LOOP)["stack.2"].bytes == ROW + ROW + 4 + ROW  # slice, added row, index; update
    assert by_name(LOOP)["stack.1"].bytes == STACK + 4


def test_an_operand_that_a_fusion_inside_a_fusion_turns_is_read():
    """So TPUs write a product with a transposed operand."""
    weight = "  %q1 = f32[16,16]{1,0} parameter(1)\n"
    inside = "  %turned = f32[16,16]{0,1} fusion(%q1), kind=kLoop, calls=%turn\n"
    turn = """%turn (p9: f32[16,16]) -> f32[16,16] {
  %p9 = f32[16,16]{1,0} parameter(0)
  ROOT %b9 = f32[16,16]{0,1} bitcast(%p9)
}

"""
    assert weight in LOOP and "dot(%q0, %q1)" in LOOP
    nested = LOOP.replace(weight, weight + inside).replace("dot(%q0, %q1)", "dot(%q0, %turned)")
    assert by_name(nested.replace("%product (", turn + "%product (", 1))["y"].bytes == ROW + WEIGHT + ROW


def test_what_lies_on_the_chip_costs_the_memory_nothing():
    on_chip = LOOP.replace("%y = f32[8,16]{1,0}", "%y = f32[8,16]{1,0:S(1)}")
    assert by_name(on_chip)["y"].bytes == ROW + WEIGHT


def test_copies_that_run_ahead_move_their_target_alone():
    """A slice names its source first, a copy its target; what is sliced off is read, not the whole."""
    stack = "%stack.1 = f32[4,8,16]{2,1,0} broadcast(%none), dimensions={}"
    slices = "((f32[4,8,16]{2,1,0}), f32[1,8,16]{2,1,0SPACE}, s32[]{:S(2)})"
    ahead = f"""
  %copy-start.1 = (f32[4,8,16]{{2,1,0:S(1)}}, f32[4,8,16]{{2,1,0}}, u32[]{{:S(2)}}) copy-start(%stack.1)
  %slice-start.1 = {slices.replace("SPACE", ":S(1)")} slice-start(%stack.1), slice={{[0:1]}}
  %slice-start.2 = {slices.replace("SPACE", ":S(1)")} async-start(%stack.1), calls=%take_a_row
  %slice-start.3 = {slices.replace("SPACE", "")} async-start(%stack.1), calls=%take_a_row"""
    row = """%take_a_row (p9: f32[4,8,16]) -> f32[1,8,16] {
  %p9 = f32[4,8,16]{2,1,0} parameter(0)
  ROOT %slice.9 = f32[1,8,16]{2,1,0} slice(%p9), slice={[0:1], [0:8], [0:16]}
}

"""
    assert stack in LOOP
    found = by_name(LOOP.replace(stack, stack + ahead).replace("%sum (", row + "%sum (", 1))
    started = [found[name] for name in ("copy-start.1", "slice-start.1", "slice-start.2", "slice-start.3")]
    assert [one.bytes for one in started] == [STACK, ROW, ROW, 2 * ROW]
    assert all(one.ahead for one in started)


def test_a_gather_that_runs_inside_a_product_adds_no_traffic_to_it():
    """The compiler spreads one all-gather over many fusions, each of which hands its whole buffers on."""
    fused = """%product (q0: f32[8,16], q1: f32[16,16], q2: f32[512,16], q3: f32[64,16]) -> (f32[8,16], f32[512,16]) {
  %q0 = f32[8,16]{1,0} parameter(0)
  %q1 = f32[16,16]{1,0} parameter(1)
  %q2 = f32[512,16]{1,0} parameter(2)
  %q3 = f32[64,16]{1,0} parameter(3)
  %dot.1 = f32[8,16]{1,0} dot(%q0, %q1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %gathered = f32[512,16]{1,0} all-gather(%q3), channel_id=9, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %both = (f32[8,16]{1,0}, f32[512,16]{1,0}, f32[512,16]{1,0}) tuple(%dot.1, %gathered, %q2)
}
"""
    start, end = LOOP.index("%product ("), LOOP.index("%body (")
    call = "%y = f32[8,16]{1,0} fusion(%x, %w), kind=kOutput"
    assert call in LOOP
    parts = """%whole = f32[512,16]{1,0} broadcast(%i), dimensions={}
  %part = f32[64,16]{1,0} broadcast(%i), dimensions={}
  %ys = (f32[8,16]{1,0}, f32[512,16]{1,0}, f32[512,16]{1,0}) fusion(%x, %w, %whole, %part), kind=kOutput"""
    text = (LOOP[:start] + fused + "\n" + LOOP[end:]).replace(call, parts)
    text = text.replace("calls=%product", "calls=%product\n  %y = f32[8,16]{1,0} get-tuple-element(%ys), index=0")
    found = by_name(text)["ys"]
    assert (found.flops, found.bytes) == (2 * 8 * 16 * 16, ROW + WEIGHT + ROW)


def test_the_compilers_cycles_are_read_where_it_wrote_them():
    scheduled = LOOP.replace("calls=%product", 'calls=%product, backend_config={"estimated_cycles":"5206"}')
    assert (by_name(scheduled)["y"].cycles, by_name(LOOP)["y"].cycles) == (5206, 0)


def test_collectives_and_loops_are_no_operations():
    assert {"sent", "loop", "begin"}.isdisjoint(by_name(LOOP))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_and_their_gradients_count_as_in_the_compilers_own_analysis(stride, padding):
    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, kernel = (2, 9, 12, 8), (3, 3, 8, 16)
    out = jax.eval_shape(convolve, jnp.zeros(x), jnp.zeros(kernel)).shape

    def dx(kernel, dy):
        return jax.linear_transpose(lambda x: convolve(x, kernel), jnp.zeros(x))(dy)[0]

    def dw(x, dy):
        return jax.linear_transpose(lambda kernel: convolve(x, kernel), jnp.zeros(kernel))(dy)[0]

    for function, shapes in ((convolve, (x, kernel)), (dx, (kernel, out)), (dw, (x, out))):
        ours, theirs = flops(function, *shapes)
        assert ours > 0
        np.testing.assert_allclose(ours, theirs, rtol=0.02)  # theirs has the reversals and copies around them


def test_products_count_twice_their_multiplications():
    ours, _ = flops(lambda a, b: jnp.einsum("nik,nkj->nij", a, b), (3, 5, 7), (3, 7, 11))
    assert ours == 2 * 3 * 5 * 7 * 11
