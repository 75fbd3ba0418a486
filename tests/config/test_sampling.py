"""What is wrong with the settings of `flaxdream sample`."""

from __future__ import annotations

from flaxdream.config import SampleConfig, sample_problems


def test_all_problems_of_the_settings_are_listed():
    problems = sample_problems(SampleConfig(height=100, num_inference_steps=0, guidance_rescale=2.0))
    text = "\n".join(problems)
    for part in (
        "--pretrained_model_name_or_path is missing", "No prompt", "--height 100", "nearest: 96",
        "--num_inference_steps 0", "--guidance_rescale 2.0",
    ):  # fmt: skip
        assert part in text
    assert not sample_problems(SampleConfig(pretrained_model_name_or_path="m", prompt=("a",), height=64))
