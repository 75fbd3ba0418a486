"""Convolutions and their gradients equal torch's, in every form that `conv2d` chooses from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax

from flaxdream.models import convolution
from flaxdream.models.convolution import FEWEST_CHANNELS, conv2d
from tests.models.twins import assert_close, draw, nchw, nhwc

VAE_DOWN = ((0, 1), (0, 1))


@pytest.fixture(autouse=True)
def forms_of_few_channels(monkeypatch):
    """Every form is taken at sizes that are quick to compute."""
    monkeypatch.setattr(convolution, "FEWEST_CHANNELS", 17)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def arrays(picture, out, size):
    """A picture and a kernel that keeps its deviation."""
    channels = picture[-1]
    kernel = draw(size, size, channels, out, seed=1) / np.float32(size * channels**0.5)
    return draw(*picture), kernel


def torch_conv(x, kernel, strides, padding, weight):
    """Result of torch, and the gradients of its sum times `weight`, for picture and kernel."""
    x, kernel = nchw(x).requires_grad_(), torch.from_numpy(kernel).requires_grad_()
    (top, bottom), (left, right) = ((padding,) * 2,) * 2 if isinstance(padding, int) else padding
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, kernel.permute(3, 2, 0, 1), stride=strides)
    (y * nchw(weight)).sum().backward()
    return nhwc(y), nhwc(x.grad), kernel.grad.numpy()


def value_and_gradients(x, kernel, weight, strides=1, padding=1, convolve=conv2d):
    y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, strides, padding), x, kernel)
    return (y, *pull(weight.astype(y.dtype)))


def out_shape(x, kernel, strides, padding):
    return jax.eval_shape(lambda x, kernel: conv2d(x, kernel, strides, padding), x, kernel).shape


# picture, channels out, kernel's size, stride, padding
SHAPES = {
    "1x1": ((3, 7, 10, 13), 11, 1, 1, 0),
    "1x1, stride 2": ((1, 7, 10, 13), 11, 1, 2, 0),
    "1x1 with padding": ((1, 7, 10, 13), 11, 1, 1, 1),
    "few channels in": ((1, 7, 10, 4), 37, 3, 1, 1),
    "few channels out": ((3, 7, 10, 37), 4, 3, 1, 1),
    "few pixels, wider": ((3, 5, 8, 19), 37, 3, 1, 1),
    "few pixels, narrower": ((1, 5, 8, 37), 19, 3, 1, 1),
    "one pixel": ((3, 1, 1, 21), 23, 3, 1, 1),
    "many pixels, few channels": ((1, 23, 24, 19), 37, 3, 1, 1),
    "many pixels, some channels": ((1, 23, 24, 67), 71, 3, 1, 1),
    "many pixels and channels": ((1, 23, 24, 131), 133, 3, 1, 1),
    "many pixels in three pictures": ((3, 13, 15, 133), 131, 3, 1, 1),
    "many pictures, some channels": ((8, 9, 8, 67), 71, 3, 1, 1),
    "many pictures": ((8, 9, 8, 131), 133, 3, 1, 1),
    "no padding, few pixels": ((1, 5, 8, 19), 37, 3, 1, 0),
    "no padding, many pixels": ((1, 24, 25, 131), 133, 3, 1, 0),
    "other padding on each side, few pixels": ((3, 5, 8, 37), 19, 3, 1, ((0, 2), (1, 0))),
    "other padding on each side, many pixels": ((1, 24, 25, 131), 133, 3, 1, ((0, 2), (1, 0))),
    "wide padding": ((1, 5, 8, 19), 37, 3, 1, 3),
    "5x5": ((1, 5, 8, 19), 37, 5, 1, 2),
    "stride 2, odd sizes": ((3, 7, 11, 19), 21, 3, 2, 1),
    "stride 2, even sizes": ((1, 24, 26, 67), 71, 3, 2, 1),
    "the VAE's stride 2, odd sizes": ((3, 7, 11, 19), 21, 3, 2, VAE_DOWN),
    "the VAE's stride 2, even sizes": ((1, 24, 26, 67), 71, 3, 2, VAE_DOWN),
}


@pytest.mark.parametrize("name", SHAPES)
def test_results_and_gradients_are_torchs(name):
    picture, out, size, stride, padding = SHAPES[name]
    x, kernel = arrays(picture, out, size)
    weight = draw(*out_shape(x, kernel, stride, padding), seed=2)
    found = jax.jit(lambda *args: value_and_gradients(*args, stride, padding))(x, kernel, weight)
    for ours, theirs in zip(found, torch_conv(x, kernel, stride, padding, weight), strict=True):
        assert_close(ours, theirs, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "channels", "out", "size", "stride"),
    [
        (64, 320, 320, 3, 1),
        (64, 4, 320, 3, 1),
        (64, 320, 4, 3, 1),
        (64, 640, 320, 1, 1),
        (64, 320, 320, 3, 2),
        (32, 960, 640, 3, 1),
        (16, 1920, 1280, 3, 1),
        (8, 1280, 1280, 3, 1),
        (8, 2560, 1280, 1, 1),
    ],
)
def test_the_layers_of_sd15_are_torchs(side, channels, out, size, stride):
    x, kernel = arrays((1, side, side, channels), out, size)
    weight = draw(*out_shape(x, kernel, stride, size // 2), seed=2)
    found = jax.jit(lambda *args: value_and_gradients(*args, stride, size // 2))(x, kernel, weight)
    for ours, theirs in zip(found, torch_conv(x, kernel, stride, size // 2, weight), strict=True):
        assert_close(ours, theirs, 1e-5)


FORMS = ["few channels in", "few pixels, wider", "many pixels and channels", "stride 2, odd sizes", "1x1"]


def case(name):
    picture, out, size, stride, padding = SHAPES[name]
    x, kernel = arrays(picture, out, size)
    return x, kernel, draw(*out_shape(x, kernel, stride, padding), seed=2), stride, padding


def xlas(x, kernel, strides, padding):
    """XLA's own convolution, whatever the platform."""
    strides = (strides,) * 2
    sides = ((padding,) * 2,) * 2 if isinstance(padding, int) else padding
    return lax.conv_general_dilated(x, kernel, strides, sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("name", FORMS)
def test_half_precision_is_xlas_own_form(name):
    x, kernel, weight, stride, padding = case(name)
    half = [array.astype(jnp.bfloat16) for array in (x, kernel, weight)]
    ours = jax.jit(lambda *args: value_and_gradients(*args, stride, padding))(*half)
    theirs = jax.jit(lambda *args: value_and_gradients(*args, stride, padding, xlas))(*half)
    for found, expected in zip(ours, theirs, strict=True):
        assert found.dtype == jnp.bfloat16
        expected = np.asarray(expected, np.float32)
        np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=2**-7, atol=2**-8 * expected.std())


