"""Flax's old msgpack files (`diffusion_flax_model.msgpack`, `flax_model.msgpack`), mapped rather than unpacked.

The format is that of `flax.serialization`: nested maps, whose arrays are extension type 1 around the packed
tuple (shape, dtype name, bytes). A general unpacker would copy every array twice.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from flaxdream.arrays import np
from flaxdream.weights import names
from flaxdream.weights.tensors import MappedFile, Tensor

_ARRAY, _CHUNKED = 1, "__msgpack_chunked_array__"  # arrays over 1 GiB come in pieces
_DTYPES = {dtype.name: dtype for dtype in map(np.dtype, (np.float32, np.float16, jnp.bfloat16))}

# Lists of layers, which diffusers' Flax modules kept as attributes with a number at the end.
_NUMBERED = re.compile(
    r"(down_blocks|up_blocks|resnets|attentions|transformer_blocks|downsamplers|upsamplers|to_out|net)_(\d+)"
)


def open_msgpack(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a Flax file by the names that PyTorch has for them, in the file's order.

    Raises ValueError when the file is cut off or does not hold nested maps of arrays.
    """
    path = Path(path)
    mapped = MappedFile(path)
    reader = _Reader(mapped)
    try:
        tree = reader.value()
        if reader.at != mapped.size:
            raise ValueError(f"{mapped.size - reader.at} bytes follow its end")
        if not isinstance(tree, dict):
            raise ValueError(f"it holds a {type(tree).__name__}, not a map of arrays")
        flat = _flat(tree["params"] if set(tree) == {"params"} else tree)
    except (IndexError, struct.error, UnicodeDecodeError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} ({mapped.size} bytes) is not a whole Flax msgpack file of parameters: {error}. "
            "It is cut off, damaged or something else: download or copy it again."
        ) from None
    return dict(sorted(flat.items(), key=lambda item: item[1].start))


def path_of_flax_keys(keys: tuple[str, ...]) -> str:
    """Our path of a parameter of the old Flax models: `down_blocks_0/resnets_1/...` has lists for us."""
    return ".".join(_NUMBERED.sub(r"\1.\2", key) if _NUMBERED.fullmatch(key) else key for key in keys)


def _flat(tree: dict[str, Any], parents: tuple[str, ...] = ()) -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for key, value in tree.items():
        keys = (*parents, key)
        if isinstance(value, dict) and _CHUNKED in value:
            value = _joined(value)
        if isinstance(value, dict):
            flat |= _flat(value, keys)
        elif isinstance(value, Tensor):
            path = path_of_flax_keys(keys)
            if names.file_name(path) in flat:
                raise ValueError(f"it has {names.file_name(path)!r} twice")
            flat[names.file_name(path)] = Tensor(value.file, value.dtype, value.shape, value.pieces, path)
        else:
            raise ValueError(f"{'/'.join(keys)} is a {type(value).__name__}, not an array")
    return flat


def _joined(chunked: dict[str, Any]) -> Tensor:
    """One tensor from {"shape": {"0": ...}, "chunks": {"0": array, ...}}."""
    shape = tuple(chunked["shape"][str(axis)] for axis in range(len(chunked["shape"])))
    chunks = [chunked["chunks"][str(index)] for index in range(len(chunked["chunks"]))]
    return Tensor(chunks[0].file, chunks[0].dtype, shape, tuple(piece for chunk in chunks for piece in chunk.pieces))


class _Reader:
    """Walks over a msgpack file. Arrays become Tensors that only say where their bytes are."""

    def __init__(self, mapped: MappedFile):
        self.mapped, self.buffer, self.at = mapped, mapped.buffer, 0

    def value(self) -> Any:
        code = self.number("B")
        if code < 0x80:
            return code
        if code < 0x90:
            return self.map(code & 0x0F)
        if code < 0xA0:
            return self.list(code & 0x0F)
        if code < 0xC0:
            return self.text(code & 0x1F)
        if code in _SIMPLE:
            return _SIMPLE[code]
        if code not in _SIZED:
            raise ValueError(f"byte {code:#x} at {self.at - 1} is not expected there")
        kind, width = _SIZED[code]
        number = width if isinstance(width, int) else self.number(width)
        return getattr(self, kind)(number)

    def number(self, width: str) -> Any:
        value = struct.unpack_from(">" + width, self.buffer, self.at)[0]
        self.at += struct.calcsize(width)
        return value

    def same(self, number: Any) -> Any:
        return number

    def map(self, length: int) -> dict[str, Any]:
        return {str(self.value()): self.value() for _ in range(length)}

    def list(self, length: int) -> list[Any]:
        return [self.value() for _ in range(length)]

    def text(self, length: int) -> str:
        start, stop = self.skip(length)
        return bytes(self.buffer[start:stop]).decode("utf-8")

    def skip(self, length: int) -> tuple[int, int]:
        """Start and end of the next bytes, which are not read."""
        start, stop = self.at, self.at + length
        if stop > self.mapped.size:
            raise ValueError(f"{stop - self.mapped.size} bytes are missing at its end")
        self.at = stop
        return start, stop

    def extension(self, length: int) -> Tensor | None:
        kind, end = self.number("b"), self.at + length
        if kind != _ARRAY:
            self.skip(length)
            return None
        shape, dtype, (start, stop) = self.value()
        if self.at != end:
            raise ValueError(f"the array at byte {end - length} has another length than it says")
        known = _DTYPES.get(dtype, dtype)
        if isinstance(known, np.dtype) and int(np.prod(shape, dtype=np.int64)) * known.itemsize != stop - start:
            raise ValueError(f"the array at byte {start} has {stop - start} bytes for shape {shape} of {dtype}")
        return Tensor(self.mapped, known, tuple(shape), ((start, stop),))


_SIMPLE = {0xC0: None, 0xC2: False, 0xC3: True}
_SIZED: dict[int, tuple[str, str | int]] = {
    0xC4: ("skip", "B"), 0xC5: ("skip", "H"), 0xC6: ("skip", "I"),
    0xC7: ("extension", "B"), 0xC8: ("extension", "H"), 0xC9: ("extension", "I"),
    0xCA: ("same", "f"), 0xCB: ("same", "d"),
    0xCC: ("same", "B"), 0xCD: ("same", "H"), 0xCE: ("same", "I"), 0xCF: ("same", "Q"),
    0xD4: ("extension", 1), 0xD5: ("extension", 2), 0xD6: ("extension", 4), 0xD7: ("extension", 8),
    0xD8: ("extension", 16),
    0xD9: ("text", "B"), 0xDA: ("text", "H"), 0xDB: ("text", "I"),
    0xDC: ("list", "H"), 0xDD: ("list", "I"), 0xDE: ("map", "H"), 0xDF: ("map", "I"),
}  # fmt: skip
