"""Batches for the step: live pixels from the loader, or cached moments and text states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from flaxdream.arrays import Params
from flaxdream.data.images import to_model_range
from flaxdream.data.loader import Loader
from flaxdream.data.rows import RowSource
from flaxdream.sampling.placement import local_mesh, on_every_device, split_rows
from flaxdream.training.recipes.latent_diffusion import encode_captions, encode_pictures

LIVE = ("pixels", "weight", "row", "caption_index", "is_class")
Tokenize = Callable[[Sequence[str]], np.ndarray]  # captions to ids [b, s]
Moments = Mapping[int, tuple[np.ndarray, np.ndarray]]  # of each picture by index: mean and log variance [h, w, c]


def live_batches(
    loader: Loader, start: int, stop: int, tokenize: Tokenize | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Decoded pictures; text and latents are made in the step. Rows bring token ids where `tokenize` is given."""
    for batch in loader.batches(start, stop):
        rows = {name: batch[name] for name in LIVE}
        yield rows if tokenize is None else rows | {"ids": tokenize(batch["caption"].tolist())}


def cached_batches(
    source: RowSource, places: Sequence[int], moments: Moments, start: int, stop: int, tokenize: Tokenize | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """The same rows with the moments of their pictures instead of the pictures; a step draws from them anew."""
    for step in range(start, stop):
        here = source.rows(step, places)
        found = [moments[row.index] for row in here]
        batch = {
            "mean": np.stack([mean for mean, _ in found]),
            "logvar": np.stack([logvar for _, logvar in found]),
            "weight": np.array([row.weight for row in here], np.float32),
            "row": np.array([row.row for row in here], np.int32),
            "caption_index": np.array([row.caption_index for row in here], np.int32),
            "is_class": np.array([row.is_class for row in here]),
        }
        yield batch if tokenize is None else batch | {"ids": tokenize([row.caption for row in here])}


def cache_moments(
    vae: Any, params: Params, loader: Loader, progress: Any, *, rows_per_device: int = 1
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Mean and log variance of every picture, by all devices of this host in full batches of one size."""
    mesh = local_mesh()
    params = jax.device_put(params, on_every_device(mesh))
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for indices in _by_resolution(loader.source):
        batch = mesh.size * min(rows_per_device, -(-len(indices) // mesh.size))
        for start in range(0, len(indices), batch):
            part = indices[start : start + batch]
            pixels = [to_model_range(loader.picture(index).pixels) for index in part]
            filled = np.stack([*pixels, *[pixels[-1]] * (batch - len(part))])
            mean, logvar = map(np.asarray, encode_pictures(vae, params, jax.device_put(filled, split_rows(mesh))))
            found |= {index: (mean[row], logvar[row]) for row, index in enumerate(part)}
            progress(len(part))
    return found


def _by_resolution(source: RowSource) -> list[list[int]]:
    """The pictures' indices, those of one size together."""
    groups: dict[Any, list[int]] = {}
    for index in range(len(source)):
        groups.setdefault(source.resolution(index), []).append(index)
    return list(groups.values())


def cache_context(text_encoder: Any, params: Params, ids_bs: np.ndarray) -> np.ndarray:
    """Text states of every caption [captions, s, d]."""
    return np.asarray(encode_captions(text_encoder, params, ids_bs))
