"""What a look at a set has found: each kind of problem once, with the pictures that have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Literal

from flaxdream.data.picture_set import PictureSet

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Case:
    """A picture, or several that belong together, or a file that is none, with what there is to say of it."""

    names: tuple[str, ...]
    detail: str = ""
    pictures: tuple[int, ...] = ()
    """Their indices; empty where the names are not those of pictures of the set."""


@dataclass(frozen=True)
class Finding:
    """One kind of problem."""

    kind: str
    """A word for programs, such as "copies"."""
    level: Level
    """An error stops a training or takes pictures from it, a warning makes it worse, a note is good to know."""
    title: str
    """With how many there are; no verb and no full stop."""
    advice: str
    """What to do, or what is done; whole sentences."""
    cases: tuple[Case, ...] = field(default=())
    """Those that were kept; `title` has the count."""


def counted(count: int, noun: str) -> str:
    """1 picture, 2 pictures."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def name_of(pictures: PictureSet, index: int) -> str:
    """The picture's path inside its set."""
    path, root = PurePath(pictures.path(index)), PurePath(pictures.name)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def cases_of(pictures: PictureSet, indices: Sequence[int], details: Sequence[str] = ()) -> tuple[Case, ...]:
    """A case for each picture."""
    texts = details or [""] * len(indices)
    return tuple(Case((name_of(pictures, i),), text, (i,)) for i, text in zip(map(int, indices), texts, strict=True))


def group_case(pictures: PictureSet, group: Sequence[int]) -> Case:
    """One case of all pictures of a group."""
    return Case(tuple(name_of(pictures, int(i)) for i in group), pictures=tuple(map(int, group)))
