"""Guidance against diffusers' StableDiffusionPipeline."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from flaxdream.diffusion.guidance import guide

UNCOND, COND = np.random.default_rng(0).standard_normal((2, 3, 6, 4, 4)).astype(np.float32)


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_guidance_equals_diffusers(scale, rescale):
    uncond, cond = torch.tensor(UNCOND), torch.tensor(COND)
    expected = uncond + scale * (cond - uncond)
    if rescale:
        expected = rescale_noise_cfg(expected, cond, guidance_rescale=rescale)
    np.testing.assert_allclose(guide(UNCOND, COND, scale, rescale), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_each_row_may_have_its_own_scale_and_rescale():
    scale_b, rescale_b = jnp.array([1.0, 3.0, 9.0]), jnp.array([0.0, 0.5, 1.0])
    together = guide(UNCOND, COND, scale_b, rescale_b)
    for row in range(3):
        alone = guide(UNCOND[row : row + 1], COND[row : row + 1], float(scale_b[row]), float(rescale_b[row]))
        np.testing.assert_allclose(together[row : row + 1], alone, rtol=1e-6, atol=1e-6)


def test_full_rescale_gives_each_row_the_spread_of_its_conditional_output():
    spread = np.std(guide(UNCOND, COND, 7.5, 1.0), axis=(1, 2, 3))
    np.testing.assert_allclose(spread, np.std(COND, axis=(1, 2, 3)), rtol=1e-6)


def test_bfloat16_outputs_stay_bfloat16():
    uncond, cond = jnp.asarray(UNCOND, jnp.bfloat16), jnp.asarray(COND, jnp.bfloat16)
    assert guide(uncond, cond, 7.5, 0.7).dtype == jnp.bfloat16


def test_scales_of_another_batch_size_are_refused():
    with pytest.raises(ValueError, match=r"expected shape \(3,\)"):
        guide(UNCOND, COND, jnp.ones(2))
