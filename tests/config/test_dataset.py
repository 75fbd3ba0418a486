"""What `flaxdream dataset check` refuses before it opens a file."""

from __future__ import annotations

import dataclasses

import pytest

from flaxdream.config.captioned import CaptionedData
from flaxdream.config.dataset import DatasetCheckConfig, dataset_check_problems
from flaxdream.config.text_to_image import TextToImageConfig

# What the command does with each flag of captioned data; a new flag needs a decision there, and a line here.
USED = {
    "dataset_name", "dataset_config_name", "dataset_split", "train_data_dir", "image_column", "caption_column",
    "captions", "caption_per_line", "missing_caption", "max_train_samples",
}  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"train_data_dir": "dogs"},
        {"dataset_name": "lambda/dogs"},
        {"dataset_name": "webdataset", "train_data_dir": "dogs"},
        {"train_data_dir": "dogs", "instance_prompt": "a photo of sks dog", "token": "sks"},
        {"instance_data_dir": "dogs", "instance_prompt": "a photo of sks dog"},
        {"train_data_dir": "dogs", "resolution": 520},
    ],
)
def test_good_settings_have_no_problem(settings):
    assert dataset_check_problems(DatasetCheckConfig(**settings)) == []


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "There is no data"),
        ({"instance_data_dir": "dogs"}, "--instance_data_dir needs --instance_prompt"),
        ({"instance_data_dir": "dogs", "instance_prompt": " "}, "--instance_data_dir needs --instance_prompt"),
        ({"instance_prompt": "sks dog"}, "There is no folder"),
        ({"instance_prompt": "sks dog", "dataset_name": "x"}, "a --dataset_name has captions of its own"),
        ({"instance_prompt": "a", "train_data_dir": "x", "instance_data_dir": "y"}, "two folders: keep one"),
        ({"train_data_dir": "x", "resolution": 100}, "--resolution 100 is not a positive multiple of 8; nearest: 96"),
        ({"train_data_dir": "x", "resolution": 0}, "--resolution 0 is not"),
        ({"train_data_dir": "x", "resolution": 520, "use_aspect_ratio_bucket": True}, "--bucket_divisor 64"),
        ({"train_data_dir": "x", "bucket_divisor": 0, "use_aspect_ratio_bucket": True}, "--bucket_divisor 0 must be 1"),
        ({"train_data_dir": "x", "bucket_most_cropped": 1.5}, "--bucket_most_cropped 1.5 must lie in 0..1"),
        ({"train_data_dir": "x", "bucket_most_upscaled": 0}, "--bucket_most_upscaled 0 must be above 0"),
        ({"train_data_dir": "x", "least_sharpness": -1}, "--least_sharpness -1 must be 0 or more"),
        ({"train_data_dir": "x", "max_train_samples": 0}, "--max_train_samples 0 must be 1 or more"),
        ({"train_data_dir": "x", "token": "sks dog"}, "--token 'sks dog' is not one word"),
        ({"train_data_dir": "x", "token": ""}, "--token '' is not one word"),
    ],
)
def test_wrong_settings_are_refused_with_what_to_do(settings, problem):
    (said,) = dataset_check_problems(DatasetCheckConfig(**settings))
    assert problem in said


def test_every_flag_of_captioned_data_has_its_place_here():
    assert {field.name for field in dataclasses.fields(CaptionedData)} == USED


def test_flags_of_the_same_name_as_in_training_have_the_same_default():
    others = {field.name: field.default for field in dataclasses.fields(TextToImageConfig)}
    differ = {
        field.name
        for field in dataclasses.fields(DatasetCheckConfig)
        if field.name in others and field.default != others[field.name]
    }
    assert differ == {"output_dir", "pretrained_model_name_or_path", "train_batch_size"}
