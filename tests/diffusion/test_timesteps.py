"""Timesteps of training rows: uniform, biased, and normal in the logit."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch

from flaxdream.diffusion.timesteps import STRATEGIES, TimestepSampling, timestep_weights, timesteps


def drawn(how, rows=20_000, length=1000):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), np.arange(rows))
    return np.asarray(jax.jit(lambda keys: timesteps(keys, length, how))(keys))


def diffusers_weights(how, length):
    """`generate_timestep_weights` of diffusers' SDXL text-to-image script, which no package holds."""
    weights = torch.ones(length)
    count = int(how.bias_portion * length)
    if how.bias_strategy == "later":
        weights[slice(-count, None)] *= how.bias_multiplier
    elif how.bias_strategy == "earlier":
        weights[slice(0, count)] *= how.bias_multiplier
    elif how.bias_strategy == "range":
        weights[slice(how.bias_begin, how.bias_end)] *= how.bias_multiplier
    return (weights / weights.sum()).numpy()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_biased_draw_has_the_chances_of_diffusers(strategy):
    how = TimestepSampling(bias_strategy=strategy, bias_multiplier=3.0, bias_begin=20, bias_end=60, bias_portion=0.3)
    ours = timestep_weights(how, 100)
    np.testing.assert_allclose(ours / ours.sum(), diffusers_weights(how, 100), rtol=1e-6)
    counts = np.bincount(drawn(how, length=100), minlength=100)
    expected = 20_000 * diffusers_weights(how, 100)
    assert counts.sum() == 20_000 and np.abs(counts - expected).max() < 6 * np.sqrt(expected.max())


def test_a_multiplier_of_zero_is_never_drawn():
    found = drawn(TimestepSampling(bias_strategy="later", bias_multiplier=0.0, bias_portion=0.25), length=100)
    assert found.max() == 74 and found.min() == 0


def test_the_logit_of_the_share_is_normal():
    found = drawn(TimestepSampling(sampling="logit_normal", logit_mean=0.5, logit_std=0.8))
    logit = np.log((found + 0.5) / (1000 - found - 0.5))
    assert abs(logit.mean() - 0.5) < 0.03 and abs(logit.std() - 0.8) < 0.03
    assert found.min() >= 0 and found.max() <= 999


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal"])
def test_a_range_is_kept(sampling):
    found = drawn(TimestepSampling(sampling=sampling, min_timestep=100, max_timestep=200))
    assert (found.min(), found.max()) == (100, 199)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_timestep": 500, "max_timestep": 400},
        {"max_timestep": 1001},
        {"bias_strategy": "range", "bias_begin": 900, "bias_end": 1200},
        {"bias_strategy": "sometimes"},
        {"sampling": "cauchy"},
    ],
    ids=lambda wrong: " ".join(wrong),
)
def test_what_does_not_fit_the_schedule_is_an_error_with_its_value(wrong):
    with pytest.raises(ValueError, match=str(list(wrong.values())[-1])):
        timesteps(jax.random.split(jax.random.key(0), 2), 1000, TimestepSampling(**wrong))


def test_a_row_has_its_timestep_whatever_its_neighbours_are():
    for how in (TimestepSampling(), TimestepSampling(sampling="logit_normal")):
        np.testing.assert_array_equal(drawn(how, rows=8)[:5], drawn(how, rows=5))
