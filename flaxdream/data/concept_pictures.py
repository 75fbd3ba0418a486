"""All pictures of a run's concepts with their captions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flaxdream.data.captions import TEMPLATE, captions_of
from flaxdream.data.concepts import Concept
from flaxdream.data.folders import Folder, scan_folder


@dataclass(frozen=True)
class Picture:
    """A file with its caption and its part in the training."""

    path: Path
    caption: str
    concept: int
    is_class: bool


@dataclass(frozen=True)
class Gathered:
    """All pictures of a run, what the user should know of them, and what must be put right first."""

    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """The instance or the class folder of a concept."""

    concept: int
    folder: str
    prompt: str | None
    source: str  # of captions
    most: int | None  # pictures used; None for all
    is_class: bool


def gather(
    concepts: Sequence[Concept],
    *,
    captions: str = "prompt",
    class_captions: str = "txt_or_prompt",
    template: str = TEMPLATE,
    with_prior_preservation: bool = False,
    num_class_images: int | None = None,
    leave_out: Collection[Path] = (),
) -> Gathered:
    """The concepts' pictures with captions from two of `captions.SOURCES`.

    `num_class_images` is the most that a concept uses of its class pictures, as in diffusers (None: all).
    `leave_out` are broken pictures that the user agreed to go on without.
    """
    pictures: list[Picture] = []
    notes: list[str] = []
    problems: list[str] = []
    for part in _parts(concepts, captions, class_captions, num_class_images, with_prior_preservation):
        try:
            folder = scan_folder(part.folder)
        except ValueError as error:
            problems.append(str(error))
            continue
        notes += _notes(folder, part.source)
        usable = [path for path in folder.pictures if path not in leave_out][: part.most]
        if not usable:
            problems.append(f"{part.folder}: no {'class' if part.is_class else 'instance'} picture in this folder")
        texts, found = captions_of(usable, part.source, part.prompt, template)
        problems += found
        pictures += [Picture(path, text, part.concept, part.is_class) for path, text in zip(usable, texts, strict=True)]
    return Gathered(tuple(pictures), tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(problems)))


def _parts(
    concepts: Sequence[Concept], captions: str, class_captions: str, num_class_images: int | None, with_classes: bool
) -> Iterator[_Part]:
    for number, concept in enumerate(concepts):
        yield _Part(number, concept.instance_data_dir, concept.instance_prompt, captions, None, False)
        if with_classes and concept.class_data_dir:
            most = concept.num_class_images or num_class_images
            yield _Part(number, concept.class_data_dir, concept.class_prompt, class_captions, most, True)


def _notes(folder: Folder, source: str) -> list[str]:
    notes = [line] if (line := folder.skipped_line()) else []
    if folder.captions and source in ("prompt", "filename"):
        count = len(folder.captions)
        notes.append(f"{folder.path}: {count} caption files are not used; --use_txt_as_label takes captions from them")
    return notes
