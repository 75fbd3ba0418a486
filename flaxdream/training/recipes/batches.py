"""Batches for the step: live pixels from the loader, or cached moments and text states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from flaxdream.data.loader import Loader
from flaxdream.data.rows import RowSource
from flaxdream.data.shards import Shards
from flaxdream.training.recipes.cached import Moments

LIVE = ("pixels", "weight", "row", "caption_index", "is_class")
Tokenize = Callable[[Sequence[str]], np.ndarray]  # captions to ids [b, s]


def live_batches(
    loader: Loader, start: int, stop: int, *, tokenize: Tokenize | None = None, context: Shards | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Decoded pictures; latents are made in the step. Text as of `cached_batches`."""
    for batch in loader.batches(start, stop):
        rows = {name: batch[name] for name in LIVE}
        yield rows | _text(batch["caption"].tolist(), batch["caption_index"], tokenize, context)


def cached_batches(
    source: RowSource,
    places: Sequence[int],
    moments: Moments,
    start: int,
    stop: int,
    *,
    tokenize: Tokenize | None = None,
    context: Shards | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """The same rows with the moments of their pictures instead of the pictures; a step draws from them anew.

    Rows bring token ids where `tokenize` is given, text states where `context` is.
    """
    for step in range(start, stop):
        here = source.rows(step, places)
        moments_b = np.stack([moments[row.index] for row in here])
        batch = {
            "mean": moments_b[:, 0],
            "logvar": moments_b[:, 1],
            "weight": np.array([row.weight for row in here], np.float32),
            "row": np.array([row.row for row in here], np.int32),
            "caption_index": np.array([row.caption_index for row in here], np.int32),
            "is_class": np.array([row.is_class for row in here]),
        }
        yield batch | _text([row.caption for row in here], batch["caption_index"], tokenize, context)


def _text(
    captions: Sequence[str], caption_index: np.ndarray, tokenize: Tokenize | None, context: Shards | None
) -> dict[str, np.ndarray]:
    if context is not None:
        return {"context": np.stack([context[int(index)] for index in caption_index])}
    return {} if tokenize is None else {"ids": tokenize(captions)}
