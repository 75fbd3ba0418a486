"""What make_sampler reads, ignores and refuses, and the short names."""

from __future__ import annotations

import diffusers
import pytest

from flaxdream.diffusion.samplers import CLASSES, NAMES, make_sampler, scheduler_config
from tests.diffusion.samplers.twin import STABLE_DIFFUSION

# scheduler_config.json of Stable Diffusion 1.5, as it is on the Hub.
SD15 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


@pytest.mark.parametrize("name", CLASSES)
def test_defaults_of_a_class_are_those_of_diffusers(name):
    config = getattr(diffusers, name)().config
    options = make_sampler({"_class_name": name}, 10).options
    named = {key: getattr(options, key) for key in config if hasattr(options, key)}
    theirs = {key: tuple(config[key]) if isinstance(config[key], list) else config[key] for key in named}
    assert named == theirs
    missing = set(config) - set(named) - {"_use_default_values", "flow_shift", "time_shift_type"}
    assert not missing


@pytest.mark.parametrize("source", CLASSES)
@pytest.mark.parametrize("target", CLASSES)
def test_the_full_config_of_any_class_makes_any_other(source, target):
    config = {key: value for key, value in getattr(diffusers, source)().config.items() if not key.startswith("_use")}
    ours = make_sampler(config | {"_class_name": source}, 10, name=target)
    theirs = getattr(diffusers, target).from_config(config).config
    for key in theirs.keys() & set(vars(ours.options)):
        if getattr(ours.options, key) != theirs[key]:
            # disable_corrector is a list there; variance_type fixed_small and null mean no learned variance.
            assert key in ("disable_corrector", "variance_type"), key


def test_the_class_of_a_config_is_taken_and_a_name_takes_its_place():
    assert type(make_sampler(SD15, 10)) is CLASSES["PNDMScheduler"]
    assert type(make_sampler(SD15, 10, name="DDIMScheduler")) is CLASSES["DDIMScheduler"]
    assert type(make_sampler(SD15 | {"_class_name": "FlaxDDIMScheduler"}, 10)) is CLASSES["DDIMScheduler"]
    ddim = make_sampler(SD15, 10, name="ddim").options
    assert (ddim.steps_offset, ddim.set_alpha_to_one, ddim.clip_sample, ddim.beta_end) == (1, False, False, 0.012)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_a_sampler_of_the_stable_diffusion_config(name):
    sampler = make_sampler(SD15, 10, name=name)
    assert len(sampler.calls) >= 10
    assert type(make_sampler(sampler.config, 10)) is type(sampler)
    assert make_sampler(sampler.config, 10) == sampler


