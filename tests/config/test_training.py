"""Settings of trainings: names are those of the code behind them, and contradictions are told all at once."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from dataclasses import replace

import pytest

from flaxdream.config import (
    DreamBoothConfig,
    RunConfig,
    TrainConfig,
    batch_problems,
    dreambooth_notes,
    dreambooth_problems,
)
from flaxdream.config.run_checks import (
    OPTIMIZER_ALIASES,
    OPTIMIZERS,
    optimizer_name,
    optimizer_options,
)
from flaxdream.data import captions, images
from flaxdream.diffusion import loss
from flaxdream.models import attention, remat
from flaxdream.training import learning_rate, optimizer_rules
from flaxdream.training.prodigy import prodigy

LEAST = DreamBoothConfig(pretrained_model_name_or_path="m", instance_data_dir="i", instance_prompt="a photo of sks dog")
PRIOR = replace(LEAST, with_prior_preservation=True, class_data_dir="c", class_prompt="a photo of dog")


def choices(field):
    hint = typing.get_type_hints(TrainConfig)[field]
    options = [hint, *typing.get_args(hint)]
    return next(typing.get_args(option) for option in options if typing.get_origin(option) is typing.Literal)


def test_names_are_those_of_the_rooms_that_the_config_may_not_import():
    assert choices("lr_scheduler") == learning_rate.LR_SCHEDULERS
    assert choices("gradient_checkpointing_policy") == tuple(remat.POLICIES)
    assert choices("attention") == attention.IMPLEMENTATIONS
    assert choices("loss_type") == loss.LOSS_TYPES
    assert choices("huber_schedule") == loss.HUBER_SCHEDULES
    assert choices("image_interpolation_mode") == tuple(images.INTERPOLATIONS)
    assert tuple(optimizer_rules.OPTIMIZERS) == OPTIMIZERS
    assert optimizer_rules.ALIASES == OPTIMIZER_ALIASES
    assert DreamBoothConfig.prompt_combine_template == captions.TEMPLATE


def test_every_field_that_needs_words_has_them():
    source = "".join(inspect.getsource(cls) for cls in (RunConfig, TrainConfig, DreamBoothConfig))
    for field in dataclasses.fields(DreamBoothConfig):
        assert re.search(rf"\n    {field.name}: ", source)
    assert source.count('"""') / 2 > 0.85 * len(dataclasses.fields(DreamBoothConfig))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_gets_only_options_that_it_has(name):
    config = replace(LEAST, optimizer=name.upper())
    assert optimizer_name(config) == name and not dreambooth_problems(config)
    optimizer_rules.make_rule(name, **optimizer_options(config))


def test_prodigy_defaults_are_its_own():
    own = {name: parameter.default for name, parameter in inspect.signature(prodigy).parameters.items()}
    assert optimizer_options(replace(LEAST, optimizer="prodigy")) == own | {"weight_decay": 0.01}


def test_eight_bit_adam_has_three_names():
    for values in ({"use_8bit_adam": True}, {"optimizer": "AdamW8bit"}, {"optimizer": "adamw-8bit"}):
        assert optimizer_name(replace(LEAST, **values)) == "adamw8bit"


def test_optimizer_args_become_numbers_and_truth_values():
    config = replace(LEAST, optimizer="sgd", optimizer_args=("momentum=0.9", "nesterov=True", "weight_decay=1e-2"))
    assert optimizer_options(config) == {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}


@pytest.mark.parametrize(
    ("values", "source"),
    [
        ({}, "prompt"),
        ({"use_txt_as_label": True}, "txt"),
        ({"combine_prompt_from_txt": True}, "prompt_and_txt"),
        ({"use_txt_as_label": True, "combine_prompt_from_txt": True}, "prompt_and_txt"),
        ({"read_prompts_from_txts": True}, "image_txt"),
        ({"use_filename_as_label": True}, "filename"),
    ],
)
def test_prompts_come_from_the_source_that_is_named(values, source):
    config = replace(LEAST, **values)
    assert config.caption_source == source and source in captions.SOURCES
    assert dreambooth_problems(config) == []


@pytest.mark.parametrize(
    ("values", "policy"),
    [
        ({}, "none"),
        ({"gradient_checkpointing": True}, "blocks"),
        ({"gradient_checkpointing_policy": "full"}, "full"),
        ({"gradient_checkpointing": True, "gradient_checkpointing_policy": "dots"}, "dots"),
    ],
)
def test_gradient_checkpointing_has_a_policy(values, policy):
    assert replace(LEAST, **values).remat == policy


