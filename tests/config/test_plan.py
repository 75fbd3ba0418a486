"""The plan's own settings."""

from __future__ import annotations

import pytest

from flaxdream.config import DreamBoothConfig, PlanConfig, TextToImageConfig, dreambooth_problems, plan_problems
from flaxdream.config.plan import stand_ins
from flaxdream.config.text_to_image import text_to_image_problems


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "--topology is missing"),
        ({"topology": "v5e-8", "what": "train,smaple"}, "perhaps you meant 'sample'"),
        ({"topology": "v5e-8", "what": ","}, "names nothing"),
        ({"topology": "v5e-8", "what": "sample", "advise": True}, "add train to --what"),
        ({"topology": "v5e-8", "caption_count": 0}, "--caption_count 0 must be 1 or more"),
    ],
)
def test_each_problem_is_named(settings, words):
    assert any(words in problem for problem in plan_problems(PlanConfig(**settings)))


def test_good_settings_have_no_problem():
    assert plan_problems(PlanConfig(topology="v5e-8", what="train, sample,encode", advise=True)) == []


@pytest.mark.parametrize("changes", [{}, {"with_prior_preservation": True}, {"concepts_list": "c.json"}])
def test_a_plan_needs_no_pictures_and_no_prompts(changes):
    config = DreamBoothConfig(pretrained_model_name_or_path="sd15", **changes)
    filled = DreamBoothConfig(**vars(config) | stand_ins("dreambooth", vars(config)))
    assert dreambooth_problems(filled) == []


def test_text_to_image_needs_no_data_and_keeps_what_is_given():
    config = TextToImageConfig(pretrained_model_name_or_path="sd15")
    filled = TextToImageConfig(**vars(config) | stand_ins("text_to_image", vars(config)))
    assert text_to_image_problems(filled) == []
    assert stand_ins("text_to_image", vars(TextToImageConfig(dataset_name="a/b"))) == {}
    assert stand_ins("dreambooth", vars(DreamBoothConfig(instance_data_dir="dog", instance_prompt="x"))) == {}
