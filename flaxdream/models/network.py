"""A network without its weights: what is left of a Flax module once its parameters are a plain dict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from flaxdream.arrays import Array, Params, Shapes


@dataclass(frozen=True, eq=False)  # hashed by identity, so that it can be a static of jit
class Network:
    """A module's structure (`graphdef`), the shapes of its parameters and the config that made it.

    `network(params, *args)` runs it; nothing here holds an array, so a Network is a constant of any jit.
    """

    graphdef: Any
    shapes: Shapes
    config: Any
    make: Callable[[nnx.Rngs], nnx.Module]

    def __call__(self, params: Params, *args: Any, method: str = "__call__", **kwargs: Any) -> Any:
        """The named method of the module with `params` filled in. The only `nnx.merge` of the project.

        nnx.merge pairs leaves by the sorted order of their keys and does not compare names. As strings,
        "10" sorts before "2", so the digit keys of lists become integers first; without that the layers of
        a list of eleven or more would be permuted in silence.
        """
        module = nnx.merge(self.graphdef, _with_integer_list_keys(params))
        return getattr(module, method)(*args, **kwargs)

    def init(self, key: Array) -> Params:
        """Random parameters, drawn as the module's initializers say."""
        return _with_string_keys(nnx.to_pure_dict(nnx.state(self.make(nnx.Rngs(key)), nnx.Param)))


def network(make: Callable[[nnx.Rngs], nnx.Module], config: Any) -> Network:
    """The Network of the module that `make` builds; shapes are traced, no memory is used."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return Network(graphdef, _with_string_keys(nnx.to_pure_dict(state)), config, make)


def _with_string_keys(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {str(key): _with_string_keys(value) for key, value in tree.items()}
    if isinstance(tree, jax.ShapeDtypeStruct):  # drop the sharding that nnx attaches
        return jax.ShapeDtypeStruct(tree.shape, tree.dtype)
    return tree


def _with_integer_list_keys(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {int(key) if key.isdigit() else key: _with_integer_list_keys(value) for key, value in tree.items()}
