"""What lies in a folder of pictures, and a check that each can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flaxdream.data.images import BrokenPicture, is_picture, read_picture

NAMES_SHOWN = 5
CAPTION_EXTENSIONS = (".txt", ".caption")


@dataclass(frozen=True)
class Folder:
    """The pictures of a folder by name, its caption files, and what was left out with the reason."""

    path: Path
    pictures: tuple[Path, ...]
    captions: tuple[Path, ...]  # text files that lie beside a picture of the same name
    skipped: tuple[tuple[Path, str], ...]

    def skipped_line(self) -> str | None:
        """One line with all that is no picture: how many, why, the first names; None if there is nothing."""
        if not self.skipped:
            return None
        reasons = [reason for _, reason in self.skipped]
        kinds = [f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons)]
        names = shortened([path.name for path, _ in self.skipped])
        return f"{self.path}: {len(self.pictures)} pictures; left out {', '.join(kinds)}: {names}"


def scan_folder(path: str | Path) -> Folder:
    """The folder's entries, sorted by name so that every host sees the same order; sub-folders are not entered.

    Left out are other files (`.DS_Store`, `Thumbs.db`, hidden ones), sub-folders such as `.cache/`, which Hub
    downloads leave, empty files and broken links. ValueError if there is no such folder.
    """
    path = Path(path)
    try:
        entries = sorted(path.iterdir(), key=lambda entry: entry.name)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such folder") from error
    except NotADirectoryError as error:
        raise ValueError(f"{path}: this is a file; expected a folder of pictures") from error
    except OSError as error:
        raise ValueError(f"{path}: the folder cannot be read: {error.strerror}") from error
    reasons = [(entry, _why_no_picture(entry)) for entry in entries]
    pictures = tuple(entry for entry, reason in reasons if reason is None)
    texts = {beside for picture in pictures for beside in caption_files(picture)}
    captions = tuple(entry for entry in entries if entry in texts and entry.is_file())
    skipped = tuple((entry, reason) for entry, reason in reasons if reason and entry not in captions)
    return Folder(path, pictures, captions, skipped)


def _why_no_picture(entry: Path) -> str | None:
    if entry.is_dir():
        return "sub-folder"
    if not entry.is_file():
        return "broken link"
    if entry.name.startswith(".") or not is_picture(entry):
        return "other file"
    return "empty file" if entry.stat().st_size == 0 else None


def caption_files(picture: Path) -> list[Path]:
    """Where a picture's caption may lie: image.txt, image.caption, image.png.txt."""
    return [picture.with_suffix(ext) for ext in CAPTION_EXTENSIONS] + [picture.with_name(f"{picture.name}.txt")]


def shortened(names: Sequence[str], shown: int = NAMES_SHOWN) -> str:
    """The first names, and how many more there are."""
    more = f", and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def check_pictures(
    paths: Iterable[Path], progress: Callable[[int, int], None] | None = None, num_workers: int = 0
) -> list[BrokenPicture]:
    """Reads every picture to the end and returns all that are broken, in order; none is kept in memory.

    `progress` is called with how many are done and how many there are.
    """
    unique = list(dict.fromkeys(paths))
    broken = []
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        results = pool.map(_broken, unique) if num_workers else map(_broken, unique)
        for done, problem in enumerate(results, start=1):
            if problem is not None:
                broken.append(problem)
            if progress is not None:
                progress(done, len(unique))
    return broken


def _broken(path: Path) -> BrokenPicture | None:
    try:
        read_picture(path)
    except BrokenPicture as problem:
        problem.__traceback__ = None  # else it holds the decoder's buffers
        return problem
    return None
