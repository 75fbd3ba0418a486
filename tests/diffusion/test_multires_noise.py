"""Multi-resolution noise against a PyTorch pyramid with the same random numbers."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch

from flaxdream.diffusion.multires_noise import SHRINK, multires_noise

SIDE = (12, 16)
KEYS = jax.random.split(jax.random.key(5), 3)
EPS = np.asarray(jax.random.normal(jax.random.key(6), (3, *SIDE, 4)))


def pyramid(eps, key, iterations, discount):
    """kohya's pyramid for one row: torch's Upsample, our random numbers."""
    total = torch.from_numpy(np.moveaxis(eps, -1, 0)[None].copy())
    for level in range(iterations):
        at = jax.random.fold_in(key, level)
        r = float(jax.random.uniform(jax.random.fold_in(at, 0), (), np.float32, *SHRINK))
        rows, columns = (max(1, int(np.floor(np.float32(side) / np.float32(r) ** level))) for side in SIDE)
        noise = np.asarray(jax.random.normal(jax.random.fold_in(at, 1), eps.shape))[:rows, :columns]
        small = torch.from_numpy(np.moveaxis(noise, -1, 0)[None].copy())
        total += torch.nn.Upsample(size=SIDE, mode="bilinear")(small) * discount**level
        if rows == 1 or columns == 1:
            break
    return np.moveaxis((total / total.std()).numpy()[0], 0, -1)


@pytest.mark.parametrize(("iterations", "discount"), [(1, 0.3), (3, 0.5), (8, 0.9)])
def test_it_is_kohyas_pyramid_row_by_row(iterations, discount):
    ours = jax.jit(lambda eps, keys: multires_noise(eps, keys, iterations, discount))(EPS, KEYS)
    theirs = [pyramid(eps, key, iterations, discount) for eps, key in zip(EPS, KEYS, strict=True)]
    np.testing.assert_allclose(np.asarray(ours), np.stack(theirs), rtol=1e-5, atol=1e-5)


def test_no_level_is_the_noise_itself():
    assert multires_noise(EPS, KEYS, 0, 0.3) is EPS