@pytest.mark.parametrize(
    "name, options",
    [
        ("dpmpp_2m", {"solver_order": 2, "algorithm_type": "dpmsolver++", "use_karras_sigmas": False}),
        ("dpmpp_2m_karras", {"solver_order": 2, "algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
        ("dpmpp_2m_sde", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": False}),
        ("dpmpp_2m_sde_karras", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
        ("dpmpp_3m_sde_exponential", {"solver_order": 3, "use_exponential_sigmas": True}),
        ("dpmpp_3m", {"solver_order": 3, "algorithm_type": "dpmsolver++"}),
        ("euler_karras", {"use_karras_sigmas": True}),
        ("lms_karras", {"use_karras_sigmas": True}),
        ("heun_beta", {"use_beta_sigmas": True}),
        ("unipc", {"solver_order": 2, "solver_type": "bh2"}),
        ("plms", {"skip_prk_steps": True}),
    ],
)
def test_names_stand_for_a_class_and_its_options(name, options):
    made = make_sampler(SD15 | {"use_karras_sigmas": True}, 10, name=name).options
    assert {key: getattr(made, key) for key in options} == options


def test_aliases_are_the_same_samplers():
    assert NAMES["euler_ancestral"] is NAMES["euler_a"] is NAMES["k_euler_a"]
    assert NAMES["dpmsolver++"] is NAMES["dpmpp_2m"]


def test_what_a_config_says_of_the_model_stays():
    model = SD15 | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    options = make_sampler(model, 10, name="euler_a").options
    assert options.prediction_type == "v_prediction" and options.rescale_betas_zero_snr
    assert options.timestep_spacing == "trailing"


def test_options_given_by_hand_win_over_name_and_config():
    sampler = make_sampler(SD15, 10, name="dpmpp_2m", solver_order=3, timestep_spacing="trailing")
    assert sampler.options.solver_order == 3 and sampler.options.timestep_spacing == "trailing"


def test_null_stands_for_the_default():
    assert make_sampler(STABLE_DIFFUSION | {"use_karras_sigmas": None}, 10, name="ddim").num_inference_steps == 10
    assert (
        make_sampler(STABLE_DIFFUSION | {"timestep_spacing": None}, 10, name="ddim").options.timestep_spacing
        == "leading"
    )


def test_scheduler_config_is_the_models_with_the_name_put_in_and_can_be_turned_back():
    changed = scheduler_config(SD15, "dpmpp_2m_karras")
    assert changed["_class_name"] == "DPMSolverMultistepScheduler" and changed["use_karras_sigmas"] is True
    assert scheduler_config(changed, "pndm")["skip_prk_steps"] is True
    assert diffusers.DPMSolverMultistepScheduler.from_config(changed).config.use_karras_sigmas
    assert scheduler_config(SD15) == SD15


@pytest.mark.parametrize(
    "config, message",
    [
        ({}, "names no _class_name. Give a sampler's name: ddim, ddpm"),
        ({"_class_name": "LCMScheduler"}, "No sampler is named 'LCMScheduler'.*Supported: ddim, .*DDIMScheduler"),
        ({"_class_name": "DDIMSchedular"}, "Perhaps you meant DDIMScheduler?"),
        (
            {"timestep_spacing": "middle"},
            "timestep_spacing='middle' is not supported. Supported: 'linspace', 'leading'",
        ),
        ({"prediction_type": "flow_prediction"}, "Supported: 'epsilon', 'v_prediction', 'sample'"),
        ({"clip_sample": "yes"}, "clip_sample='yes' is not supported. Supported: true, false"),
        ({"steps_offset": 1.5}, "steps_offset=1.5 is not supported. Supported: an integer"),
        ({"steps_offset": -1}, "steps_offset is -1; expected 0 or more"),
        ({"clip_sample_range": 0}, "clip_sample_range is 0.0; expected a number above 0"),
        ({"dynamic_thresholding_ratio": 99.5}, "dynamic_thresholding_ratio is 99.5; expected a number from 0 to 1"),
        ({"set_alpha_to_zero": True}, "no option 'set_alpha_to_zero'. Perhaps you meant set_alpha_to_one?"),
        ({"predict_epsilon": False}, "predict_epsilon=False belongs to an old version.*set prediction_type"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid' is not supported. Supported: linear"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas has 2 entries but num_train_timesteps is 1000"),
        ({"trained_betas": "0.1"}, "Supported: a list of a number, null"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0; expected a positive integer"),
    ],
)
def test_bad_configs_are_refused_with_what_is_expected(config, message):
    config = config if config.keys() <= {"_class_name"} else {"_class_name": "DDIMScheduler"} | config
    with pytest.raises(ValueError, match=message):
        make_sampler(config, 10)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("euler", {"eta": 0.5}, "EulerDiscreteScheduler has no option 'eta'"),
        ("ddim", {"etta": 0.5}, "DDIMScheduler has no option 'etta'. Perhaps you meant eta?"),
        ("dpmpp_4m", {}, "No sampler is named 'dpmpp_4m'. Perhaps you meant dpmpp_"),
        ("euler_karras", {"use_beta_sigmas": True}, "use_karras_sigmas and use_beta_sigmas contradict each other"),
        ("dpmpp_2m_lu", {"use_karras_sigmas": True}, "use_karras_sigmas and use_lu_lambdas contradict each other"),
        ("dpmpp_2m", {"solver_order": 4}, "solver_order=4 is not supported. Supported: 1, 2, 3"),
        ("dpmpp_2m", {"use_flow_sigmas": True}, "use_flow_sigmas=True is not supported. Supported: False"),
        ("unipc", {"solver_order": 0}, "solver_order is 0; expected 1 or more"),
        ("unipc", {"solver_p": "ddim"}, "solver_p='ddim' is not supported. Supported: null"),
        ("euler", {"s_churn": -1.0}, "s_churn is -1.0; expected a number, 0 or more"),
        ("lms", {"order": 5}, "order is 5; expected 1, 2, 3 or 4"),
        ("euler", {"sigma_min": 0.0}, "sigma_min is 0.0; expected a number above 0"),
    ],
)
def test_bad_options_are_refused_with_what_is_expected(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(SD15, 10, name=name, **options)


@pytest.mark.parametrize("steps", [0, -3, 2.0, True, "10"])
def test_numbers_of_steps_that_are_not_positive_integers_are_refused(steps):
    with pytest.raises(ValueError, match="num_inference_steps is .*expected an integer, 1 or more"):
        make_sampler(SD15, steps)


@pytest.mark.parametrize("begin, message", [(-1, "begin is -1"), (10, "begin is 10, but there are 10 steps, or fewer")])
def test_a_begin_outside_the_steps_is_refused(begin, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(SD15, 10, begin=begin)
