"""Random combinations of options against diffusers' schedulers: what no single option shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flaxdream.diffusion.samplers import make_sampler
from tests.diffusion.samplers.twin import COSINE, LINEAR, STABLE_DIFFUSION, Twin, assert_equal_trajectories, normal

STEP_OPTIONS = ("eta", "use_clipped_model_output", "s_churn", "s_tmin", "s_tmax", "s_noise", "order")
FLAG = [False, True]
COMMON: dict[str, list[Any]] = {
    "betas": [STABLE_DIFFUSION, LINEAR, COSINE],
    "timestep_spacing": ["linspace", "leading", "trailing"],
    "steps_offset": [0, 1],
    "prediction_type": ["epsilon", "v_prediction", "sample"],
}
THRESHOLD = {"thresholding": FLAG, "sample_max_value": [1.0, 2.5], "dynamic_thresholding_ratio": [0.995, 0.6]}
CLIP = {"clip_sample": FLAG, "clip_sample_range": [1.0, 2.0]}
RESPACED = [{}, {}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]
SIGMAS = {"respaced": RESPACED, "sigma_min": [None, 0.1], "sigma_max": [None, 10.0]}
SPACE: dict[str, dict[str, list[Any]]] = {
    "DDIMScheduler": {
        **(COMMON | THRESHOLD | CLIP),
        **{"set_alpha_to_one": FLAG, "rescale_betas_zero_snr": FLAG, "use_clipped_model_output": FLAG},
        "eta": [0.0, 0.5],
    },
    "DDPMScheduler": {
        **(COMMON | THRESHOLD | CLIP),
        "rescale_betas_zero_snr": FLAG,
        "variance_type": ["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"],
    },
    "PNDMScheduler": {
        **COMMON,
        **{"prediction_type": ["epsilon", "v_prediction"], "skip_prk_steps": FLAG, "set_alpha_to_one": FLAG},
    },
    "EulerDiscreteScheduler": {
        **(COMMON | SIGMAS),
        **{"interpolation_type": ["linear", "log_linear"], "final_sigmas_type": ["zero", "sigma_min"]},
        **{"timestep_type": ["discrete", "continuous"], "rescale_betas_zero_snr": FLAG},
        **{"s_churn": [0.0, 5.0], "s_tmin": [0.0, 0.5], "s_tmax": [float("inf"), 5.0], "s_noise": [1.0, 1.01]},
    },
    "EulerAncestralDiscreteScheduler": {
        **COMMON,
        **{"prediction_type": ["epsilon", "v_prediction"], "rescale_betas_zero_snr": FLAG},
    },
    "HeunDiscreteScheduler": COMMON | SIGMAS | CLIP,
    "LMSDiscreteScheduler": COMMON | SIGMAS | {"order": [1, 2, 3, 4]},
    "DPMSolverMultistepScheduler": {
        **(COMMON | SIGMAS | THRESHOLD),
        "respaced": [*RESPACED, {"use_lu_lambdas": True}],
        **{"solver_order": [1, 2, 3], "solver_type": ["midpoint", "heun"], "lower_order_final": FLAG},
        "algorithm_type": ["dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver"],
        **{"euler_at_final": FLAG, "final_sigmas_type": ["zero", "sigma_min"]},
        **{"lambda_min_clipped": [-float("inf"), -5.1, -2.0], "rescale_betas_zero_snr": FLAG},
    },
    "UniPCMultistepScheduler": {
        **(COMMON | SIGMAS | THRESHOLD),
        **{"solver_order": [1, 2, 3, 4], "predict_x0": [True, True, False], "solver_type": ["bh1", "bh2", "bh2"]},
        **{"lower_order_final": [True, True, False], "disable_corrector": [[], [0], [1, 3]]},
        **{"final_sigmas_type": ["zero", "sigma_min"], "rescale_betas_zero_snr": FLAG},
    },
}


def drawn(name, seed):
    """A config, a number of steps and the options of a step."""
    rng = np.random.default_rng([seed, *name.encode()])
    config = {key: values[rng.integers(len(values))] for key, values in SPACE[name].items()}
    config |= config.pop("betas") | config.pop("respaced", {})
    step_options = {key: config.pop(key) for key in STEP_OPTIONS if key in config}
    return config | {"_class_name": name}, int(rng.choice([4, 5, 10, 14, 15, 20])), step_options


def check(name, seed):
    config, steps, step_options = drawn(name, seed)
    variances = str(config.get("variance_type")).startswith("learned")
    try:
        make_sampler(config, steps, **step_options)
    except ValueError:
        return  # each refusal has a test of its own
    noises = [normal(1, i) for i in range(4 * steps)]
    with np.errstate(all="ignore"):
        twin = Twin(config, steps, double=True, **step_options).trajectory(normal(0), noises, variances=variances)
    if np.isfinite(twin).all():  # else diffusers gives NaN: a step between equal sigmas
        assert_equal_trajectories(config, steps, variances=variances, cancels=True, **step_options)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SPACE)
def test_combined_options_follow_diffusers(name, seed):
    check(name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 250))
@pytest.mark.parametrize("name", SPACE)
def test_many_more_combined_options_follow_diffusers(name, seed):
    check(name, seed)
