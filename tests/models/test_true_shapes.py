"""The true shapes of SD 1.5 and SD 2.1 with random weights, against torch."""

from __future__ import annotations

import gc

import diffusers
import jax
import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from flaxdream.models import build
from flaxdream.models.architectures import ARCHITECTURES
from tests.models.twins import assert_close, carried_over, draw, nchw, nhwc, weights
from tests.twins import randomize

pytestmark = pytest.mark.slow

INPAINTING = ARCHITECTURES["sd15"]["unet"] | {"in_channels": 9}


def without_class(config):
    return {name: value for name, value in config.items() if name != "_class_name"}


def ours_and_theirs(config, make, run_theirs, **options):
    """Our network and its params, and the torch model's result; the torch model is gone when ours gets its weights."""
    theirs = randomize(make(), 0)
    with torch.no_grad():
        result = run_theirs(theirs)
    tensors = weights(theirs)
    del theirs
    gc.collect()
    ours = build(config, **options)
    return ours, carried_over(tensors, ours), result


@pytest.mark.parametrize(("config", "size"), [
    (ARCHITECTURES["sd15"]["unet"], (64, 64)),
    (ARCHITECTURES["sd21"]["unet"], (20, 28)),
    (INPAINTING, (16, 16)),
])  # fmt: skip
def test_the_true_unets_are_those_of_diffusers(config, size):
    x_bhwc, context_bsd = draw(1, *size, config["in_channels"]), draw(1, 77, config["cross_attention_dim"], seed=1)
    t_b = np.array([801])

    def run(theirs):
        return nhwc(theirs(nchw(x_bhwc), torch.from_numpy(t_b), torch.from_numpy(context_bsd)).sample)

    ours, params, expected = ours_and_theirs(
        config, lambda: diffusers.UNet2DConditionModel(**without_class(config)), run
    )
    assert_close(jax.jit(ours)(params, x_bhwc, t_b, context_bsd), expected, 1e-4)


def test_the_true_vae_is_that_of_diffusers():
    config = ARCHITECTURES["sd15"]["vae"]
    pixels, z = draw(1, 128, 192, 3), draw(1, 24, 16, 4, seed=1)

    def run(theirs):
        posterior = theirs.encode(nchw(pixels)).latent_dist
        return nhwc(posterior.mean), nhwc(posterior.logvar), nhwc(theirs.decode(nchw(z)).sample)

    ours, params, (mean, logvar, decoded) = ours_and_theirs(
        config, lambda: diffusers.AutoencoderKL(**without_class(config)), run
    )
    found_mean, found_logvar = jax.jit(lambda p, x: ours(p, x, method="moments"))(params, pixels)
    assert_close(found_mean, mean, 1e-4)
    assert_close(found_logvar, logvar, 1e-4)
    assert_close(jax.jit(lambda p, z: ours(p, z, method="decode"))(params, z), decoded, 1e-4)


@pytest.mark.parametrize("name", ["sd15", "sd21"])
def test_the_true_text_encoders_are_those_of_transformers(name):
    config = ARCHITECTURES[name]["text_encoder"]
    ids = np.random.default_rng(0).integers(3, 49406, (2, 77))
    ids[:, 0], ids[:, 20:] = 49406, 49407

    def run(theirs):
        out = theirs(torch.from_numpy(ids), output_hidden_states=True)
        return out.last_hidden_state.numpy(), out.pooler_output.numpy(), out.hidden_states[-2].numpy()

    ours, params, (states, pooled, penultimate) = ours_and_theirs(
        config, lambda: CLIPTextModel(CLIPTextConfig(**config)), run
    )
    found = jax.jit(ours)(params, ids)
    assert_close(found.states_bsd, states, 1e-4)
    assert_close(found.pooled_bd, pooled, 1e-4)
    skipped = jax.jit(lambda p, i: ours(p, i, output_layer=-2, final_norm=False).states_bsd)(params, ids)
    assert_close(skipped, penultimate, 1e-4)
