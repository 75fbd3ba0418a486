"""Settings from YAML files and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flaxdream.config import DreamBoothConfig, SampleConfig
from flaxdream.config.yaml_file import read_yaml, write_yaml


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


def test_a_written_config_reads_back_the_same(tmp_path):
    config = SampleConfig(prompt=("ein Fuchs, größer", "b"), guidance_scale=1e-6, height=64)
    write_yaml(tmp_path / "c.yaml", config)
    assert SampleConfig(**read_yaml(tmp_path / "c.yaml", SampleConfig)) == config


def test_a_dreambooth_config_reads_back_the_same_and_shows_no_token(tmp_path):
    config = DreamBoothConfig(
        instance_prompt="sks", learning_rate=2e-6, cache_latents="no", mixed_precision="no", snr_gamma=5.0,
        optimizer_args=("momentum=0.9",), validation_prompt=("a: b", "no"), stop_text_encoder_training=0.5,
    )  # fmt: skip
    write_yaml(tmp_path / "c.yaml", replace(config, hub_token="hf_secret"))
    assert "hf_secret" not in (tmp_path / "c.yaml").read_text()
    assert DreamBoothConfig(**read_yaml(tmp_path / "c.yaml", DreamBoothConfig)) == config


def test_bare_yes_and_no_are_words_where_the_field_has_words(tmp_path):
    path = yaml_file(tmp_path, "cache_latents: yes\nmixed_precision: no\nuse_ema: yes\n")
    assert read_yaml(path, DreamBoothConfig) == {"cache_latents": "yes", "mixed_precision": "no", "use_ema": True}
