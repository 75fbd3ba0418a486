"""DPM-Solver and DPM-Solver++ against diffusers' DPMSolverMultistepScheduler."""

from __future__ import annotations

import numpy as np
import pytest

from flaxdream.diffusion.samplers import make_sampler
from tests.diffusion.samplers.twin import (
    COSINE,
    LINEAR,
    STABLE_DIFFUSION,
    STEPS,
    Twin,
    assert_equal_trajectories,
    normal,
    trajectory,
)

DPM = STABLE_DIFFUSION | {"_class_name": "DPMSolverMultistepScheduler"}
ALGORITHMS = ["dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver"]
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_dpm_solver_2m_follows_diffusers_in_every_spacing(spacing, steps):
    assert_equal_trajectories(DPM | {"timestep_spacing": spacing}, steps)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
@pytest.mark.parametrize("steps", [2, 17])
def test_dpm_solver_follows_diffusers_in_every_order(algorithm, order, solver, steps):
    config = DPM | {"algorithm_type": algorithm, "solver_order": order, "solver_type": solver}
    config |= {} if algorithm.endswith("++") else SIGMA_MIN
    if (algorithm, order) == ("sde-dpmsolver", 3):
        with pytest.raises(ValueError, match="solver_order 3 is not defined for algorithm_type 'sde-dpmsolver'"):
            make_sampler(config, steps)
        return
    # Order 3 as SDE weighs second differences of x0 that do not shrink with the step; the eps methods start
    # with steps that subtract nearly all of the sample.
    cancels = (algorithm, order) == ("sde-dpmsolver++", 3) or not algorithm.endswith("++")
    assert_equal_trajectories(config, steps, cancels=cancels)


@pytest.mark.parametrize("flag", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"])
@pytest.mark.parametrize(
    "options",
    [
        *({}, LINEAR, COSINE, SIGMA_MIN, {"algorithm_type": "sde-dpmsolver++"}, {"solver_order": 3}),
        *({"sigma_min": 0.05, "sigma_max": 11.0}, {"prediction_type": "v_prediction"}),
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    ],
)
@pytest.mark.parametrize("steps", [1, 12])
def test_respaced_dpm_solver_follows_diffusers(flag, options, steps):
    if flag == "use_lu_lambdas" and "sigma_min" in options:
        pytest.skip("use_lu_lambdas reads no sigma_min")
    assert_equal_trajectories(DPM | options | {flag: True}, steps, cancels="sigma_min" in options or options == COSINE)


@pytest.mark.parametrize("lower_order_final", [True, False])
@pytest.mark.parametrize("euler_at_final", [True, False])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("steps", [3, 10, 16])
def test_dpm_solver_lowers_its_order_at_the_end_as_diffusers_does(
    lower_order_final, euler_at_final, final, order, steps
):
    options = {"lower_order_final": lower_order_final, "euler_at_final": euler_at_final, "final_sigmas_type": final}
    assert_equal_trajectories(DPM | options | {"solver_order": order}, steps)


@pytest.mark.parametrize(
    "options",
    [
        *(LINEAR, COSINE | {"lambda_min_clipped": -5.1}, {"lambda_min_clipped": -2.0, "timestep_spacing": "trailing"}),
        {"lambda_min_clipped": -1.0, "timestep_spacing": "leading", "steps_offset": 1},
        *({"prediction_type": "v_prediction"}, {"prediction_type": "sample"}, {"thresholding": True}),
        {"thresholding": True, "dynamic_thresholding_ratio": 0.7, "sample_max_value": 1.3},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"rescale_betas_zero_snr": True, "prediction_type": "sample", "algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "deis", "solver_type": "logrho"} | SIGMA_MIN,
    ],
)
@pytest.mark.parametrize("steps", [2, 20])
def test_dpm_solver_follows_diffusers_in_every_option(options, steps):
    assert_equal_trajectories(DPM | options, steps)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("thresholding", [True, False])
@pytest.mark.parametrize("algorithm", ["dpmsolver", "sde-dpmsolver"])
def test_eps_integrating_dpm_solver_follows_diffusers_in_every_prediction_type(algorithm, prediction, thresholding):
    options = {"algorithm_type": algorithm, "prediction_type": prediction, "thresholding": thresholding} | SIGMA_MIN
    for steps in (5, 20):
        assert_equal_trajectories(DPM | options, steps, cancels=True)


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_variances_that_the_model_predicts_are_left_out(variance):
    assert_equal_trajectories(DPM | {"variance_type": variance}, 10, variances=True)


def test_sde_variants_draw_noise_in_every_step():
    config = DPM | {"algorithm_type": "sde-dpmsolver++"}
    twin = Twin(config, 5)
    twin.trajectory(normal(0), [normal(1)] * 5)
    assert twin.drew == [0, 1, 2, 3, 4]
    assert make_sampler(config, 5).needs_noise and not make_sampler(DPM, 5).needs_noise


def test_leading_and_linspace_are_cut_as_for_one_step_more():
    leading, linspace = (
        make_sampler(DPM, 10, timestep_spacing=spacing, steps_offset=1) for spacing in ("leading", "linspace")
    )
    assert leading.timesteps.tolist() == [901, 811, 721, 631, 541, 451, 361, 271, 181, 91]
    assert linspace.timesteps.tolist() == [999, 899, 799, 699, 599, 500, 400, 300, 200, 100]


@pytest.mark.parametrize("options", [{}, {"solver_order": 3}, {"algorithm_type": "sde-dpmsolver++"}])
@pytest.mark.parametrize("begin", [1, 6, 9])
def test_dpm_solver_begins_in_the_middle_as_diffusers_does(options, begin):
    assert_equal_trajectories(DPM | options, 10, begin=begin)


def test_repeated_last_sigma_is_a_step_of_nothing_where_diffusers_gives_nan():
    config = DPM | {"use_karras_sigmas": True, "solver_type": "heun", "lower_order_final": False} | SIGMA_MIN | LINEAR
    noises = [normal(1)] * 20
    config |= {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
    assert np.isnan(Twin(config, 20).trajectory(normal(0), noises)[-1]).any()
    ours = trajectory(make_sampler(config, 20), normal(0), noises)
    np.testing.assert_array_equal(ours[-1], ours[-2])


def test_noise_predicting_kinds_cannot_end_at_zero():
    with pytest.raises(
        ValueError, match="cannot end at final_sigmas_type 'zero'. Set final_sigmas_type to 'sigma_min'"
    ):
        make_sampler(DPM | {"algorithm_type": "dpmsolver"}, 10)


def test_more_steps_than_noise_levels_are_refused():
    make_sampler(DPM, 999)
    with pytest.raises(ValueError, match="num_inference_steps is 1000, .*; the most is 999"):
        make_sampler(DPM, 1000)
