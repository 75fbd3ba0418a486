"""Where the arrays of a sampling call lie: rows over the devices of this host, parameters on each of them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxdream.arrays import Array, Key, Params, Shapes


def local_mesh() -> Mesh:
    """All devices of this host on one axis, `data`. Hosts sample on their own, without talking."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def split_rows(mesh: Mesh) -> NamedSharding:
    """Rows cut into equal parts, one a device."""
    return NamedSharding(mesh, P("data"))


def on_every_device(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, P())


def is_replicated_by_flax(params: Params, shapes: Shapes) -> bool:
    """Whether the parameters carry the leading device axis of `flax.jax_utils.replicate`."""
    leaves, expected = jax.tree.leaves(params), jax.tree.leaves(shapes)
    return all(leaf.shape[1:] == shape.shape and leaf.ndim > shape.ndim for leaf, shape in zip(leaves, expected))


def drop_device_axis(params: Params, mesh: Mesh) -> Params:
    """The parameters without the leading device axis; to be traced. Each device keeps its own copy, unmoved."""
    first = jax.shard_map(
        lambda tree: jax.tree.map(lambda leaf: leaf[0], tree),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P(),
        check_vma=False,
    )
    return first(params)


def as_keys(prng_seed: Any) -> Key[Array, "*d"]:
    """Typed random keys from what `jax.random.PRNGKey` and `split` return, or from typed keys."""
    seed: Any = prng_seed if isinstance(prng_seed, jax.Array) else np.asarray(prng_seed)
    if jax.numpy.issubdtype(seed.dtype, jax.dtypes.prng_key):
        return seed
    if seed.dtype != np.uint32 or seed.shape[-1:] != (2,):
        raise ValueError(
            f"prng_seed has dtype {seed.dtype} and shape {seed.shape}; expected the keys that "
            "jax.random.PRNGKey(seed), jax.random.key(seed) or jax.random.split of them return."
        )
    return jax.random.wrap_key_data(seed)
