"""Settings from flags and files together."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flaxdream.cli.flags import parse, parse_training
from flaxdream.config import DreamBoothConfig, SampleConfig, dreambooth_problems

LEAST = ["--pretrained_model_name_or_path=m", "--instance_data_dir=i", "--instance_prompt=a photo of sks dog"]


def yaml_file(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def dreambooth(*argv):
    return parse_training(DreamBoothConfig, argv, "dreambooth", dreambooth_problems)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = yaml_file(tmp_path, "seed: 3\nguidance_scale: 2\n")
    config = parse(SampleConfig, ["--seed", "7", f"--config={path}", "--prompt", "a", "b"], "sample")
    assert (config.seed, config.guidance_scale, config.prompt) == (7, 2.0, ("a", "b"))
    assert config.num_inference_steps == SampleConfig().num_inference_steps


def test_an_unknown_flag_ends_the_program_with_a_suggestion(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(SampleConfig, ["--guidance_scal", "3"], "sample")
    assert stop.value.code == 2
    assert "--guidance_scale" in capsys.readouterr().err


def test_the_sources_of_values_are_told_without_defaults_and_tokens(tmp_path):
    path = yaml_file(tmp_path, "seed: 3\nuse_ema: true\nlearning_rate: 2e-6\n")
    parsed = dreambooth(*LEAST, "--seed", "7", "--no_use_ema", "--hub_token=hf_x", "--config", str(path))
    text = " ".join(" ".join(parsed.sources).split())
    assert "from flags: pretrained_model_name_or_path m, hub_token (not shown), seed 7 (not 3 of the file)" in text
    assert "use_ema False (not True of the file)" in text
    assert "instance_prompt 'a photo of sks dog'" in text
    assert f"from {path}: learning_rate 2e-06" in text
    assert "hf_x" not in text and "train_batch_size" not in text


def test_problems_of_flags_and_of_the_settings_come_together():
    with pytest.raises(ValueError) as error:
        dreambooth("--rank", "4", "--resolution=500", "--with_prior_preservation", "--optimizer", "AdamZ")
    text = str(error.value)
    for part in (
        "--rank 4: LoRA is not built yet", "--pretrained_model_name_or_path is missing", "--resolution 500",
        "nearest: 496", "--instance_data_dir is missing", "--instance_prompt is missing", "--class_prompt",
        "--class_data_dir", "--optimizer 'AdamZ' is not known; perhaps you meant 'adam",
    ):  # fmt: skip
        assert part in text


def test_problems_of_flags_come_with_those_of_the_file(tmp_path):
    with pytest.raises(ValueError, match="(?s)LoRA.*unknown key 'sed'; perhaps you meant 'seed'"):
        dreambooth("--rank=4", f"--config={yaml_file(tmp_path, 'sed: 1')}")


def test_an_unknown_flag_does_not_hide_the_refused_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        dreambooth("--rank=4", "--resolutoin=512")
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert "--resolution" in shown and "LoRA is not built yet" in shown


def test_the_help_of_dreambooth_imports_no_jax_and_nothing_else_that_is_slow():
    slow = ("jax", "flax", "optax", "orbax", "numpy", "PIL", "transformers", "huggingface_hub")
    program = (
        "import sys\n"
        "from flaxdream.cli.flags import parse_training\n"
        "from flaxdream.config import DreamBoothConfig, dreambooth_problems\n"
        "try: parse_training(DreamBoothConfig, ['--help'], 'dreambooth', dreambooth_problems)\n"
        f"finally: print(sorted(set({slow}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert "--instance_prompt" in done.stdout
