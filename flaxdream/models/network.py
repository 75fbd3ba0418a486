"""A network without its weights: what is left of a Flax module once its parameters are a plain dict."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxdream.arrays import Array, Key, Params, ShapeDtypeStruct, Shapes, np


@dataclass(frozen=True, eq=False)  # hashed by identity, so that it can be a static of jit
class Network:
    """A module's structure (`graphdef`), the shapes of its parameters and the config that made it.

    `network(params, *args)` runs it; nothing here holds an array, so a Network is a constant of any jit.
    """

    graphdef: Any
    shapes: Shapes
    config: Any

    def __call__(self, params: Params, *args: Any, method: str = "__call__", **kwargs: Any) -> Any:
        """The named method of the module with `params` filled in. The only `nnx.merge` of the project.

        nnx.merge pairs leaves by the sorted order of their keys and does not compare names. So names and shapes
        are compared here, and the digit keys of lists become integers first: as strings, "10" sorts before "2",
        and the layers of a list of eleven or more would be permuted in silence.
        """
        self._check(params)
        module = nnx.merge(self.graphdef, _with_integer_list_keys(params))
        return getattr(module, method)(*args, **kwargs)

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters: kernels uniform within 1/sqrt(fan in) as torch's, tables normal with deviation 0.02,
        scales one and biases zero.

        Each depends on the key and on its own path alone. They are drawn by numpy (not inside jit), so that
        nothing needs to be compiled.
        """
        seed = [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()]

        def draw(path: Any, shape: ShapeDtypeStruct) -> Array:
            name = ".".join(part.key for part in path)
            generator = np.random.default_rng([*seed, zlib.crc32(name.encode())])
            return jnp.asarray(_initial(name.rpartition(".")[2], shape.shape, generator), shape.dtype)

        return jax.tree_util.tree_map_with_path(draw, self.shapes)

    def _check(self, params: Params) -> None:
        given, expected = _by_path(params), _by_path(self.shapes)
        problems = [f"missing: {path} {expected[path]}" for path in sorted(expected.keys() - given.keys())]
        problems += [f"not known: {path} {given[path]}" for path in sorted(given.keys() - expected.keys())]
        problems += [
            f"{path} has shape {given[path]}, expected {shape}"
            for path, shape in expected.items()
            if given.get(path, shape) != shape
        ]
        if problems:
            more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
            raise ValueError("these params do not belong to this network:\n" + "\n".join(problems[:10] + more))


def network(make: Callable[[], nnx.Module], config: Any) -> Network:
    """The Network of the module that `make` builds; shapes are traced, no memory is used."""
    graphdef, state = nnx.split(nnx.eval_shape(make))
    return Network(graphdef, _with_string_keys(nnx.to_pure_dict(state)), config)


def _initial(leaf: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if leaf == "kernel":
        bound = 1 / np.sqrt(np.prod(shape[:-1]))
        return (2 * bound) * generator.random(shape, np.float32) - np.float32(bound)
    if leaf == "embedding":
        return generator.standard_normal(shape, np.float32) * np.float32(0.02)
    return np.full(shape, 1 if leaf == "scale" else 0, np.float32)


def _by_path(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        ".".join(str(getattr(part, "key", part)) for part in path): tuple(np.shape(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


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
