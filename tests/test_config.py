"""Settings from YAML and flags."""

from __future__ import annotations

import pytest

from flaxdream.cli.flags import parse
from flaxdream.cli.yaml_file import read_yaml, write_yaml
from flaxdream.config import SampleConfig, sample_problems


def yaml_file(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_values_take_the_type_of_their_field(tmp_path):
    path = yaml_file(tmp_path, "guidance_scale: 5e0\nprompt: a dog\nheight: 64\nmixed_precision: no\nrevision:\n")
    assert read_yaml(path, SampleConfig) == {
        "guidance_scale": 5.0, "prompt": ("a dog",), "height": 64, "mixed_precision": "no", "revision": None,
    }  # fmt: skip


def test_every_bad_line_of_a_yaml_file_is_named_at_once(tmp_path):
    path = yaml_file(tmp_path, "promt: a dog\nheight: 1.5\nvae_tiling: 1\nmixed_precision: fp8\nseed: true\n")
    with pytest.raises(ValueError) as error:
        read_yaml(path, SampleConfig)
    text = str(error.value)
    assert "unknown key 'promt'; perhaps you meant 'prompt'" in text
    assert "height: 1.5 is not a whole number or empty" in text
    assert "vae_tiling: 1 is not true or false" in text
    assert "mixed_precision: 'fp8' is not one of no, bf16, fp16" in text
    assert "seed: True is not a whole number" in text


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="config.yaml"):
        read_yaml(yaml_file(tmp_path, text), SampleConfig)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = yaml_file(tmp_path, "seed: 3\nguidance_scale: 2\n")
    config = parse(SampleConfig, ["--seed", "7", f"--config={path}", "--prompt", "a", "b"], "sample")
    assert (config.seed, config.guidance_scale, config.prompt) == (7, 2.0, ("a", "b"))
    assert config.num_inference_steps == SampleConfig().num_inference_steps


def test_a_written_config_reads_back_the_same(tmp_path):
    config = SampleConfig(prompt=("ein Fuchs, größer", "b"), guidance_scale=1e-6, height=64)
    write_yaml(tmp_path / "c.yaml", config)
    assert SampleConfig(**read_yaml(tmp_path / "c.yaml", SampleConfig)) == config


def test_an_unknown_flag_ends_the_program_with_a_suggestion(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(SampleConfig, ["--guidance_scal", "3"], "sample")
    assert stop.value.code == 2
    assert "--guidance_scale" in capsys.readouterr().err


def test_all_problems_of_the_settings_are_listed():
    problems = sample_problems(SampleConfig(height=100, num_inference_steps=0, guidance_rescale=2.0))
    text = "\n".join(problems)
    for part in (
        "--pretrained_model_name_or_path is missing", "No prompt", "--height 100", "nearest: 96",
        "--num_inference_steps 0", "--guidance_rescale 2.0",
    ):  # fmt: skip
        assert part in text
    assert not sample_problems(SampleConfig(pretrained_model_name_or_path="m", prompt=("a",), height=64))
