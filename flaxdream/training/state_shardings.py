"""Where the leaves of a training state lie, derived from where the parameters lie."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxdream.arrays import Params


def state_shardings(state_shapes: Any, param_shardings: Params) -> Any:
    """A NamedSharding for each leaf of a state: `jax.eval_shape(optimizer.init, shapes)`, or a whole train state.

    Parameters are dicts all the way down and states are dicts and tuples around such dicts, so the last dict keys
    on the way to a leaf name its parameter. A leaf with as many axes as the parameter is sharded as it is, but for
    axes whose size the mesh does not divide (8-bit scales); all others, such as counters and Adafactor's rows and
    columns, are small and lie on every device.
    """
    by_path = {_keys(path): sharding for path, sharding in jax.tree.leaves_with_path(param_shardings)}
    mesh = next(iter(by_path.values())).mesh

    def place(path: Any, leaf: Any) -> NamedSharding:
        keys = _keys(path)
        of_param = next((by_path[keys[i:]] for i in range(len(keys)) if keys[i:] in by_path), None)
        if of_param is None or len(leaf.shape) < len(of_param.spec):
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, _divisible(of_param.spec, leaf.shape, mesh))

    return jax.tree.map_with_path(place, state_shapes)


def in_host_memory(shardings: Any) -> Any:
    """The same places in the memory of the host that each device belongs to, pinned so that copies are quick."""
    return jax.tree.map(lambda sharding: sharding.with_memory_kind("pinned_host"), shardings)


def _keys(path: Any) -> tuple[str, ...]:
    return tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))


def _divisible(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    return PartitionSpec(*(axes if size % _devices(axes, mesh) == 0 else None for axes, size in zip(spec, shape)))


def _devices(axes: Any, mesh: Mesh) -> int:
    names = () if axes is None else axes if isinstance(axes, tuple) else (axes,)
    return math.prod(mesh.shape[name] for name in names)
