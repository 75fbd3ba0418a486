"""PyTorch twins of our networks: random weights that hide nothing, carried over and compared."""

from __future__ import annotations

import jax
import numpy as np
import torch

from flaxdream.models import Network


def randomized(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """`module` in eval mode with every parameter random: norms off 1, biases off 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.3 * noise + (1.0 if name.endswith("weight") else 0.0))
    return module.eval()


def carried_over(tensors: dict[str, torch.Tensor], network: Network) -> dict:
    """The params of `network` from torch tensors by name; each tensor is used once, each parameter filled once."""
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}

    def leaf(path, shape):
        *module, last = (key.key for key in path)
        tensor = tensors.pop(".".join([*module, "bias" if last == "bias" else "weight"]))
        array = tensor.detach().numpy()
        if last == "kernel":
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        assert array.shape == shape.shape, (path, array.shape, shape.shape)
        return jax.numpy.asarray(array, shape.dtype)

    params = jax.tree_util.tree_map_with_path(leaf, network.shapes)
    assert not tensors, f"not used: {sorted(tensors)}"
    return params


def parameters(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters())


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def nchw(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.asarray(array).transpose(0, 3, 1, 2)))


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_close(ours, theirs, tolerance: float) -> None:
    """Within `tolerance` of the reference's largest magnitude (at least 1)."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1.0, float(np.abs(theirs).max())))
