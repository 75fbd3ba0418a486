"""Models without weights."""

from __future__ import annotations

import json

import pytest

from flaxdream.config import DreamBoothConfig
from flaxdream.models.architectures import ARCHITECTURES
from flaxdream.planning.model import read_configs


def configs(name):
    return read_configs(DreamBoothConfig(pretrained_model_name_or_path=str(name)))


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("sd15", "sd15"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15"),
        ("stabilityai/stable-diffusion-2-1", "sd21"),
    ],
)
def test_architectures_and_well_known_models_need_no_file(name, architecture):
    assert configs(name) == ARCHITECTURES[architecture]


def test_a_folder_needs_its_configs_alone(tmp_path):
    for component, values in ARCHITECTURES["tiny"].items():
        (tmp_path / component).mkdir()
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        (tmp_path / component / name).write_text(json.dumps(values))
    assert configs(tmp_path) == ARCHITECTURES["tiny"]
    (tmp_path / "vae" / "config.json").unlink()
    with pytest.raises(ValueError, match="no config of vae"):
        configs(tmp_path)


@pytest.mark.parametrize("inside", ["", "vae"])
def test_the_vae_that_the_settings_name_takes_the_place_of_the_models_own(tmp_path, inside):
    (tmp_path / inside).mkdir(exist_ok=True)
    (tmp_path / inside / "config.json").write_text(json.dumps(ARCHITECTURES["tiny"]["vae"]))
    config = DreamBoothConfig(pretrained_model_name_or_path="sd15", pretrained_vae_name_or_path=str(tmp_path))
    assert read_configs(config) == ARCHITECTURES["sd15"] | {"vae": ARCHITECTURES["tiny"]["vae"]}


def test_a_name_that_is_no_model_is_answered_with_the_architectures():
    with pytest.raises(ValueError, match=r"(?s)not/there/at-all.* give an architecture, sd15 or sd21"):
        configs("not/there/at-all")
