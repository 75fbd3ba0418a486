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


def test_what_lies_on_the_chip_costs_the_memory_nothing():
    on_chip = LOOP.replace("%y = f32[8,16]{1,0}", "%y = f32[8,16]{1,0:S(1)}")
    assert by_name(on_chip)["y"].bytes == ROW + WEIGHT


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
