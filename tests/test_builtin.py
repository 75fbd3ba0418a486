"""The model that ships inside the package: whole, small, and the same in PyTorch."""

from __future__ import annotations

import io
import zipfile

import diffusers
import numpy as np
import pytest
import torch

from flaxdream import FlaxStableDiffusionPipeline
from flaxdream.weights.hub import BUILTIN, model_folder

MEGABYTES = 24  # in the wheel, at most
PROMPT = "a photo of a fox in the snow"


def test_builtin_is_the_name_of_the_folder_that_ships():
    assert model_folder("builtin") == BUILTIN
    assert (BUILTIN / "model_index.json").is_file()


def test_it_comes_with_its_card_and_with_the_licence_of_the_drawings():
    card = (BUILTIN / "README.md").read_text()
    assert "64 x 64" in card and "license: mit" in card
    assert "Microsoft" in (BUILTIN / "LICENSE.fluentui-emoji").read_text()


def test_it_is_small_in_a_wheel():
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in BUILTIN.rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(BUILTIN))
    assert wheel.tell() < MEGABYTES * 10**6


@pytest.mark.slow
def test_pytorch_diffusers_draws_the_same_pictures():
    twin = diffusers.StableDiffusionPipeline.from_pretrained(BUILTIN)
    twin.set_progress_bar_config(disable=True)
    pipeline, params = FlaxStableDiffusionPipeline.from_pretrained("builtin")
    start = np.random.default_rng(0).standard_normal((1, 4, 16, 16)).astype(np.float32)
    options = {"num_inference_steps": 25, "guidance_scale": 3.0}
    ours = pipeline.generate(PROMPT, params, latents=start, progress=False, **options)[0]
    with torch.no_grad():
        theirs = twin(PROMPT, latents=torch.from_numpy(start), output_type="np", **options).images[0]
    error = np.mean(np.square(np.asarray(ours) / 255 - theirs))
    assert -10 * np.log10(error) > 50


@pytest.mark.slow
def test_a_fox_in_the_snow_is_orange_in_the_middle_and_white_at_the_edge():
    pipeline, params = FlaxStableDiffusionPipeline.from_pretrained("builtin")
    drawn = pipeline.generate(
        [PROMPT] * 8, params, seeds=range(8), num_inference_steps=25, guidance_scale=3.0, sampler="ddim", progress=False
    )
    pixels = np.mean([np.asarray(picture, float) for picture in drawn], axis=0)
    middle, top = pixels[24:48, 20:44].mean((0, 1)), pixels[:8].mean((0, 1))
    assert middle[0] > middle[2] + 40
    assert top.min() > 150
