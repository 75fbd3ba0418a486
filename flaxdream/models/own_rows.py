"""Work that each device does on its own rows, where the compiler would not see that rows never meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from flaxdream.arrays import Array

# TPUs whose compiler keeps nothing on the chip between two instructions: each array is written and read again.
NOTHING_STAYS = ("TPU v2", "TPU v3")


def sharers() -> int:
    """How many devices cut the rows of this trace between them, as far as it is told.

    1 without a mesh in use (`jax.set_mesh`), and inside a shard_map, where each device has its own rows already.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or AxisType.Manual in mesh.axis_types else int(mesh.size)


def can_be_cut(rows: int) -> bool:
    """Whether there is a mesh in use, and its devices divide the rows or have their own already."""
    return not jax.sharding.get_abstract_mesh().empty and rows % sharers() == 0


def on_own_rows(run: Callable[..., Any], *arrays: Array, shared: Any = ()) -> Any:
    """`run(*shared, *arrays)`, where each device of the mesh in use takes its rows of arrays and results.

    Rows are the first axis. What is `shared` lies whole on every device.
    """
    if sharers() == 1:
        return run(*shared, *arrays)
    rows = PartitionSpec(jax.sharding.get_abstract_mesh().axis_names)
    specs = (*(PartitionSpec() for _ in shared), *(rows for _ in arrays))
    return jax.shard_map(run, in_specs=specs, out_specs=rows, check_vma=False)(*shared, *arrays)


def one_by_one(run: Callable[[Any, Array], Any], shared: Any, x: Array) -> Any:
    """`run(shared, x)` for the rows of `x` alone, each device one of its own after the other, with memory for one.

    `shared` lies whole on every device.
    """

    def own(shared: Any, x: Array) -> Any:
        results = jax.lax.map(lambda row: run(shared, row[None]), x)
        return jax.tree.map(lambda result: result[:, 0], results)

    return on_own_rows(own, x, shared=(shared,)) if can_be_cut(x.shape[0]) else own(shared, x)


def keeps_on_chip() -> bool:
    """Whether results of moderate size stay on the chip of the devices in use until they are needed."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is None or device.device_kind not in NOTHING_STAYS
