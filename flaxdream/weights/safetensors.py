"""safetensors files: tensors mapped from them, and an atomic writer that holds one tensor at a time.

The `safetensors` library checks the files. It does not read or write the tensors: it keeps every page that it
has read in memory and wants all tensors at once for writing, which is twice the memory that we need.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import safetensors

from flaxdream.arrays import Params, np
from flaxdream.weights import names
from flaxdream.weights.tensors import MappedFile, Tensor, contiguous, host_copy

DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16), "F16": np.dtype(np.float16)}
DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}  # in the order in which files hold them

_GIT_LFS = b"version https://git-lfs"


class Entry(NamedTuple):
    """A tensor to be written; `read` is called when its turn has come."""

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def open_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of one file by name, in the file's order. Raises ValueError when it is not whole or not valid."""
    path = Path(path)
    mapped = MappedFile(path)
    if bytes(mapped.buffer[: len(_GIT_LFS)]) == _GIT_LFS:
        raise ValueError(
            f"{path} is a Git LFS pointer ({mapped.size} bytes), not the weights. Run `git lfs pull` in that folder."
        )
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass  # opening checks the header, its offsets and the length of the file
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} ({mapped.size} bytes) is not a whole safetensors file: {error}. "
            "It is cut off or damaged: download or copy it again."
        ) from None
    length = int.from_bytes(mapped.buffer[:8], "little")
    header = json.loads(mapped.buffer[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {name: _tensor(mapped, entry, 8 + length) for name, entry in header.items()}
    return dict(sorted(found.items(), key=lambda item: item[1].start))


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text that a file carries beside its tensors."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def write_safetensors(
    path: str | Path, params: Params, *, dtype: Any = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes the parameters of one network under PyTorch's names and layouts; as `dtype`, or each as it is.

    The file appears whole or not at all. Raises ValueError for a type that files cannot hold and for values
    that are too large for float16.
    """
    flat = dict(names.leaves(params))
    named = names.file_names(flat)
    write_entries(path, {named[at]: _entry(at, named[at], leaf, dtype) for at, leaf in flat.items()}, metadata)


def write_entries(path: str | Path, entries: Mapping[str, Entry], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors one after another, in the order and with the bytes of the safetensors library."""
    path = Path(path)
    codes = list(DTYPES)
    wrong = [f"{name!r} ({entry.dtype})" for name, entry in entries.items() if entry.dtype not in DTYPE_CODES]
    if wrong:
        raise ValueError(f"{path} can hold float32, float16 and bfloat16 only, not: {', '.join(wrong)}.")
    order = sorted(entries, key=lambda name: (codes.index(DTYPE_CODES[entries[name].dtype]), name))
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(_header({name: entries[name] for name in order}, metadata))
            for name in order:
                array = entries[name].read()
                assert (array.dtype, array.shape) == entries[name][:2] and array.flags.c_contiguous, name
                file.write(array.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _tensor(mapped: MappedFile, entry: Mapping[str, Any], base: int) -> Tensor:
    start, stop = entry["data_offsets"]
    dtype = DTYPES.get(entry["dtype"], entry["dtype"])
    return Tensor(mapped, dtype, tuple(entry["shape"]), ((base + start, base + stop),))


def _entry(at: str, name: str, leaf: Any, dtype: Any) -> Entry:
    target = np.dtype(leaf.dtype if dtype is None else dtype)

    def read() -> np.ndarray:
        try:
            return contiguous(names.to_file_layout(at, host_copy(leaf)), target)
        except FloatingPointError:
            raise ValueError(
                f"{name!r} has values beyond {target}'s largest ({jnp.finfo(target).max}). "
                "Write bfloat16 or float32 instead."
            ) from None

    return Entry(target, names.file_shape(at, tuple(leaf.shape)), read)


def _header(entries: Mapping[str, Entry], metadata: Mapping[str, str] | None) -> bytes:
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"} | dict(metadata or {})}
    start = 0
    for name, (dtype, shape, _) in entries.items():
        stop = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        fields[name] = {"dtype": DTYPE_CODES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
