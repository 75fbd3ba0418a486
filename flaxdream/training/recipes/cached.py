"""What is computed once for a run: moments of its pictures and states of its captions, in memory or on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from flaxdream.arrays import Params
from flaxdream.data.digests import content_digest, text_digest
from flaxdream.data.held_back import held_back
from flaxdream.data.images import Crop, to_model_range
from flaxdream.data.loader import Loader
from flaxdream.data.rows import RowSource
from flaxdream.data.shards import Shards
from flaxdream.sampling.placement import local_mesh, on_every_device, split_rows
from flaxdream.training.recipes.latent_diffusion import encode_captions, encode_pictures

Moments = Mapping[int, np.ndarray]  # of each picture by index: mean and log variance [2, h, w, c]
Progress = Callable[[int], Any]  # told how many rows are there now
Encode = Callable[[Sequence[Sequence[int]], Progress], Generator[np.ndarray, None, None]]  # a row for each index
CAPTIONS = 64  # that are encoded at once


def on_devices(crops: Sequence[Crop], rows: int, mesh: Mesh) -> jax.Array:
    """Pictures [rows, H, W, 3] in -1..1 over the devices of the mesh; the last one again where there are too few."""
    pixels = [crop.pixels for crop in crops]
    filled = np.stack([*pixels, *pixels[-1:] * (rows - len(pixels))])
    return jax.device_put(to_model_range(filled), split_rows(mesh))


def picture_encoder(vae: Any, params: Params, loader: Loader, rows_per_device: int = 1) -> Encode:
    """Groups of pictures of one size to their moments [n, 2, h, w, c], by all devices of this host.

    While they encode a batch, the pictures of the next ones are decoded and the moments of the last one fetched.
    """
    mesh = local_mesh()
    params, rows = jax.device_put(params, on_every_device(mesh)), mesh.size * rows_per_device

    def encoded(crops: Sequence[Crop]) -> tuple[Sequence[jax.Array], int]:
        with jax.set_mesh(mesh):  # attention takes each device's rows by themselves
            moments = encode_pictures(vae, params, on_devices(crops, rows, mesh))
        for each in moments:
            each.copy_to_host_async()
        return moments, len(crops)

    def encode(groups: Sequence[Sequence[int]], progress: Progress) -> Generator[np.ndarray, None, None]:
        cut = [[group[start : start + rows] for start in range(0, len(group), rows)] for group in groups]
        with contextlib.closing(loader.pictures(chain.from_iterable(cut))) as pictures:
            made = held_back(map(encoded, pictures), 1)
            for parts in cut:
                found = []
                for moments, count in (next(made) for _ in parts):
                    found.append(np.stack([np.asarray(each) for each in moments], axis=1)[:count])
                    progress(count)
                yield np.concatenate(found)

    return encode


def caption_encoder(text_encoder: Any, params: Params, ids_bs: np.ndarray) -> Encode:
    """Groups of captions by index to their text states [n, s, d], in batches of one shape."""

    def encode(groups: Sequence[Sequence[int]], progress: Progress) -> Generator[np.ndarray, None, None]:
        for indices in groups:
            found = []
            for start in range(0, len(indices), CAPTIONS):
                part = list(indices[start : start + CAPTIONS])
                filled = part + part[-1:] * (min(CAPTIONS, len(ids_bs)) - len(part))
                found.append(np.asarray(encode_captions(text_encoder, params, ids_bs[filled]))[: len(part)])
                progress(len(part))
            yield np.concatenate(found)

    return encode


def in_memory(source: RowSource, encode: Encode, name: str) -> dict[int, np.ndarray]:
    """The row of every picture, with a progress bar of that name."""
    sizes: dict[Any, list[int]] = {}
    for index in range(len(source)):
        sizes.setdefault(source.resolution(index), []).append(index)
    groups = list(sizes.values())
    with _bar(name, len(source)) as bar, contextlib.closing(encode(groups, bar.update)) as made:
        found = zip(groups, made, strict=True)
        return {index: row for group, rows in found for index, row in zip(group, rows, strict=True)}


def on_disk(shards: Shards, encode: Encode, name: str) -> Shards:
    """The shards, with all files that were missing: each host makes its share, then what it cannot see of others'."""
    with _bar(name, len(shards)) as bar:
        missing = shards.missing()
        bar.update(sum(len(group) for number, group in enumerate(shards.groups) if number not in missing))
        _write(shards, missing[jax.process_index() :: jax.process_count()], encode, bar.update)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(name)
            _write(shards, shards.missing(), encode, bar.update)
    return shards


def _write(shards: Shards, numbers: Sequence[int], encode: Encode, progress: Progress) -> None:
    """Makes the files of the groups with these numbers, each as soon as its rows are there."""
    with contextlib.closing(encode([shards.groups[number] for number in numbers], progress)) as made:
        for number, rows in zip(numbers, made, strict=True):
            shards.write(number, rows)


def maker(component: str | Path, *settings: Any) -> str:
    """A name for the network in a component's folder: digests of its files; with what else makes its numbers."""
    files = sorted(path for path in Path(component).iterdir() if path.is_file())
    return text_digest([*(f"{path.name} {content_digest(path)}" for path in files), *map(str, settings)])


def _bar(name: str, total: int) -> tqdm:
    return tqdm(total=total, desc=name, disable=jax.process_index() != 0, dynamic_ncols=True)
