"""A step whose parameters lie in parts on the devices: whole while it computes, in parts while they change.

Each parameter is gathered once a step, in the smaller of the types that it is kept and computed in, and each gradient
is summed over the devices, a kernel's in the type that is computed in, into the part that its device keeps (ZeRO stage
2, Rajbhandari et al. 2020, section 5.2, with the parameters' own parts of stage 3). Left to itself the compiler gathers
most of them twice, for the forward and the backward pass, and in float32 where that suits it.

How they are summed is the compiler's choice: on v4, v5e and v6e by reduce-scatter; on v2 and v3, and over several
groups of devices that hold all parts each, whole and cut afterwards, which sends twice as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flaxdream.arrays import Params


@dataclass(frozen=True)
class WholeParams:
    """`places` has the NamedSharding of each parameter; kernels are computed in `dtype`."""

    places: Params
    dtype: Any

    def gather(self, params: Params) -> Params:
        """The parameters whole on every device; kernels that were in parts, which the layers would cast, in the
        computing type, all else in float32."""

        def gather(path: Any, leaf: jax.Array, place: NamedSharding) -> jax.Array:
            if place.is_fully_replicated:
                return leaf.astype(jnp.float32)
            dtype = jnp.dtype(self.dtype if path[-1].key == "kernel" else jnp.float32)
            leaf = leaf.astype(dtype) if dtype.itemsize < leaf.dtype.itemsize else leaf
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(place.mesh, P())).astype(dtype)

        return jax.tree.map_with_path(gather, params, self.places)

    def scatter(self, gradients: Params) -> Params:
        """Gradients for whole parameters as those of the parameters in parts: float32, in their places."""

        def scatter(gradient: jax.Array, place: NamedSharding) -> jax.Array:
            gradient = gradient.astype(jnp.float32)
            return gradient if place.is_fully_replicated else jax.lax.with_sharding_constraint(gradient, place)

        return jax.tree.map(scatter, gradients, self.places)
