"""The files in configs/: the real parser takes each, and each holds only what differs from the defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flaxdream.cli.flags import parse_training
from flaxdream.config import (
    DreamBoothConfig,
    TextToImageConfig,
    VaeConfig,
    batch_problems,
    dreambooth_notes,
    dreambooth_problems,
    text_to_image_notes,
    text_to_image_problems,
    vae_notes,
    vae_problems,
)
from flaxdream.config.yaml_file import read_yaml

FOLDER = Path(__file__).parent.parent / "configs"
DEVICES = {"v3-8": 8, "v4-8": 4, "v5e-8": 8, "gpu-24gb": 1, "gpu-40gb": 1, "gpu-80gb": 1, "cpu-quickstart": 1}
SUBJECT = ["--pretrained_model_name_or_path=m", "--instance_data_dir=i", "--instance_prompt=a photo of sks dog"]


def recipe(machine):
    argv = [*SUBJECT, f"--config={FOLDER / f'dreambooth-{machine}.yaml'}"]
    return parse_training(DreamBoothConfig, argv, "dreambooth", dreambooth_problems).config


def test_there_is_a_dreambooth_recipe_for_each_machine():
    assert {path.stem for path in FOLDER.glob("dreambooth-*")} == {f"dreambooth-{machine}" for machine in DEVICES}


@pytest.mark.parametrize("machine", DEVICES)
def test_a_dreambooth_recipe_is_ready_to_run_and_repeats_no_default(machine):
    path, config = FOLDER / f"dreambooth-{machine}.yaml", recipe(machine)
    assert batch_problems(config, DEVICES[machine]) == dreambooth_notes(config) == []
    given = read_yaml(path, DreamBoothConfig)
    assert {name: value for name, value in given.items() if getattr(DreamBoothConfig, name) == value} == {}


MADE_BY = {
    "builtin-vae": ("vae", VaeConfig, vae_problems, vae_notes),
    "builtin-decoder": ("vae", VaeConfig, vae_problems, vae_notes),
    "builtin-model": ("text_to_image", TextToImageConfig, text_to_image_problems, text_to_image_notes),
}


@pytest.mark.parametrize("name", MADE_BY)
def test_the_built_in_models_recipes_are_ready_to_run_and_repeat_no_default(name):
    command, cls, problems, notes = MADE_BY[name]
    path = FOLDER / f"{name}.yaml"
    data = ["--pretrained_model_name_or_path=m", "--train_data_dir=d", "--held_out_data_dir=h"]
    config = parse_training(cls, [*data, f"--config={path}"], command, problems).config
    assert notes(config) == []
    assert {key: value for key, value in read_yaml(path, cls).items() if getattr(cls, key) == value} == {}
    assert f"flaxdream {command} --config configs/{name}.yaml" in path.read_text()


@pytest.mark.parametrize("machine", DEVICES)
def test_the_header_of_a_recipe_has_its_command_and_says_what_was_measured(machine):
    header = "".join(
        line[1:] for line in (FOLDER / f"dreambooth-{machine}.yaml").read_text().splitlines() if line.startswith("#")
    )
    assert f"flaxdream dreambooth --config configs/dreambooth-{machine}.yaml" in header
    if "Compiled for it" in header:  # the plans of the figures are those of latents that are made once
        assert recipe(machine).latents_stay
    assert "not measured yet" in header or re.search(r"[0-9] [GM]iB .*(step|chip|core|device)", header)
