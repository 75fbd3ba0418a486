"""Carrying weights from PyTorch modules over to ours, and comparing the two."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
import torch

from flaxdream.arrays import Params
from flaxdream.models import Network, build
from flaxdream.models.layers import Compute
from flaxdream.models.network import network
from flaxdream.weights.names import file_name, from_file_layout, leaves, matching_name, nested


def layer(make, **compute) -> Network:
    """A Network of one layer: `make(compute)` builds its module."""
    return network(lambda: make(Compute(**compute)), None)


def twin_of(module: torch.nn.Module, **compute) -> tuple[Network, Params]:
    """Our network with the config and the weights of a diffusers or transformers model."""
    name = type(module).__name__
    if isinstance(module.config, dict):
        ours = build({**module.config, "_class_name": name}, **compute)
    else:
        ours = build({**module.config.to_dict(), "architectures": [name]}, **compute)
    return ours, carried_over(weights(module), ours)


def carried_over(tensors: Mapping[str, torch.Tensor], ours: Network) -> Params:
    """Torch tensors as the params of `ours`: each tensor used once, each parameter filled once.

    A dict that nobody else holds is emptied on the way, so that true-size models fit into memory twice.
    """
    tensors = {matching_name(name): tensors.pop(name) for name in list(tensors)}
    params = {}
    for path, shape in leaves(ours.shapes):
        array = from_file_layout(path, tensors.pop(file_name(path).removeprefix(".")).numpy())
        assert array.shape == shape.shape, (path, array.shape, shape.shape)
        params[path] = jax.numpy.array(array, shape.dtype)
    assert not tensors, f"not used: {sorted(tensors)}"
    return nested(params)


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def nchw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_close(ours, theirs, tolerance: float) -> None:
    """No element differs by more than `tolerance` times the reference's largest magnitude, or 1 if that is less."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1.0, float(np.abs(theirs).max())))


def assert_gradients_close(ours: Params, theirs: Params, tolerance: float) -> None:
    """Each tensor within `tolerance` of its own largest magnitude, or of 1/1000 of the largest of all.

    The floor is for gradients that are zero but for rounding: biases of attention keys.
    """
    reference = dict(leaves(theirs))
    floor = 1e-3 * max(float(np.abs(np.asarray(g)).max()) for g in reference.values())
    for path, gradient in leaves(ours):
        scale = max(floor, float(np.abs(np.asarray(reference[path])).max()))
        np.testing.assert_allclose(
            np.asarray(gradient) / scale, np.asarray(reference[path]) / scale, rtol=0, atol=tolerance, err_msg=path
        )
