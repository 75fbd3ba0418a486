"""What is computed once for a run: moments of its pictures and states of its captions, in memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from flaxdream.arrays import Params
from flaxdream.data.digests import content_digest, text_digest
from flaxdream.data.images import to_model_range
from flaxdream.data.loader import Loader
from flaxdream.data.rows import RowSource
from flaxdream.data.shards import Shards
from flaxdream.sampling.placement import local_mesh, on_every_device, split_rows
from flaxdream.training.recipes.latent_diffusion import encode_captions, encode_pictures

Moments = Mapping[int, np.ndarray]  # of each picture by index: mean and log variance [2, h, w, c]
Encode = Callable[[Sequence[int], Callable[[int], Any]], np.ndarray]  # indices, progress -> a row each
CAPTIONS = 64  # that are encoded at once


def picture_encoder(vae: Any, params: Params, loader: Loader, rows_per_device: int = 1) -> Encode:
    """Pictures of one size to moments [n, 2, h, w, c], by all devices of this host in batches of one shape."""
    mesh = local_mesh()
    params, rows = jax.device_put(params, on_every_device(mesh)), mesh.size * rows_per_device

    def encode(indices: Sequence[int], progress: Callable[[int], Any]) -> np.ndarray:
        found = []
        for start in range(0, len(indices), rows):
            part = indices[start : start + rows]
            pixels = [to_model_range(loader.picture(index).pixels) for index in part]
            filled = np.stack([*pixels, *[pixels[-1]] * (rows - len(part))])
            moments = encode_pictures(vae, params, jax.device_put(filled, split_rows(mesh)))
            found.append(np.stack([np.asarray(each) for each in moments], axis=1)[: len(part)])
            progress(len(part))
        return np.concatenate(found)

    return encode


def caption_encoder(text_encoder: Any, params: Params, ids_bs: np.ndarray) -> Encode:
    """Captions by index to text states [n, s, d], in batches of one shape."""

    def encode(indices: Sequence[int], progress: Callable[[int], Any]) -> np.ndarray:
        found = []
        for start in range(0, len(indices), CAPTIONS):
            part = list(indices[start : start + CAPTIONS])
            filled = part + part[-1:] * (min(CAPTIONS, len(ids_bs)) - len(part))
            found.append(np.asarray(encode_captions(text_encoder, params, ids_bs[filled]))[: len(part)])
            progress(len(part))
        return np.concatenate(found)

    return encode


def in_memory(source: RowSource, encode: Encode, name: str) -> dict[int, np.ndarray]:
    """The row of every picture, with a progress bar of that name."""
    groups: dict[Any, list[int]] = {}
    for index in range(len(source)):
        groups.setdefault(source.resolution(index), []).append(index)
    with _bar(name, len(source)) as bar:
        return {
            index: row for group in groups.values() for index, row in zip(group, encode(group, bar.update), strict=True)
        }


def on_disk(shards: Shards, encode: Encode, name: str) -> Shards:
    """The shards, with all files that were missing: each host makes its share, then what it cannot see of others'."""
    with _bar(name, len(shards)) as bar:
        missing = shards.missing()
        bar.update(sum(len(group) for number, group in enumerate(shards.groups) if number not in missing))
        for number in missing[jax.process_index() :: jax.process_count()]:
            shards.write(number, encode(shards.groups[number], bar.update))
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(name)
            for number in shards.missing():
                shards.write(number, encode(shards.groups[number], bar.update))
    return shards


def maker(component: str | Path, *settings: Any) -> str:
    """A name for the network in a component's folder: digests of its files; with what else makes its numbers."""
    files = sorted(path for path in Path(component).iterdir() if path.is_file())
    return text_digest([*(f"{path.name} {content_digest(path)}" for path in files), *map(str, settings)])


def _bar(name: str, total: int) -> tqdm:
    return tqdm(total=total, desc=name, disable=jax.process_index() != 0, dynamic_ncols=True)
