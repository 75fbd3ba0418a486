"""UniPC against diffusers' UniPCMultistepScheduler."""

from __future__ import annotations

import numpy as np
import pytest

from flaxdream.diffusion.samplers import make_sampler
from tests.diffusion.samplers.twin import (
    COSINE,
    LINEAR,
    STABLE_DIFFUSION,
    STEPS,
    assert_equal_trajectories,
    normal,
    trajectory,
)

UNIPC = STABLE_DIFFUSION | {"_class_name": "UniPCMultistepScheduler"}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_unipc_follows_diffusers_in_every_spacing(spacing, steps):
    assert_equal_trajectories(UNIPC | {"timestep_spacing": spacing}, steps)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("solver", ["bh1", "bh2"])
@pytest.mark.parametrize("predict_x0", [True, False])
@pytest.mark.parametrize("lower_order_final", [True, False])
@pytest.mark.parametrize("steps", [12])
def test_unipc_follows_diffusers_in_every_order(order, solver, predict_x0, lower_order_final, steps):
    options = {"solver_order": order, "solver_type": solver, "predict_x0": predict_x0}
    # Integrating eps starts with steps that subtract nearly all of the sample, and the last steps of high
    # order weigh differences many times over.
    config = UNIPC | options | SIGMA_MIN | {"lower_order_final": lower_order_final}
    assert_equal_trajectories(config, steps, cancels=not predict_x0 or (order > 2 and not lower_order_final))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25])
def test_unipc_follows_diffusers_to_sigma_zero(order, steps):
    assert_equal_trajectories(UNIPC | {"solver_order": order}, steps)


@pytest.mark.parametrize("flag", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
@pytest.mark.parametrize(
    "options",
    [
        *({}, LINEAR, COSINE, SIGMA_MIN, {"solver_order": 3}, {"sigma_min": 0.05, "sigma_max": 11.0}),
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    ],
)
@pytest.mark.parametrize("steps", [1, 12])
def test_respaced_unipc_follows_diffusers(flag, options, steps):
    # Beta sigmas are dense at both ends: high orders weigh differences over unequal steps many times over.
    cancels = options == COSINE or flag == "use_beta_sigmas"
    assert_equal_trajectories(UNIPC | options | {flag: True}, steps, cancels=cancels)


@pytest.mark.parametrize(
    "options",
    [
        *(LINEAR, COSINE, {"disable_corrector": [0]}, {"disable_corrector": [1, 3], "solver_order": 3}),
        *({"prediction_type": "v_prediction"}, {"prediction_type": "sample"}, {"thresholding": True}),
        {"thresholding": True, "dynamic_thresholding_ratio": 0.7, "sample_max_value": 1.3},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"rescale_betas_zero_snr": True, "prediction_type": "sample"},
        {"solver_type": "midpoint"},
    ],
)
@pytest.mark.parametrize("steps", [2, 20])
def test_unipc_follows_diffusers_in_every_option(options, steps):
    assert_equal_trajectories(UNIPC | options, steps)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_eps_integrating_unipc_follows_diffusers_in_every_prediction_type(prediction):
    options = {"predict_x0": False, "prediction_type": prediction} | SIGMA_MIN
    assert_equal_trajectories(UNIPC | options, 10, cancels=True)


@pytest.mark.parametrize("options", [{}, {"solver_order": 3}])
@pytest.mark.parametrize("begin", [1, 6, 9])
def test_unipc_begins_in_the_middle_as_diffusers_does(options, begin):
    assert_equal_trajectories(UNIPC | options, 10, begin=begin)


@pytest.mark.parametrize("options", [{"solver_type": "bh1"}, {"predict_x0": False}])
def test_kinds_that_diverge_at_sigma_zero_are_refused(options):
    with pytest.raises(ValueError, match="has no last step to final_sigmas_type 'zero'. Set"):
        make_sampler(UNIPC | options, 10)


def test_full_order_to_sigma_zero_is_refused():
    with pytest.raises(ValueError, match="lower_order_final is false, but only a step of order 1 can reach"):
        make_sampler(UNIPC | {"lower_order_final": False}, 10)


def test_thresholding_of_eps_is_refused():
    with pytest.raises(ValueError, match="thresholding limits x0, but predict_x0 is false"):
        make_sampler(UNIPC | {"predict_x0": False, "thresholding": True} | SIGMA_MIN, 10)


def test_repeated_last_sigma_is_a_step_of_nothing_where_diffusers_gives_nan():
    options = {"use_karras_sigmas": True, "solver_order": 3, "lower_order_final": False} | SIGMA_MIN
    ours = trajectory(make_sampler(UNIPC | options, 10), normal(0), [normal(1)] * 10)
    assert np.isfinite(ours).all()
