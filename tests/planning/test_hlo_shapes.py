"""Shapes as the compiler writes them."""

from __future__ import annotations

import pytest

from flaxdream.planning.hlo_shapes import arrays


@pytest.mark.parametrize(
    ("text", "elements", "content", "in_memory", "space"),
    [
        ("f32[]", 1, 4, 4, 0),
        ("bf16[2,3]", 6, 12, 12, 0),
        ("pred[5]{0}", 5, 5, 5, 0),
        ("bf16[4,64,320]{2,1,0:T(8,128)(2,1)}", 81920, 163840, 4 * 64 * 384 * 2, 0),
        ("f32[3,100]{0,1:T(8,128)S(1)}", 300, 1200, 104 * 128 * 4, 1),
        ("f32[130]{0:T(128)}", 130, 520, 256 * 4, 0),
        ("s4[8]{0}", 8, 4, 4, 0),
    ],
)
def test_an_arrays_bytes_are_those_of_its_tiles(text, elements, content, in_memory, space):
    (array,) = arrays(text)
    assert (array.elements, array.content, array.bytes, array.space) == (elements, content, in_memory, space)


def test_a_tuple_has_its_arrays_in_order():
    found = arrays("(f32[2]{0}, (s32[3]{0}, /*index=5*/bf16[]), u32[]{:S(2)})")
    assert [(array.dtype, array.dims) for array in found] == [("f32", (2,)), ("s32", (3,)), ("bf16", ()), ("u32", ())]
