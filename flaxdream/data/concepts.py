"""The subjects of a run: from the flags, from a concepts_list JSON, or from kohya's folder names."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

KOHYA_NAME = re.compile(r"(\d+)_(.+)")


@dataclass(frozen=True)
class Concept:
    """A folder of pictures of one subject with its prompt, and the class that it belongs to."""

    instance_data_dir: str
    instance_prompt: str | None = None
    class_data_dir: str | None = None
    class_prompt: str | None = None
    repeats: int | None = None
    """How often an epoch shows each instance picture; None leaves the balance between concepts to us."""
    num_class_images: int | None = None
    """For this concept; the command's own number if None."""


NUMBERS = ("repeats", "num_class_images")
KEYS = {field.name: int if field.name in NUMBERS else str for field in fields(Concept)}


def concepts_from_json(path: str | Path) -> tuple[list[Concept], list[str]]:
    """The concepts of a `concepts_list` file (Shivam Shrirao's format) and all that is wrong with it.

    A list of objects with the keys of Concept. Paths are relative to the working directory, as in his script.
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        return [], [f"--concepts_list {path} cannot be read: {error.strerror}"]
    except ValueError as error:  # also text that is not UTF-8
        return [], [f"--concepts_list {path} is not valid JSON: {error}"]
    if not isinstance(raw, list) or not raw:
        return [], [f"--concepts_list {path} must hold a list of one or more objects such as {_EXAMPLE}"]
    concepts, problems = [], []
    for number, entry in enumerate(raw, start=1):
        found = _entry_problems(entry)
        problems += [f"--concepts_list {path}, entry {number}: {problem}" for problem in found]
        if not found:
            concepts.append(Concept(**{key: value for key, value in entry.items() if value is not None}))
    return concepts, problems


_EXAMPLE = '{"instance_data_dir": "data/rex", "instance_prompt": "photo of zwx dog"}'


def _entry_problems(entry: Any) -> list[str]:
    if not isinstance(entry, dict):
        return [f"{entry!r} is not an object such as {_EXAMPLE}"]
    problems = []
    for key, value in entry.items():
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"; perhaps you meant {close[0]!r}" if close else ""
            problems.append(f"unknown key {key!r}{hint} (known: {', '.join(KEYS)})")
        elif value is not None and (not isinstance(value, KEYS[key]) or isinstance(value, bool)):
            kind = "a whole number" if KEYS[key] is int else "text"
            problems.append(f"{key} is {value!r}; expected {kind}")
    if not entry.get("instance_data_dir"):
        problems.append("instance_data_dir is missing")
    return problems


def concepts_from_kohya(
    instance_root: str | Path, class_root: str | Path | None = None
) -> tuple[list[Concept], list[str]]:
    """One concept for each sub-folder named `N_token class` (`10_sks dog`): N repeats of the prompt "sks dog".

    `class_root` is kohya's reg_data_dir with folders `N_class` (`1_dog`): each belongs to the concepts whose name
    ends with that class; a single one belongs to all. Its N has no meaning here: a class picture goes with every
    instance picture. Folders with other names are problems, where kohya leaves them out.
    """
    instances, problems = _numbered_folders(Path(instance_root))
    classes: list[tuple[int, str, Path]] = []
    if class_root is not None:
        classes, found = _numbered_folders(Path(class_root))
        problems += found
    concepts, used = [], set()
    for repeats, name, folder in instances:
        match = _class_of(name, classes)
        if match is not None:
            used.add(match[2])
        elif classes:
            names = ", ".join(path.name for _, _, path in classes)
            problems.append(f"{folder}: {name!r} ends with no class of {class_root} ({names})")
        class_folder, class_name = (str(match[2]), match[1]) if match else (None, None)
        concepts.append(Concept(str(folder), name, class_folder, class_name, repeats))
    problems += [
        f"{path}: no instance folder is of this class" for _, _, path in classes if path not in used and concepts
    ]
    return concepts, problems


def _class_of(name: str, classes: Sequence[tuple[int, str, Path]]) -> tuple[int, str, Path] | None:
    """The longest class that the name ends with, by whole words; the only class there is; else None."""
    fitting = [entry for entry in classes if f" {name}".endswith(f" {entry[1]}")]
    if fitting:
        return max(fitting, key=lambda entry: len(entry[1]))
    return classes[0] if len(classes) == 1 else None


def _numbered_folders(root: Path) -> tuple[list[tuple[int, str, Path]], list[str]]:
    try:
        folders = sorted((entry for entry in root.iterdir() if entry.is_dir()), key=lambda entry: entry.name)
    except OSError as error:
        return [], [f"{root}: the folder cannot be read: {error.strerror}"]
    found, problems = [], []
    for folder in folders:
        if folder.name.startswith("."):
            continue  # .cache of a Hub download
        match = KOHYA_NAME.fullmatch(folder.name)
        if match is None:
            problems.append(f"{folder}: expected a name such as '10_sks dog' (repeats, '_', prompt)")
        elif int(match[1]) < 1:
            problems.append(f"{folder}: its repeats are 0; write 1 or more, or move the folder away")
        else:
            found.append((int(match[1]), match[2].strip(), folder))
    if not found and not problems:
        problems.append(f"{root}: no sub-folder named as '10_sks dog' (repeats, '_', prompt)")
    return found, problems


def concept_problems(
    concepts: Sequence[Concept], *, with_prior_preservation: bool, needs_prompt: bool = True
) -> list[str]:
    """What is wrong with the concepts before a picture is opened; `needs_prompt` is false where captions have none."""
    problems = []
    for concept in concepts:
        where = f"concept {concept.instance_data_dir}"
        if needs_prompt and not (concept.instance_prompt or "").strip():
            problems.append(f"{where}: instance_prompt is missing")
        if concept.repeats is not None and concept.repeats < 1:
            problems.append(f"{where}: repeats is {concept.repeats}; expected 1 or more")
        if concept.num_class_images is not None and concept.num_class_images < 1:
            problems.append(f"{where}: num_class_images is {concept.num_class_images}; expected 1 or more")
        if not with_prior_preservation:
            continue
        problems += [
            f"{where}: {name} is missing; prior preservation needs it"
            for name in ("class_data_dir", "class_prompt")
            if not (getattr(concept, name) or "").strip()
        ]
        if (
            concept.class_data_dir
            and Path(concept.class_data_dir).resolve() == Path(concept.instance_data_dir).resolve()
        ):
            problems.append(
                f"{where}: class_data_dir is the same folder; give the class pictures a folder of their own"
            )
    folders = [str(Path(concept.instance_data_dir).resolve()) for concept in concepts]
    twice = sorted({folder for folder in folders if folders.count(folder) > 1})
    return problems + [f"two concepts have the same instance_data_dir {folder}; merge them" for folder in twice]
