"""Timesteps and sigmas against diffusers, for every number of steps."""

from __future__ import annotations

import numpy as np
import pytest

from flaxdream.diffusion.samplers import CLASSES, make_sampler
from flaxdream.diffusion.samplers.levels import karras_sigmas
from tests.diffusion.samplers.twin import STABLE_DIFFUSION, Twin, assert_equal_timesteps

# Where diffusers' trailing spacing has a timestep -1 too many, by a rounding error of numpy's arange.
ONE_TOO_MANY = (61, 103, 499)


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "LMSDiscreteScheduler"])  # slow in diffusers
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_timesteps_equal_diffusers_for_many_numbers_of_steps(name, spacing):
    config = STABLE_DIFFUSION | {"_class_name": name, "timestep_spacing": spacing, "skip_prk_steps": True}
    config |= {"steps_offset": 1, "prediction_type": "v_prediction"}
    twin = Twin(config, 1)
    for steps in [*range(1, 61), 62, 75, 99, 100, 150, 200, 333, 500]:
        twin.scheduler.set_timesteps(steps)
        assert_equal_timesteps(make_sampler(config, steps), twin.scheduler)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize("flag", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_whole_timesteps_of_respaced_sigmas_equal_diffusers(name, flag, zero_snr):
    config = STABLE_DIFFUSION | {"_class_name": name, flag: True, "rescale_betas_zero_snr": zero_snr}
    twin = Twin(config, 1)
    for steps in range(1, 40):
        twin.scheduler.set_timesteps(steps)
        assert_equal_timesteps(make_sampler(config, steps), twin.scheduler)


@pytest.mark.parametrize("steps", ONE_TOO_MANY)
def test_trailing_spacing_has_as_many_timesteps_as_steps_where_diffusers_has_one_more(steps):
    config = STABLE_DIFFUSION | {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}
    theirs = Twin(config, steps).scheduler.timesteps.numpy()
    ours = make_sampler(config, steps).timesteps
    assert theirs[-1] == -1 and len(theirs) == steps + 1
    np.testing.assert_array_equal(ours, theirs[:-1])


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "heun", "lms", "plms"])
def test_more_steps_than_noise_levels_are_refused(name):
    make_sampler(STABLE_DIFFUSION | {"num_train_timesteps": 20}, 20, name=name)
    with pytest.raises(ValueError, match="num_inference_steps is 21, but the model has 20 noise levels.*most is 20"):
        make_sampler(STABLE_DIFFUSION | {"num_train_timesteps": 20}, 21, name=name)


def test_an_offset_beyond_the_last_timestep_is_refused():
    config = STABLE_DIFFUSION | {"steps_offset": 1}
    make_sampler(config, 500, name="ddim")
    with pytest.raises(ValueError, match="steps_offset 1 moves the first of 1000 timesteps to 1000, beyond the last"):
        make_sampler(config, 1000, name="ddim")


def test_karras_sigmas_run_from_end_to_end():
    sigmas = karras_sigmas(14.6, 0.03, 10)
    assert sigmas[0] == pytest.approx(14.6) and sigmas[-1] == pytest.approx(0.03)
    assert np.all(np.diff(sigmas) < 0)


def test_trained_betas_make_the_levels():
    betas = np.linspace(0.001, 0.3, 20).tolist()
    config = {"trained_betas": betas, "num_train_timesteps": 20}
    table = np.cumprod(1 - np.array(betas))
    sampler = make_sampler(config, 20, name="ddim")
    np.testing.assert_allclose(sampler.plan.signal, np.sqrt(table)[::-1], rtol=1e-6)
