"""Data sets by Hugging Face `datasets`: from the Hub, from local files, as a whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flaxdream.data.folder_tree import SPLITS

SAVED = ("state.json", "dataset_dict.json")  # what `save_to_disk` leaves in a folder


def load_split(
    dataset_name: str,
    dataset_config_name: str | None = None,
    *,
    split: str = "train",
    data_dir: str | None = None,
    data_files: str | list[str] | None = None,
    cache_dir: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    streaming: bool = False,
) -> Any:
    """One split as a `datasets.Dataset`, or as an IterableDataset with `streaming`; ValueError says what to do.

    `dataset_name` is a name on the Hub, a local folder, or a kind of file that `datasets` reads ("parquet").
    """
    import datasets

    where = f"--dataset_name {dataset_name}"
    with quiet():
        try:
            if is_saved(dataset_name):
                found = datasets.load_from_disk(dataset_name)
                found = found if isinstance(found, dict) else {split: found}
                found = {name: part.to_iterable_dataset() for name, part in found.items()} if streaming else found
            else:
                found = datasets.load_dataset(
                    dataset_name,
                    dataset_config_name,
                    data_dir=data_dir,
                    data_files=data_files,
                    cache_dir=cache_dir,
                    revision=revision,
                    token=token,
                    streaming=streaming,
                )
        except ConnectionError as error:
            raise ValueError(
                f"{where}: the Hub cannot be reached, and there is no such local folder ({error})"
            ) from error
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise ValueError(f"{where} cannot be loaded: {error}") from error
    for name in (split, *SPLITS.get(split, ())):
        if name in found:
            return found[name]
    raise ValueError(f"{where} has no split {split!r}; it has {', '.join(map(str, found))}")


def is_saved(folder: str | Path) -> bool:
    """Whether the folder is one that `save_to_disk` wrote."""
    return any((Path(folder) / name).is_file() for name in SAVED)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no log lines of `datasets` inside; afterwards all is as it was."""
    import datasets
    from datasets.utils import logging

    bars, level = datasets.are_progress_bars_disabled(), logging.get_verbosity()
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
