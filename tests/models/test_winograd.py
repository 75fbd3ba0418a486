"""Winograd's form of 3x3 convolutions: equal to torch's for every size and padding, and as exact."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
import torch

from flaxdream.models import winograd
from tests.models.twins import assert_close, draw, nchw, nhwc

PADDINGS = [(0, 0), (1, 1), (2, 2), (0, 1), (2, 0)]


def torch_conv(x, kernel, padding, weight, dtype=torch.float32):
    """Result of torch, and the gradients of its sum times `weight`, for picture and kernel."""
    x, kernel, weight = nchw(x).to(dtype), torch.from_numpy(kernel).to(dtype), nchw(weight).to(dtype)
    x.requires_grad_(), kernel.requires_grad_()
    padded = torch.nn.functional.pad(x, (*padding[1], *padding[0]))
    y = torch.nn.functional.conv2d(padded, kernel.permute(3, 2, 0, 1))
    (y * weight).sum().backward()
    return nhwc(y), nhwc(x.grad), kernel.grad.numpy()


def ours(x, kernel, weight, padding):
    return (
        winograd.convolve(x, kernel, padding),
        winograd.input_gradient(kernel, weight, padding),
        winograd.kernel_gradient(x, weight, padding),
    )


@pytest.mark.parametrize("padding", list(itertools.product(PADDINGS, PADDINGS[1:4])))
def test_results_and_gradients_are_torchs_for_every_padding(padding):
    (h, w), (rows, columns) = (5, 8), map(sum, padding)
    x, kernel, weight = draw(2, h, w, 3), draw(3, 3, 3, 5, seed=1), draw(2, h + rows - 2, w + columns - 2, 5, seed=2)
    found = jax.jit(ours, static_argnums=3)(x, kernel, weight, padding)
    for result, expected in zip(found, torch_conv(x, kernel, padding, weight), strict=True):
        assert_close(result, expected, 1e-5)


@pytest.mark.parametrize(("batch", "size"), [(1, (1, 1)), (3, (1, 2)), (1, (2, 1)), (3, (7, 9)), (1, (2, 13))])
def test_results_and_gradients_are_torchs_for_every_size(batch, size):
    x, kernel, weight = draw(batch, *size, 7), draw(3, 3, 7, 2, seed=1), draw(batch, *size, 2, seed=2)
    padding = ((1, 1), (1, 1))
    found = jax.jit(ours, static_argnums=3)(x, kernel, weight, padding)
    for result, expected in zip(found, torch_conv(x, kernel, padding, weight), strict=True):
        assert_close(result, expected, 1e-5)


def test_results_are_as_exact_as_a_direct_convolutions():
    channels, padding = 320, ((1, 1), (1, 1))
    x, weight = draw(1, 32, 32, channels), draw(1, 32, 32, channels, seed=2)
    kernel = draw(3, 3, channels, channels, seed=1) / np.float32((9 * channels) ** 0.5)
    exact = torch_conv(x, kernel, padding, weight, torch.float64)
    direct = torch_conv(x, kernel, padding, weight)
    found = jax.jit(ours, static_argnums=3)(x, kernel, weight, padding)
    for result, plain, true in zip(found, direct, exact, strict=True):
        error = np.abs(np.asarray(result) - true).max()
        assert error < 4 * np.abs(plain - true).max()
        assert error < 1e-5 * true.std()
