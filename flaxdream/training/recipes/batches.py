"""Batches for the step: live pixels from the loader, or cached moments and text states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def live_batches(loader: Loader, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    """Decoded pictures; text and latents are made in the step."""
    for batch in loader.batches(start, stop):
        yield {name: batch[name] for name in LIVE}


def cached_batches(
    source: RowSource, rows: Sequence[int], mean: np.ndarray, logvar: np.ndarray, start: int, stop: int
) -> Iterator[dict[str, np.ndarray]]:
    """The same rows with the moments of their pictures instead of the pictures; a step draws from them anew."""
    for step in range(start, stop):
        drawn = source.rows(step)
        here = [drawn[row] for row in rows]
        index = np.array([row.index for row in here])
        yield {
            "mean": mean[index],
            "logvar": logvar[index],
            "weight": np.array([row.weight for row in here], np.float32),
            "row": np.array([row.row for row in here], np.int32),
            "caption_index": np.array([row.caption_index for row in here], np.int32),
            "is_class": np.array([row.is_class for row in here]),
        }


def cache_moments(
    vae: Any, params: Params, loader: Loader, progress: Any, *, rows_per_device: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log variance of every picture [pictures, h, w, c], by all devices of this host in full batches."""
    mesh = local_mesh()
    params = jax.device_put(params, on_every_device(mesh))
    count = len(loader.source)
    batch = mesh.size * min(rows_per_device, -(-count // mesh.size))
    found = []
    for start in range(0, count, batch):
        indices = np.resize(np.arange(start, min(start + batch, count)), batch)
        pixels = np.stack([to_model_range(loader.picture(int(index)).pixels) for index in indices])
        moments = encode_pictures(vae, params, jax.device_put(pixels, split_rows(mesh)))
        found.append([np.asarray(part) for part in moments])
        progress(min(batch, count - start))
    mean, logvar = (np.concatenate(parts)[:count] for parts in zip(*found))
    return mean, logvar


def cache_context(text_encoder: Any, params: Params, ids_bs: np.ndarray) -> np.ndarray:
    """Text states of every caption [captions, s, d]."""
    return np.asarray(encode_captions(text_encoder, params, ids_bs))
