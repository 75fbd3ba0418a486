"""What arrays take on one device, known from their shapes and shardings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax


def bytes_by_path(trees: Mapping[str, Any]) -> dict[str, int]:
    """Bytes on one device of each leaf, by its path as the compiler names arguments; those on the host are left out."""
    found = {}
    for name, tree in trees.items():
        for path, leaf in jax.tree.leaves_with_path(tree):
            if leaf.sharding.memory_kind != "pinned_host":
                found[name + jax.tree_util.keystr(path)] = shard_bytes(leaf)
    return found


def shard_bytes(leaf: Any) -> int:
    """Bytes of the part of an array that one device holds."""
    shape = leaf.sharding.shard_shape(leaf.shape)
    size = 8 if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
    return math.prod(shape) * size