GOOD = {
    "the least": {},
    "prior preservation": vars(PRIOR),
    "class pictures of concepts": {
        "concepts_list": "c.json", "instance_data_dir": None, "instance_prompt": None, "with_prior_preservation": True
    },
    "kohya's folders": {"kohya_folders": True, "instance_prompt": None},
    "prompts from files": {"use_txt_as_label": True, "instance_prompt": None},
    "a rate for the text encoder": {"train_text_encoder": True, "text_encoder_lr": 1e-6},
    "no clipping": {"max_grad_norm": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("values", GOOD.values(), ids=GOOD)
def test_settings_that_fit_together_have_no_problems(values):
    assert dreambooth_problems(replace(LEAST, **values)) == []


BAD = {
    "--resolution 100 is not a positive multiple of 8; nearest: 96": {"resolution": 100},
    "--resolution 0": {"resolution": 0},
    "--output_dir is empty": {"output_dir": ""},
    "--train_batch_size 0 must be 1 or more": {"train_batch_size": 0},
    "--max_train_steps -1": {"max_train_steps": -1},
    "--learning_rate nan": {"learning_rate": float("nan")},
    "--snr_gamma 0.0 must be above 0": {"snr_gamma": 0.0},
    "--snr_gamma and --debiased_estimation_loss": {"snr_gamma": 5.0, "debiased_estimation_loss": True},
    "--gradient_checkpointing_policy none": {
        "gradient_checkpointing": True, "gradient_checkpointing_policy": "none"
    },
    "piecewise_constant and rules": {"lr_scheduler": "piecewise_constant"},
    "where --lr_scheduler polynomial ends": {"lr_scheduler": "polynomial", "learning_rate": 1e-8},
    "--stop_text_encoder_training 2.5": {"stop_text_encoder_training": 2.5},
    "--use_8bit_adam goes with --optimizer adamw, not 'lion'": {"use_8bit_adam": True, "optimizer": "lion"},
    "--adam_beta2 cannot be used with --optimizer lion": {"optimizer": "lion", "adam_beta2": 0.99},
    "--adam_weight_decay cannot be used with --optimizer adam:": {"optimizer": "adam", "adam_weight_decay": 0.1},
    "--text_encoder_lr with --optimizer prodigy": {
        "optimizer": "prodigy", "text_encoder_lr": 1.0, "train_text_encoder": True
    },
    "--optimizer_args 'momentum' is not name=value": {"optimizer_args": ("momentum",)},
    "--ema_min_decay 0.99 must not be above": {"ema_min_decay": 0.99, "ema_decay": 0.9},
    "--seed -1 must lie in": {"seed": -1},
    "--checkpoints_total_limit 0": {"checkpoints_total_limit": 0},
    "--class_data_dir i is also --instance_data_dir": vars(PRIOR) | {"class_data_dir": "i"},
    "--prior_loss_weight -1.0": vars(PRIOR) | {"prior_loss_weight": -1.0},
    "put those of --instance_data_dir and --instance_prompt into it": {"concepts_list": "c.json"},
    "leave --instance_prompt out": {"kohya_folders": True},
    "name different sources of prompts": {"use_txt_as_label": True, "use_filename_as_label": True},
    "lacks {TXT_PROMPT}": {"combine_prompt_from_txt": True, "prompt_combine_template": "{PROMPT}"},
}  # fmt: skip


@pytest.mark.parametrize("part", BAD)
def test_each_contradiction_is_one_problem(part):
    (problem,) = dreambooth_problems(replace(LEAST, **BAD[part]))
    assert part in problem


def test_settings_without_effect_are_notes_and_no_problems():
    config = replace(
        LEAST, text_encoder_lr=1e-6, optimizer="prodigy", class_prompt="dog", lr_warmup_steps=10, hub_model_id="a/b"
    )
    assert dreambooth_problems(config) == []
    text = "\n".join(dreambooth_notes(config))
    for part in (
        "--text_encoder_lr has no effect", "1 is usual", "--class_prompt without", "--lr_warmup_steps 10",
        "--hub_model_id",
    ):  # fmt: skip
        assert part in text
    assert dreambooth_notes(LEAST) == []


def test_the_batch_counts_devices_and_accumulation_as_diffusers_does():
    config = replace(LEAST, train_batch_size=3, gradient_accumulation_steps=5)
    assert config.rows_per_step(8) == 120


def test_fsdp_must_divide_the_devices():
    assert batch_problems(replace(LEAST, fsdp=4), 8) == []
    (problem,) = batch_problems(replace(LEAST, fsdp=3), 8)
    assert problem == "--fsdp 3 does not divide the 8 devices. Those that fit: 1, 2, 4, 8."
