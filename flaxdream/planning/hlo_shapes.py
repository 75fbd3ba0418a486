"""Shapes as the compiler writes them: `bf16[4,64,64,320]{3,0,2,1:T(8,128)(2,1)S(1)}`, or tuples of such."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

_BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16,
    "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128, "token": 0, "opaque": 0,
}  # fmt: skip
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<= ]*)\](?:\{([^{}]*)\})?")
MAIN = 0  # the memory space of a device's large memory; 1 is on the chip, 5 the host's


@dataclass(frozen=True)
class Array:
    """One array. `space` is where it lies; `tile` pads its last axes in memory."""

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...]
    tile: tuple[int, ...]
    space: int

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def content(self) -> int:
        """Bytes without padding."""
        return math.ceil(self.elements * _bits(self.dtype) / 8)

    @property
    def bytes(self) -> int:
        """In memory, with what the tiles pad."""
        physical = [self.dims[axis] for axis in reversed(self.minor_to_major)] or [1]
        tile = self.tile[-len(physical) :] if self.tile else ()
        for place, size in enumerate(reversed(tile)):
            at = len(physical) - 1 - place
            physical[at] = -(-physical[at] // size) * size
        return math.ceil(math.prod(physical) * _bits(self.dtype) / 8)


@lru_cache(maxsize=65536)
def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a shape, in order: one, or those of a tuple."""
    return tuple(_array(*match.groups(default="")) for match in _ARRAY.finditer(text))


def _array(dtype: str, dims: str, layout: str) -> Array:
    sizes = tuple(int(size.strip().removeprefix("<=")) for size in dims.split(",") if size.strip())
    order, _, rest = layout.partition(":")
    minor_to_major = tuple(int(axis) for axis in order.split(",") if axis) or tuple(reversed(range(len(sizes))))
    tile = re.match(r"T\(([\d,]*)\)", rest)
    space = re.search(r"S\((\d+)\)", rest)
    tiles = tuple(int(size) for size in tile.group(1).split(",") if size) if tile else ()
    return Array(dtype, sizes, minor_to_major, tiles, int(space.group(1)) if space else MAIN)


def _bits(dtype: str) -> int:
    if dtype.startswith("f8"):
        return 8
    if dtype.startswith("f4"):
        return 4
    return _BITS.get(dtype, 32)
