"""An endless stream of examples, shuffled block by block, whose place can be stored and found again exactly.

`datasets` loses its shuffle buffer when it resumes. Here the stream is cut into blocks; each is read whole and
shuffled by an address of its own. Where a block starts is what is stored: from there the block is read again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from flaxdream.data.draws import Purpose, permutation
from flaxdream.data.hub_loading import quiet

Example = TypeVar("Example")
EPOCHS = 2**31  # the seeds that `datasets` can shuffle its files by


@dataclass(frozen=True)
class BlockStart:
    """What reading a block begins from; JSON can hold it."""

    first: int  # how many examples were there before
    number: int  # of the block
    epoch: int
    dataset: Mapping[str, Any] | None  # the state of the `datasets` stream; None at the start of an epoch


@dataclass(frozen=True)
class _Block(Generic[Example]):
    start: BlockStart
    examples: list[Example]  # the next one last
    next: BlockStart


class BlockStream(Generic[Example]):
    """Example after example, epoch after epoch; the files of an epoch come in an order of its own.

    A block never reaches over the end of an epoch: an epoch shows each example once. While one block is used the next
    is read, so that two are in memory. One thread may ask for examples and another for places that came before.
    """

    def __init__(
        self, dataset: Any, seed: int, share: int, buffer_size: int, usable: Callable[[Any], Example | None], name: str
    ):
        """`dataset` is this host's share of an IterableDataset; `share` is the number of that share.

        `usable` makes an example of a row; rows for which it gives None are passed over.
        """
        if buffer_size < 1:
            raise ValueError(f"shuffle buffer {buffer_size}; expected 1 or more")
        self.dataset, self.seed, self.share, self.buffer_size, self.name = dataset, seed, share, buffer_size, name
        self._usable = usable
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="flaxdream-stream")
        self._rows: Iterator[Any] | None = None  # the reader's alone while it reads
        self._coming: Future[_Block[Example]] | None = None
        self._lock = threading.Lock()
        self.go_to(BlockStart(0, 0, 0, None))

    def go_to(self, start: BlockStart) -> None:
        """The next example is the first of the block that starts there."""
        if self._coming is not None and not self._coming.cancel():
            self._coming.exception()  # waits
        self._rows, self._coming, self._from = None, None, start
        self._block: _Block[Example] | None = None
        self._starts: deque[BlockStart] = deque()  # of blocks that `start_of` may be asked for
        self.place = start.first

    def __next__(self) -> Example:
        with self._lock:
            if self._block is None or self.place == self._block.next.first:
                self._block = self._next_block().result()
                self._from, self._coming = self._block.next, None
                self._next_block()
                self._starts.append(self._block.start)
            self.place += 1
            return self._block.examples.pop()

    def start_of(self, place: int) -> BlockStart:
        """Where the block with this example starts; nothing before it can be asked for afterwards."""
        with self._lock:
            if self._block is None or place == self._block.next.first:
                return self._next_block().result().start
            while len(self._starts) > 1 and self._starts[1].first <= place:
                self._starts.popleft()
            return self._starts[0]

    def _next_block(self) -> Future[_Block[Example]]:
        """The block after the one in use, being read."""
        if self._coming is None:
            self._coming = self._reader.submit(self._read, self._from)
        return self._coming

    def close(self) -> None:
        """Ends the reading."""
        self._reader.shutdown(cancel_futures=True)

    def _read(self, start: BlockStart) -> _Block[Example]:
        """The block that starts there, shuffled; it runs in one thread only."""
        with quiet():
            if self._rows is None:
                self._rows = self._open(start.epoch, start.dataset)
            examples, ended = self._some()
            if ended and not examples:
                if start.dataset is None:
                    raise ValueError(f"{self.name}: there is no row with a caption in the whole stream")
                self._rows = None
                return self._read(BlockStart(start.first, start.number, start.epoch + 1, None))
            state = None if ended else self.dataset.state_dict()
        if ended:
            self._rows = None
        order = permutation(self.seed, Purpose.STREAM, (self.share, start.number), len(examples))
        after = BlockStart(start.first + len(examples), start.number + 1, start.epoch + ended, state)
        return _Block(start, [examples[place] for place in order[::-1]], after)

    def _some(self) -> tuple[list[Example], bool]:
        """Examples for one block, and whether the epoch ends with them."""
        assert self._rows is not None
        examples: list[Example] = []
        for row in self._rows:
            if (example := self._usable(row)) is not None:
                examples.append(example)
            if len(examples) == self.buffer_size:
                return examples, False
        return examples, True

    def _open(self, epoch: int, state: Mapping[str, Any] | None) -> Iterator[Any]:
        self.dataset.set_epoch(1 + (self.seed + epoch) % (EPOCHS - 1))  # 0 would leave the files in their order
        if state is not None:
            self.dataset.load_state_dict(dict(state))
        return iter(self.dataset)


def start_to_json(start: BlockStart) -> dict[str, Any]:
    """For a checkpoint."""
    return asdict(start)


def start_from_json(stored: Mapping[str, Any]) -> BlockStart:
    """The start that `start_to_json` stored."""
    return BlockStart(stored["first"], stored["number"], stored["epoch"], stored["dataset"])
