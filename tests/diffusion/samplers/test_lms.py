"""LMS against diffusers' LMSDiscreteScheduler."""

from __future__ import annotations

import numpy as np
import pytest

from flaxdream.diffusion.samplers import make_sampler
from flaxdream.diffusion.samplers.lms import integrals
from tests.diffusion.samplers.twin import COSINE, LINEAR, STABLE_DIFFUSION, STEPS, assert_equal_trajectories

LMS = STABLE_DIFFUSION | {"_class_name": "LMSDiscreteScheduler"}
RESPACED = [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_lms_follows_diffusers_in_every_spacing(spacing, steps):
    assert_equal_trajectories(LMS | {"timestep_spacing": spacing, "steps_offset": 1}, steps)


# What cancels here is the last step from a large sigma to 0, where the slope is (x - x0) / sigma.
@pytest.mark.parametrize("respaced", RESPACED)
@pytest.mark.parametrize(
    "options, cancels",
    [
        *((LINEAR, False), (COSINE, True), ({"sigma_min": 0.05, "sigma_max": 11.0}, False)),
        *(({"prediction_type": "v_prediction"}, True), ({"prediction_type": "sample"}, True)),
    ],
)
@pytest.mark.parametrize("steps", [12])
def test_lms_follows_diffusers_in_every_option(options, cancels, respaced, steps):
    assert_equal_trajectories(LMS | options | respaced, steps, cancels=cancels)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_lms_follows_diffusers_in_lower_orders(order):
    assert_equal_trajectories(LMS, 10, order=order)


def test_polynomials_of_the_order_are_integrated_exactly():
    nodes = np.array([3.0, 4.5, 7.0, 11.0])
    weights = integrals(nodes, 3.0, 2.25)
    for power in range(4):
        exact = (2.25 ** (power + 1) - 3.0 ** (power + 1)) / (power + 1)
        assert weights @ nodes**power == pytest.approx(exact, rel=1e-12)


def test_begun_in_the_middle_lms_starts_at_order_1():
    # diffusers weighs the first slope as if three had been seen before; the weights must add up to the step.
    sampler = make_sampler(LMS, 10, begin=6)
    sigma = np.append(sampler.plan.noise, 0)
    weights = sampler.plan.coefficients.slopes[6:]  # of the newest slope and of differences to the older ones
    np.testing.assert_allclose(weights[:, 0], np.diff(sigma)[6:], rtol=1e-6)
    assert [np.count_nonzero(row) for row in weights] == [1, 2, 3, 4]
