"""The VAE equals diffusers' within 1e-4, also tile by tile."""

from __future__ import annotations

import diffusers
import jax
import numpy as np
import pytest
import torch

from flaxdream.models import build
from flaxdream.models.vae import sample_moments
from tests.models.twins import assert_close, draw, nchw, nhwc, twin_of
from tests.twins import randomize

TINY = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "sample_size": 16,
}
VARIANTS = {
    "SD 1": TINY,
    "deeper": TINY | {
        "layers_per_block": 2,
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    },
    "no attention": TINY | {"mid_block_add_attention": False},
    "no quant convolutions": TINY | {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 6},
    "other channels and activation": TINY | {"in_channels": 4, "out_channels": 5, "act_fn": "mish"},
}  # fmt: skip


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("variant", "batch", "size"),
    [("SD 1", 3, (12, 20)), slow("SD 1", 1, (16, 16)), *(slow(name, 2, (8, 12)) for name in VARIANTS)],
)
def test_moments_and_decoded_pixels_are_those_of_diffusers(variant, batch, size):
    config = VARIANTS[variant]
    theirs = randomize(diffusers.AutoencoderKL(**config), 0)
    ours, params = twin_of(theirs)
    pixels, z = draw(batch, *size, config.get("in_channels", 3)), draw(batch, 5, 6, config.get("latent_channels", 4))
    with torch.no_grad():
        posterior, decoded = theirs.encode(nchw(pixels)).latent_dist, theirs.decode(nchw(z)).sample
    mean, logvar = jax.jit(lambda p, x: ours(p, x, method="moments"))(params, pixels)
    assert_close(mean, nhwc(posterior.mean), 1e-4)
    assert_close(logvar, nhwc(posterior.logvar), 1e-4)
    assert_close(jax.jit(lambda p, z: ours(p, z, method="decode"))(params, z), nhwc(decoded), 1e-4)


@pytest.mark.slow
def test_pixels_of_odd_size_are_encoded_as_diffusers_does():
    theirs = randomize(diffusers.AutoencoderKL(**VARIANTS["deeper"]), 0)
    ours, params = twin_of(theirs)
    pixels = draw(1, 13, 18, 3)
    with torch.no_grad():
        expected = theirs.encode(nchw(pixels)).latent_dist.mean
    assert_close(ours(params, pixels, method="moments")[0], nhwc(expected), 1e-4)


@pytest.mark.slow
def test_log_variance_is_clamped():
    theirs = randomize(diffusers.AutoencoderKL(**TINY), 0)
    with torch.no_grad():
        theirs.quant_conv.bias[4:] = torch.tensor([100.0, -100.0, 0, 0])
        ours, params = twin_of(theirs)
        expected = theirs.encode(nchw(draw(1, 8, 8, 3))).latent_dist.logvar
    logvar = ours(params, draw(1, 8, 8, 3), method="moments")[1]
    assert_close(logvar, nhwc(expected), 1e-4)
    assert logvar.max() == 20 and logvar.min() == -30


@pytest.mark.slow
def test_calling_the_vae_is_a_way_there_and_back():
    theirs = randomize(diffusers.AutoencoderKL(**TINY), 0)
    ours, params = twin_of(theirs)
    with torch.no_grad():
        expected = theirs(nchw(draw(1, 8, 8, 3))).sample
    assert_close(ours(params, draw(1, 8, 8, 3)), nhwc(expected), 1e-4)


def test_samples_have_the_mean_and_the_deviation_of_the_moments():
    mean = np.full((1, 200, 200, 2), 3.0, np.float32)
    logvar = np.stack([np.full((1, 200, 200), 2 * np.log(0.5)), np.full((1, 200, 200), 2 * np.log(2.0))], -1)
    z = np.asarray(sample_moments(mean, logvar.astype(np.float32), jax.random.key(0)))
    np.testing.assert_allclose(z.mean((0, 1, 2)), 3, atol=0.05)
    np.testing.assert_allclose(z.std((0, 1, 2)), [0.5, 2], rtol=0.02)


@pytest.mark.parametrize("size", [(14, 21), *map(slow, [(8, 8), (8, 9), (14, 14), (5, 30), (32, 13)])])
def test_tiled_decoding_is_that_of_diffusers(size):
    theirs = randomize(diffusers.AutoencoderKL(**TINY), 0)
    ours, params = twin_of(theirs)
    theirs.enable_tiling()
    z = draw(2, *size, 4)
    with torch.no_grad():
        expected = theirs.decode(nchw(z)).sample
    assert_close(jax.jit(lambda p, z: ours(p, z, method="decode_tiled"))(params, z), nhwc(expected), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 16), (16, 18), (32, 42), (10, 60)])
def test_tiled_encoding_is_that_of_diffusers(size):
    theirs = randomize(diffusers.AutoencoderKL(**TINY), 0)
    ours, params = twin_of(theirs)
    theirs.enable_tiling()
    pixels = draw(2, *size, 3)
    with torch.no_grad():
        expected = theirs.encode(nchw(pixels)).latent_dist
    mean, logvar = jax.jit(lambda p, x: ours(p, x, method="moments_tiled"))(params, pixels)
    assert_close(mean, nhwc(expected.mean), 1e-4)
    assert_close(logvar, nhwc(expected.logvar), 1e-4)


@pytest.mark.slow
def test_tile_size_and_overlap_are_those_of_diffusers():
    theirs = randomize(diffusers.AutoencoderKL(**TINY), 0)
    ours, params = twin_of(theirs)
    theirs.enable_tiling()
    theirs.tile_sample_min_size, theirs.tile_latent_min_size, theirs.tile_overlap_factor = 20, 10, 0.4
    z = draw(1, 17, 25, 4)
    with torch.no_grad():
        expected = theirs.decode(nchw(z)).sample
    assert_close(ours(params, z, method="decode_tiled", tile_size=20, overlap=0.4), nhwc(expected), 1e-4)


@pytest.mark.slow
def test_memory_for_the_network_does_not_grow_with_the_picture_in_tiles():
    ours = build({"_class_name": "AutoencoderKL", **TINY, "block_out_channels": (32, 64), "sample_size": 32})

    def temporary_and_output_bytes(method, side):
        z = jax.ShapeDtypeStruct((1, side, side, 4), np.float32)
        run = jax.jit(lambda p, z: ours(p, z, method=method))
        memory = run.lower(ours.shapes, z).compile().memory_analysis()
        return np.array([memory.temp_size_in_bytes, memory.output_size_in_bytes])

    # One full-size activation of this network is 32 channels, 10.7 times the output.
    whole, output = temporary_and_output_bytes("decode", 48)
    assert whole > 32 * output
    tiles, output = temporary_and_output_bytes("decode_tiled", 96) - temporary_and_output_bytes("decode_tiled", 48)
    # The finished tiles, which overlap, are 1.7 times the output, and a part of their blended copy lies beside them.
    # The bound was 2 when convolutions of 64 channels took twice the memory, in which that copy found room.
    assert tiles < 3 * output


@pytest.mark.parametrize("wrong", [{"tile_size": 3}, {"overlap": 1.0}, {"overlap": -0.1}])
def test_impossible_tiles_are_an_error(wrong):
    ours = build({"_class_name": "AutoencoderKL", **TINY})
    with pytest.raises(ValueError, match="tile"):
        jax.eval_shape(lambda p: ours(p, draw(1, 20, 20, 4), method="decode_tiled", **wrong), ours.shapes)
