"""Running a picture-to-picture network tile by tile, so that memory does not grow with the picture."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from flaxdream.arrays import Array, Float

Place = tuple[int, int]


def tiled(
    run: Callable[[Array], Array], x_bhwc: Float[Array, "b h w c"], tile_in: int, tile_out: int, overlap: float
) -> Float[Array, "b h2 w2 o"]:
    """`run` on overlapping tiles with sides `tile_in`, its results (sides `tile_out`) blended linearly.

    Equal to diffusers' tiled VAE: a tile starts every `tile_in * (1 - overlap)` cells, tiles at the right and
    at the bottom are smaller, and a tile is blended with the blended tiles above it and to its left. Tiles of
    one shape are run one after the other by one compiled `run`.
    """
    step = int(tile_in * (1 - overlap))
    if not 0 <= overlap < 1 or step < 1:
        raise ValueError(f"tiles of {tile_in} cells cannot overlap by {overlap} of their side: give 0 to 0.5.")
    extent = int(tile_out * overlap)
    rows, columns = (range(0, length, step) for length in x_bhwc.shape[1:3])
    tiles = {
        (i, j): x_bhwc[:, top : top + tile_in, left : left + tile_in]
        for i, top in enumerate(rows)
        for j, left in enumerate(columns)
    }
    made = _run_by_shape(run, tiles)
    for i, j in itertools.product(range(len(rows)), range(len(columns))):
        if i > 0:
            made[i, j] = _blend(made[i - 1, j], made[i, j], extent, axis=1)
        if j > 0:
            made[i, j] = _blend(made[i, j - 1], made[i, j], extent, axis=2)
    keep = tile_out - extent
    return jnp.concatenate(
        [jnp.concatenate([made[i, j][:, :keep, :keep] for j in range(len(columns))], axis=2) for i in range(len(rows))],
        axis=1,
    )


def _run_by_shape(run: Callable[[Array], Array], tiles: dict[Place, Array]) -> dict[Place, Array]:
    made: dict[Place, Array] = {}
    for shape in sorted({tile.shape for tile in tiles.values()}, reverse=True):
        places = [place for place, tile in tiles.items() if tile.shape == shape]
        results = jax.lax.map(run, jnp.stack([tiles[place] for place in places]))
        made |= {place: results[n] for n, place in enumerate(places)}
    return made


def _blend(before: Array, tile: Array, extent: int, axis: int) -> Array:
    """`tile`, whose first `extent` lines fade in from the last lines of `before`."""
    extent = min(before.shape[axis], tile.shape[axis], extent)
    shape = tuple(extent if a == axis else 1 for a in range(tile.ndim))
    weight = (jnp.arange(extent, dtype=tile.dtype) / extent).reshape(shape)
    last = jax.lax.slice_in_dim(before, before.shape[axis] - extent, before.shape[axis], axis=axis)
    first = jax.lax.slice_in_dim(tile, 0, extent, axis=axis)
    rest = jax.lax.slice_in_dim(tile, extent, tile.shape[axis], axis=axis)
    return jnp.concatenate([last * (1 - weight) + first * weight, rest], axis=axis)
