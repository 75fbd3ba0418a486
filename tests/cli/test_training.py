"""What the commands that train make of errors."""

from __future__ import annotations

import jax
import pytest

from flaxdream.cli import main
from flaxdream.training.recipes import dreambooth

ARGUMENTS = ["dreambooth", "--pretrained_model_name_or_path=m", "--instance_data_dir=i", "--instance_prompt=a sks"]


def raising(text):
    def train(config):
        raise jax.errors.JaxRuntimeError(text)

    return train


def test_a_device_without_enough_memory_is_told_with_what_helps(monkeypatch, capsys):
    text = "RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.\nBacktrace: ..."
    monkeypatch.setattr(dreambooth, "train_dreambooth", raising(text))
    assert main([*ARGUMENTS, "--compilation_cache_dir="]) == 1
    said = capsys.readouterr().err
    assert "17179869184 bytes" in said and "--gradient_checkpointing" in said and "flaxdream plan" in said
    assert "Backtrace" not in said


def test_what_is_asked_of_the_compiler_in_vain_is_said(monkeypatch, capsys):
    monkeypatch.setattr(dreambooth, "train_dreambooth", lambda config: 0)
    assert main([*ARGUMENTS, "--compilation_cache_dir=", "--fast_compile"]) == 0
    assert "--fast_compile has no effect on a cpu" in capsys.readouterr().out
    assert main([*ARGUMENTS, "--compilation_cache_dir="]) == 0
    assert "--fast_compile" not in capsys.readouterr().out


def test_other_errors_of_the_runtime_are_not_hidden(monkeypatch):
    monkeypatch.setattr(dreambooth, "train_dreambooth", raising("INTERNAL: a defect"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="a defect"):
        main([*ARGUMENTS, "--compilation_cache_dir="])
