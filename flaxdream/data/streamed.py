"""Rows of a captioned set that is read as a stream, from the Hub or from files, and never lies here as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxdream.data.caption_draw import CaptionDraw
from flaxdream.data.digests import text_digest
from flaxdream.data.draws import Purpose, uniforms
from flaxdream.data.hub_columns import Columns, stored
from flaxdream.data.images import picture_size
from flaxdream.data.left_out import LeftOut
from flaxdream.data.rows import Row
from flaxdream.data.stream_blocks import BlockStream, start_from_json, start_to_json
from flaxdream.data.tags import AS_THEY_ARE, TagRules

NO_CAPTION = "rows without caption"


@dataclass(frozen=True)
class _Example:
    image: Any  # as the stream has it, not decoded
    captions: tuple[str, ...]


class StreamedRows:
    """The rows of this host, in the order of the stream; a RowSource that only goes forward.

    Each host reads its own share of the stream. Steps are asked for one after another, from 0 or from a place that
    `restore` went back to, and each picture once. The seed and the number of hosts decide the order.
    """

    captions: tuple[str, ...] = ()
    captions_are_fixed, random_access = False, False

    def __init__(
        self,
        dataset: Any,
        name: str,
        batch_size: int,
        seed: int,
        *,
        local_rows: Sequence[int] | None = None,
        process_index: int = 0,
        process_count: int = 1,
        image_column: str = "image",
        caption_column: str = "text",
        proportion_empty_prompts: float = 0.0,
        tags: TagRules = AS_THEY_ARE,
        max_train_samples: int | None = None,
        missing_caption: str = "leave_out",
        buffer_size: int = 1000,
    ):
        """`dataset` is a `datasets.IterableDataset`, from `hub_loading.load_split(streaming=True)`.

        `batch_size` is that of the global batch, and `local_rows` are this host's places in it: an equal run of rows
        if None. `max_train_samples` takes the first of the stream, of many hosts the first of each share. Two blocks of
        `buffer_size` undecoded pictures are in memory; each is shuffled.
        """
        if batch_size < 1 or batch_size % process_count:
            raise ValueError(f"a batch of {batch_size} rows cannot be cut into {process_count} equal parts")
        share = batch_size // process_count
        self.name, self.batch_size, self.seed = name, batch_size, seed
        self.local_rows = tuple(local_rows or range(process_index * share, (process_index + 1) * share))
        self.left_out = LeftOut()
        self._missing_caption, self._hosts, self._seen = missing_caption, process_count, 0
        self._columns = Columns(_features(dataset), name, image_column, caption_column)
        self._caption = CaptionDraw(seed, proportion_empty_prompts, tags)
        self._known_length = _length(dataset, max_train_samples)
        part = _share(self._columns.undecoded(dataset), max_train_samples, process_index, process_count)
        self._stream: BlockStream[_Example] = BlockStream(part, seed, process_index, buffer_size, self._usable, name)
        self._next_step, self._images = 0, dict[int, Any]()

    @property
    def notes(self) -> Sequence[str]:
        """What was passed over until now."""
        return self.left_out.lines(self.name)

    @property
    def batch_rows(self) -> int:
        return self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self) // self.batch_size)

    @property
    def fingerprint(self) -> str:
        """Digest of the name: the content is not known before it is read."""
        return text_digest([self.name])

    def __len__(self) -> int:
        if self._known_length is None:
            raise ValueError(
                f"{self.name} is a stream of unknown length: give --max_train_steps, and --validation_steps instead of "
                "--validation_epochs"
            )
        return self._known_length

    def rows(self, step: int, places: Sequence[int] | None = None) -> list[Row]:
        """This host's rows of the next step; `places` can only be those."""
        if step != self._next_step:
            raise ValueError(f"{self.name} is a stream: step {self._next_step} comes next, not {step}")
        if places is not None and tuple(places) != self.local_rows:
            raise ValueError(f"{self.name} is a stream: this host reads rows {self.local_rows}, not {tuple(places)}")
        self._next_step += 1
        return [self._row(step, row) for row in self.local_rows]

    def _row(self, step: int, row: int) -> Row:
        index = self._stream.place
        example = next(self._stream)
        self._images[index] = example.image
        caption = self._caption(step, row, example.captions)
        top, left, flip = uniforms(self.seed, Purpose.CROP_AND_FLIP, (step, row), 3).tolist()
        return Row(row, index, self.path(index), caption, -1, 1.0, 0, False, (top, left), flip)

    def path(self, index: int) -> Path:
        return Path(f"{self.name}/row {index} of the stream")

    def resolution(self, index: int) -> tuple[int, int] | None:
        return None

    def size(self, index: int) -> tuple[int, int]:
        return picture_size(*stored(self._images[index], self.path(index)))

    def stored(self, index: int) -> tuple[Path, bytes | None]:
        """The picture, once: then it is forgotten."""
        return stored(self._images.pop(index), self.path(index))

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint stores so that `restore` finds the start of that step; this host's own, JSON holds it.

        Steps are asked for in any order that never goes back.
        """
        start = self._stream.start_of(step * len(self.local_rows))
        return {"step": step, "hosts": self._hosts, "rows": len(self.local_rows), "block": start_to_json(start)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The step of the state comes next, with the rows that it would have had."""
        if (state["hosts"], state["rows"]) != (self._hosts, len(self.local_rows)):
            raise ValueError(
                f"{self.name}: the place in the stream was stored by {state['hosts']} hosts with {state['rows']} rows "
                f"each; here are {self._hosts} with {len(self.local_rows)}. Go on with the same, or start anew."
            )
        self._stream.go_to(start_from_json(state["block"]))
        while self._stream.place < state["step"] * len(self.local_rows):
            next(self._stream)
        self._next_step, self._images = state["step"], {}

    def close(self) -> None:
        """Ends the reading in the background."""
        self._stream.close()

    def _usable(self, row: Mapping[str, Any]) -> _Example | None:
        self._seen += 1
        where = f"row {self._seen} read"
        texts = self._columns.captions(row[self._columns.caption], f"{self.name}, {where}")
        if not texts and self._missing_caption == "error":
            raise ValueError(f"{self.name}, {where}: column {self._columns.caption!r} holds no caption")
        if not texts and self._missing_caption == "leave_out":
            self.left_out.add(NO_CAPTION, where)
            return None
        return _Example(row[self._columns.image], texts or ("",))


def _features(dataset: Any) -> Any:
    """The columns; of a stream that does not say them, those of its first row."""
    import datasets

    return dataset.features or datasets.Dataset.from_list([next(iter(dataset))]).features


def _length(dataset: Any, most: int | None) -> int | None:
    splits = dataset.info.splits or {}
    known = splits[dataset.split].num_examples if dataset.split in splits else None
    return known if most is None else most if known is None else min(most, known)


def _share(dataset: Any, most: int | None, process_index: int, process_count: int) -> Any:
    from datasets.distributed import split_dataset_by_node

    if most is not None and most < process_count:
        raise ValueError(f"--max_train_samples {most}; expected at least one for each of {process_count} hosts")
    share = dataset if process_count == 1 else split_dataset_by_node(dataset, process_index, process_count)
    if most is None:
        return share
    return share.take(most // process_count + (process_index < most % process_count))