@pytest.mark.parametrize("name", FORMS)
def test_one_call_for_each_picture_under_vmap_is_one_call_for_all(name):
    x, kernel, weight, stride, padding = case(name)
    x, weight = (np.stack([array, -2 * array[:, ::-1]]) for array in (x, weight))
    together = jax.jit(jax.vmap(lambda x, weight: value_and_gradients(x, kernel, weight, stride, padding)))(x, weight)
    for i in range(2):
        apart = value_and_gradients(x[i], kernel, weight[i], stride, padding)
        for found, expected in zip(together, apart, strict=True):
            assert_close(found[i], expected, 1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_kernels_may_be_mapped_over(name):
    x, kernel, weight, stride, padding = case(name)
    kernels = np.stack([kernel, kernel[::-1]])
    together = jax.jit(jax.vmap(lambda kernel: value_and_gradients(x, kernel, weight, stride, padding)))(kernels)
    for i in range(2):
        for found, expected in zip(together, value_and_gradients(x, kernels[i], weight, stride, padding), strict=True):
            assert_close(found[i], expected, 1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_recomputing_for_the_backward_pass_changes_no_gradient(name):
    x, kernel, weight, stride, padding = case(name)

    def loss(x, kernel):
        return (jnp.sin(conv2d(x, kernel, stride, padding)) * weight).sum()

    found = jax.jit(jax.grad(jax.checkpoint(loss), argnums=(0, 1)))(x, kernel)
    for ours, expected in zip(found, jax.jit(jax.grad(loss, argnums=(0, 1)))(x, kernel), strict=True):
        assert_close(ours, expected, 1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_pictures_spread_over_eight_devices_give_the_same(name, spread):
    x, kernel, weight, stride, padding = case(name)
    x, weight = (np.concatenate([(1 + i) * array[:1] for i in range(8)]) for array in (x, weight))
    run = jax.jit(lambda *args: value_and_gradients(*args, stride, padding))
    found = run(spread(x), kernel, spread(weight))
    assert len(found[0].sharding.device_set) == 8
    for ours, expected in zip(found, run(x, kernel, weight), strict=True):
        assert_close(ours, expected, 1e-6)


def lowered(name, platform, dtype=np.float32):
    """The program of value and gradients for a platform that need not be here."""
    picture, out, size, stride, padding = SHAPES[name]
    return lowered_for(picture, out, size, stride, padding, platform, dtype)


def lowered_for(picture, out, size, stride, padding, platform, dtype=np.float32):
    x = jax.ShapeDtypeStruct(picture, dtype)
    kernel = jax.ShapeDtypeStruct((size, size, picture[-1], out), dtype)
    weight = jax.ShapeDtypeStruct(out_shape(x, kernel, stride, padding), dtype)
    run = jax.jit(lambda *args: value_and_gradients(*args, stride, padding))
    return run.trace(x, kernel, weight).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["tpu", "cuda", "rocm"])
@pytest.mark.parametrize("name", sorted(set(FORMS) - {"1x1"}))
def test_tpus_and_gpus_get_xlas_convolution_and_its_gradients(name, platform):
    program = lowered(name, platform)
    assert program.count("stablehlo.convolution") == 3
    assert "dot_general" not in program


@pytest.mark.parametrize(
    ("picture", "out", "convolutions"),
    [
        ((1, 64, 64, 320), 320, 0),
        ((1, 8, 8, 1280), 1280, 1),  # the result; not its gradients
        ((1, 64, 64, 4), 320, 2),  # not the kernel's gradient
        ((8, 32, 32, 128), 128, 0),
        ((2, 32, 32, 128), 128, 3),
        ((2, 8, 8, 128), 128, 3),
        ((8, 64, 64, 64), 64, 3),
    ],
)
def test_cpus_get_matrix_products_where_these_are_faster(picture, out, convolutions, monkeypatch):
    monkeypatch.setattr(convolution, "FEWEST_CHANNELS", FEWEST_CHANNELS)
    assert lowered_for(picture, out, 3, 1, 1, "cpu").count("stablehlo.convolution") == convolutions
    assert lowered_for(picture, out, 3, 1, 1, "cpu", jnp.bfloat16).count("stablehlo.convolution") == 3
