"""Pictures straight from a checkpoint of a training."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flaxdream import FlaxStableDiffusionPipeline
from flaxdream.cli import main
from flaxdream.weights.model_dir import write_model_dir
from flaxdream.weights.random_model import write_random_model
from tests.weights.conftest import assert_equal
from tests.weights.run_folders import result, trained_state, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose checkpoint has an average, and the model that it would write."""
    folder = tmp_path_factory.mktemp("run")
    write_random_model(folder / "model", "tiny")
    _, params = FlaxStableDiffusionPipeline.from_pretrained(folder / "model")
    state = trained_state(params, ["unet"], jnp.float32)
    write_run(folder / "out", folder / "model", {2: state})
    write_model_dir(folder / "written", params=result(state), source=folder / "model")
    return folder


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_checkpoint_is_the_model_that_its_run_would_write(run, tmp_path, dtype):
    _, expected = FlaxStableDiffusionPipeline.from_pretrained(run / "written", dtype=dtype)
    pipeline, params = FlaxStableDiffusionPipeline.from_pretrained(run / "out/checkpoint-2", dtype=dtype)
    assert_equal(params, expected)
    pipeline.save_pretrained(tmp_path / "saved", params)
    assert_equal(FlaxStableDiffusionPipeline.from_pretrained(tmp_path / "saved", dtype=dtype)[1], expected)


@pytest.mark.slow
def test_the_command_draws_from_a_checkpoint_what_it_draws_from_the_model(run, tmp_path):
    pictures = {}
    for name, source in (("checkpoint", run / "out/checkpoint-2"), ("model", run / "written")):
        arguments = ["--pretrained_model_name_or_path", source, "--output_dir", tmp_path / name, "--prompt", "a fox"]
        arguments += ["--num_inference_steps", "2", "--height", "64", "--width", "64", "--compilation_cache_dir", ""]
        assert main(["sample", *map(str, arguments)]) == 0
        pictures[name] = np.asarray(Image.open(tmp_path / name / "00000-seed0.png"))
    np.testing.assert_array_equal(pictures["checkpoint"], pictures["model"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("out", "has not written its model yet. Its newest checkpoint is out/checkpoint-2: draw from that"),
        ("out/checkpoint-9", "out/checkpoint-9: there is no such checkpoint."),
        ("out/checkpoint-2/../checkpoint-3", "there is no such checkpoint."),
    ],
)
def test_what_cannot_be_drawn_from_is_answered_with_what_can(run, monkeypatch, capsys, tmp_path, source, message):
    monkeypatch.chdir(run)
    arguments = ["--pretrained_model_name_or_path", source, "--output_dir", str(tmp_path / "out"), "--prompt", "a fox"]
    assert main(["sample", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
