"""Work that each device does on its own rows, where the compiler would not see that rows never meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from flaxdream.arrays import Array

# TPUs whose compiler keeps nothing on the chip between two instructions: each array is written and read again.
NOTHING_STAYS = ("TPU v2", "TPU v3")


def can_be_cut(rows: int) -> bool:
    """Whether there is a mesh in use (`jax.set_mesh`) and its devices divide the rows, or have their own already."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and rows % _sharers(mesh) == 0


def on_own_rows(run: Callable[..., Any], *arrays: Array) -> Any:
    """`run(*arrays)`, where each device of the mesh in use takes its rows (the first axis) of arrays and results."""
    mesh = jax.sharding.get_abstract_mesh()
    if _sharers(mesh) == 1:
        return run(*arrays)
    rows = PartitionSpec(mesh.axis_names)
    return jax.shard_map(run, in_specs=rows, out_specs=rows, check_vma=False)(*arrays)


def one_by_one(run: Callable[[Any, Array], Any], shared: Any, x: Array) -> Any:
    """`run(shared, x)` for the rows of `x` alone, each device one of its own after the other, with memory for one.

    `shared` lies whole on every device.
    """

    def own(shared: Any, x: Array) -> Any:
        results = jax.lax.map(lambda row: run(shared, row[None]), x)
        return jax.tree.map(lambda result: result[:, 0], results)

    mesh = jax.sharding.get_abstract_mesh()
    if not can_be_cut(x.shape[0]) or _sharers(mesh) == 1:
        return own(shared, x)
    rows = PartitionSpec(mesh.axis_names)
    return jax.shard_map(own, in_specs=(PartitionSpec(), rows), out_specs=rows, check_vma=False)(shared, x)


def _sharers(mesh: AbstractMesh) -> int:
    """How many devices cut the rows of this trace between them; inside a shard_map each has its own."""
    return 1 if AxisType.Manual in mesh.axis_types else int(mesh.size)


def keeps_on_chip() -> bool:
    """Whether results of moderate size stay on the chip of the devices in use until they are needed."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is None or device.device_kind not in NOTHING_STAYS
