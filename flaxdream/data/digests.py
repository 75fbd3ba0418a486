"""SHA-1 names of content: files, pixels, and lists of text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def content_digest(path: str | Path) -> str:
    """SHA-1 of the file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, _sha1).hexdigest()


def pixel_digest(picture: np.ndarray) -> str:
    """SHA-1 of the pixels, row by row: what diffusers puts into the name of a class picture."""
    return _sha1(np.ascontiguousarray(picture).tobytes()).hexdigest()


def text_digest(lines: Iterable[str]) -> str:
    """SHA-1 of a list of texts; the same texts cut elsewhere give another digest."""
    digest = _sha1()
    for line in lines:
        encoded = line.encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _sha1(data: bytes = b""):
    return hashlib.sha1(data, usedforsecurity=False)  # a name, not a signature: FIPS machines refuse it otherwise
