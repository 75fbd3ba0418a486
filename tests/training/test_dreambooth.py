"""DreamBooth as a whole: the command, its result, and what must not change its numbers."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw

from flaxdream.cli import main
from flaxdream.config import DreamBoothConfig
from flaxdream.training.recipes import dreambooth, run
from flaxdream.weights.random_model import write_random_model
from flaxdream.weights.safetensors import open_safetensors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A model, five pictures of an orange ball and four class pictures."""
    folder = tmp_path_factory.mktemp("dreambooth")
    write_random_model(folder / "model", "tiny")
    for kind, count, colour in (("instance", 5, "orange"), ("class", 4, "grey")):
        (folder / kind).mkdir()
        for number in range(count):
            picture = Image.new("RGB", (96, 80), (200, 220, 30 * number))
            ImageDraw.Draw(picture).ellipse((10 + 6 * number, 10, 60 + 6 * number, 60), fill=colour)
            picture.save(folder / kind / f"{number}.png")
    return folder


def flags(data, out, **changes):
    """The command line of a short run whose batch is the same on any number of devices that divides 8."""
    settings = {
        "pretrained_model_name_or_path": data / "model",
        "instance_data_dir": data / "instance",
        "instance_prompt": "a photo of sks dog",
        "class_data_dir": data / "class",
        "class_prompt": "a photo of a dog",
        "with_prior_preservation": True,
        "prior_loss_weight": 0.5,
        "num_class_images": 4,
        "output_dir": out,
        "resolution": 64,
        "train_batch_size": 1,
        "max_train_steps": 4,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 0,
        "report_to": "none",
        "compilation_cache_dir": "",
        "center_crop": True,
    } | changes
    argv = ["dreambooth"]
    for name, value in settings.items():
        argv += [f"--{name}"] if value is True else [f"--{name}={value}"] if value is not None else []
    return argv


def weights(folder, component="unet"):
    name = "model" if component == "text_encoder" else "diffusion_pytorch_model"
    return {key: tensor.view() for key, tensor in open_safetensors(folder / component / f"{name}.safetensors").items()}


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def unbroken(data):
    assert main(flags(data, data / "unbroken", train_text_encoder=True, checkpointing_steps=2, use_ema=True)) == 0
    return data / "unbroken"


def test_the_result_loads_in_torch_and_only_what_trained_has_changed(data, unbroken):
    import diffusers

    diffusers.StableDiffusionPipeline.from_pretrained(unbroken)
    assert_equal(weights(unbroken, "vae"), weights(data / "model", "vae"))
    for component in ("unet", "text_encoder"):
        before, after = weights(data / "model", component), weights(unbroken, component)
        assert any(not np.array_equal(before[name], after[name]) for name in before)
    assert (unbroken / "report.html").is_file() and (unbroken / "summary.json").is_file()
    assert len(losses(unbroken)) == 4


def test_a_resumed_run_ends_bit_for_bit_as_the_unbroken_one(data, unbroken):
    out = data / "resumed"
    settings = {"train_text_encoder": True, "checkpointing_steps": 2, "use_ema": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.loop, "run", until(2, run.loop.run))
        assert main(flags(data, out, **settings)) == 0
    assert sorted(p.name for p in out.glob("checkpoint-*")) == ["checkpoint-2"]
    assert main(flags(data, out, resume_from_checkpoint="latest", **settings)) == 0
    for component in ("unet", "text_encoder"):
        assert_equal(weights(out, component), weights(unbroken, component))
    assert losses(out) == losses(unbroken)


def until(step, run):
    """The loop, cut off after some steps, as a kill would."""
    return lambda *args, stop, **rest: run(*args, stop=step, **rest)


def trained(data, out, devices, **changes):
    """Final UNet and losses on the first `devices` devices, with the same global batch of 8 instance rows."""
    from flaxdream.cli.flags import parse_training
    from flaxdream.config import dreambooth_problems

    argv = flags(data, out, train_batch_size=8 // devices // changes.pop("parts", 1), **changes)
    config: DreamBoothConfig = parse_training(DreamBoothConfig, argv[1:], "dreambooth", dreambooth_problems).config
    assert dreambooth.train_dreambooth(config) == 0
    return weights(out), losses(out)


@pytest.mark.parametrize(
    "changes",
    [
        {"fsdp": 4},
        {"gradient_accumulation_steps": 1, "cache_latents": "no"},
        {"gradient_checkpointing": True},
    ],
    ids=["fsdp", "live latents", "gradient checkpointing"],
)
def test_how_it_is_computed_does_not_change_the_numbers(data, changes):
    plain, plain_losses = trained(data, data / "plain", jax.device_count(), max_train_steps=2)
    other, other_losses = trained(data, data / "other", jax.device_count(), max_train_steps=2, **changes)
    np.testing.assert_allclose(other_losses, plain_losses, rtol=1e-6)
    distance = sum(float(np.abs(plain[k] - other[k]).sum()) for k in plain)
    moved = sum(float(np.abs(plain[k] - weights(data / "model")[k]).sum()) for k in plain)
    assert distance < 1e-3 * moved


def test_every_problem_is_named_before_anything_starts(data, tmp_path, capsys):
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    (tmp_path / "pics/notes.doc").write_text("x")
    argv = flags(data, tmp_path / "out", instance_data_dir=tmp_path / "pics", with_prior_preservation=None)
    assert main(argv) == 2
    text = capsys.readouterr().err
    assert "broken.png" in text and "--skip_broken_images" in text
    assert not (tmp_path / "out").exists()
