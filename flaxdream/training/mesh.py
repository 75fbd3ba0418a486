"""The mesh of a run, `data` x `fsdp`, and where parameters and rows lie on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxdream.arrays import Array, Shapes

SMALLEST_SHARDED = 2**16  # elements; smaller parameters lie whole on every device


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all hosts (or those given); `fsdp` of them share the parameters, the others hold copies."""
    count = jax.device_count() if devices is None else len(devices)
    if fsdp < 1 or count % fsdp:
        fitting = [n for n in range(1, count + 1) if count % n == 0]
        raise ValueError(f"--fsdp {fsdp} does not divide the {count} devices. That do: {', '.join(map(str, fitting))}.")
    axes, types = ("data", "fsdp"), (AxisType.Auto,) * 2
    return jax.make_mesh((count // fsdp, fsdp), axes, axis_types=types, devices=devices)


def rows_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over all devices."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, P())


def param_shardings(shapes: Shapes, mesh: Mesh) -> Any:
    """Each parameter cut along an axis that the `fsdp` devices divide; whole where there is none.

    The last axis only if no other will do: TPUs store it in tiles of 128, which parts of it may not fill, and parts of
    the others follow each other in memory. Of several the last.
    """
    parts = mesh.shape["fsdp"]

    def place(leaf: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0]
        if parts == 1 or not axes or math.prod(leaf.shape) < SMALLEST_SHARDED:
            return NamedSharding(mesh, P())
        last = len(leaf.shape) - 1
        cut = max((axis for axis in axes if axis != last), default=last)
        return NamedSharding(mesh, P(*(("fsdp" if axis == cut else None) for axis in range(len(leaf.shape)))))

    return jax.tree.map(place, shapes)


def local_rows(mesh: Mesh, rows: int) -> list[int]:
    """The rows of a global batch that lie on this process's devices, in order."""
    spread = rows_sharding(mesh).addressable_devices_indices_map((rows,))
    parts = [index[0] for index in spread.values() if index is not None]
    return sorted({row for part in parts for row in range(*part.indices(rows))})


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """This process's rows as global arrays whose rows lie over all devices."""
    sharding = rows_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
