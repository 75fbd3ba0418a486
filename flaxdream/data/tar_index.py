"""Where in a tar file each picture lies, and its captions: read once, kept on disk."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flaxdream.data.captions import texts_of
from flaxdream.data.digests import text_digest
from flaxdream.data.images import EXTENSIONS

VERSION = 1  # of the files on disk
TEXTS = ("txt", "caption", "json")  # the first that has a caption gives it
JSON_CAPTIONS = ("caption", "text")  # tried after the column that the user names


@dataclass(frozen=True)
class Sample:
    """One key of a WebDataset: `a/0001.jpg` and `a/0001.txt` are the sample a/0001."""

    key: str
    picture: str  # the member's name; "" if the sample has none
    offset: int  # of its bytes in the tar
    size: int
    captions: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    picture: list[tuple[str, int, int]] = field(default_factory=list)
    captions: dict[str, tuple[str, ...]] = field(default_factory=dict)


def tar_samples(path: Path, caption_column: str, folder: Path | None = None) -> list[Sample]:
    """The samples of a tar in its order; from `folder` if it knows this tar. ValueError if it cannot be read.

    The key is the name up to the first dot of its last part, as in WebDataset.
    """
    status = path.stat()
    identity = [str(VERSION), str(path.resolve()), str(status.st_size), str(status.st_mtime_ns), caption_column]
    file = None if folder is None else folder / f"tar-{text_digest(identity)}.json"
    if file is not None and (known := _read(file)) is not None:
        return known
    samples = _indexed(path, caption_column)
    if file is not None:
        _write(file, samples)
    return samples


def _indexed(path: Path, caption_column: str) -> list[Sample]:
    found: dict[str, _Found] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    _note(found, tar, member, caption_column, path)
                tar.members = []  # type: ignore[attr-defined]  # else it keeps every member
    except tarfile.TarError as error:
        hint = (
            "it is compressed, and needs to be plain: gunzip it" if _is_compressed(path) else f"it is damaged: {error}"
        )
        raise ValueError(f"{path} cannot be read as a tar file; {hint}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    return [_sample(key, entry) for key, entry in found.items()]


def _note(found: dict[str, _Found], tar: tarfile.TarFile, member: tarfile.TarInfo, column: str, path: Path) -> None:
    folder, _, name = member.name.rpartition("/")
    stem, _, kind = name.partition(".")
    if not stem or not kind:
        return
    entry = found.setdefault(f"{folder}/{stem}" if folder else stem, _Found())
    kind = kind.lower()
    if f".{kind}" in EXTENSIONS:
        entry.picture.append((member.name, member.offset_data, member.size))
    elif kind in TEXTS:
        opened = tar.extractfile(member)
        assert opened is not None  # it is a file
        entry.captions[kind] = _captions(kind, opened.read(), column, f"{path}, {member.name}")


def _captions(kind: str, content: bytes, column: str, where: str) -> tuple[str, ...]:
    try:
        text = content.decode("utf-8-sig")
        if kind != "json":
            return texts_of(text, where)
        values: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} cannot be read: {error}") from error
    if isinstance(values, dict):
        for name in (column, *JSON_CAPTIONS):
            if name in values and (texts := texts_of(values[name], f"{where}, {name}")):
                return texts
    return ()


def _sample(key: str, entry: _Found) -> Sample:
    """Of several pictures with one key the first counts."""
    texts = next((entry.captions[kind] for kind in TEXTS if entry.captions.get(kind)), ())
    picture, offset, size = entry.picture[0] if entry.picture else ("", 0, 0)
    return Sample(key, picture, offset, size, texts)


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


def _read(file: Path) -> list[Sample] | None:
    """The samples in the file; None if there is none or it is damaged: then the tar is read anew."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return [Sample(key, picture, offset, size, tuple(captions)) for key, picture, offset, size, captions in entries]
    except (OSError, ValueError, TypeError, IndexError):
        return None


def _write(file: Path, samples: Sequence[Sample]) -> None:
    """Whole or not at all, also where two runs write it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        entries = [[s.key, s.picture, s.offset, s.size, s.captions] for s in samples]
        unfinished.write_text(json.dumps(entries), encoding="utf-8")
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def expanded(pattern: str) -> Iterator[str]:
    """The names that a pattern with braces stands for: `{000..012}` numbers, `{a,b}` alternatives."""
    start = pattern.find("{")
    end = pattern.find("}", start)
    if start < 0 or end < 0:
        yield pattern
        return
    before, inside, after = pattern[:start], pattern[start + 1 : end], pattern[end + 1 :]
    first, dots, last = inside.partition("..")
    if dots and first.isdigit() and last.isdigit():
        choices: Sequence[str] = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = inside.split(",")
    for choice in choices:
        yield from (before + choice + rest for rest in expanded(after))
