"""Training a VAE: the loss and its gradient as PyTorch has them, and the command as a whole."""

from __future__ import annotations

import json

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

from flaxdream.cli import main
from flaxdream.training.recipes.autoencoding import crops, kl_divergence, reconstruction
from flaxdream.weights.random_model import write_random_model
from flaxdream.weights.safetensors import open_safetensors


def pictures(seed, shape=(2, 12, 16, 3)):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.7, 0.3, 0.5)], ids=["squared error", "all terms"])
def test_reconstruction_loss_and_gradient_equal_torchs(weights):
    mse, l1, gradient = weights
    out, wanted = pictures(0), pictures(1)
    loss = lambda out: jnp.sum(reconstruction(out, wanted, mse=mse, l1=l1, gradient=gradient))  # noqa: E731
    value, slope = jax.value_and_grad(loss)(jnp.asarray(out))
    theirs = torch.tensor(out, requires_grad=True)
    error = theirs - torch.tensor(wanted)
    rows = mse * error.square().mean((1, 2, 3)) + l1 * error.abs().mean((1, 2, 3))
    rows = rows + gradient * (error.diff(dim=1).square().mean((1, 2, 3)) + error.diff(dim=2).square().mean((1, 2, 3)))
    rows.sum().backward()
    np.testing.assert_allclose(float(value), rows.sum().item(), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(slope), theirs.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_kl_divergence_is_diffusers_over_the_number_of_cells():
    mean, logvar = pictures(2, (2, 4, 6, 4)), pictures(3, (2, 4, 6, 4))
    moments = torch.from_numpy(np.moveaxis(np.concatenate([mean, logvar], axis=-1), -1, 1).copy())
    expected = DiagonalGaussianDistribution(moments).kl().numpy() / (4 * 6)
    np.testing.assert_allclose(np.asarray(kl_divergence(mean, logvar)), expected, rtol=1e-5)


def test_a_crop_is_a_part_of_its_rows_picture_and_every_place_comes_up():
    whole = np.arange(64 * 6 * 5, dtype=np.float32).reshape(64, 6, 5, 1)
    cut = np.asarray(crops(whole, jax.random.split(jax.random.key(0), 64), 4))
    places = set()
    for row in range(64):
        top, left = divmod(int(cut[row, 0, 0, 0]) - row * 30, 5)
        np.testing.assert_array_equal(cut[row], whole[row, top : top + 4, left : left + 4])
        places.add((top, left))
    assert places == {(top, left) for top in range(3) for left in range(2)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    write_random_model(folder / "model", "tiny")
    (folder / "pictures").mkdir()
    for number in range(4):
        pixels = np.kron(pictures(number, (4, 4, 3)) * 127 + 128, np.ones((16, 16, 1)))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"pictures/{number}.png")
    return folder


def train(data, name, code=0, **changes):
    settings = {
        "pretrained_model_name_or_path": data / "model", "train_data_dir": data / "pictures",
        "missing_caption": "empty", "output_dir": data / name, "resolution": 64, "train_batch_size": 1,
        "max_train_steps": 6, "learning_rate": 2e-3, "lr_warmup_steps": 0, "report_to": "none",
        "compilation_cache_dir": "", "checkpointing_steps": 0, "num_validation_images": 2,
    } | changes  # fmt: skip
    argv = ["vae"]
    for key, value in settings.items():
        argv += [f"--{key}"] if value is True else [f"--{key}={value}"]
    assert main(argv) == code
    return data / name


def tensors(folder):
    return {k: t.view() for k, t in open_safetensors(folder / "vae/diffusion_pytorch_model.safetensors").items()}


@pytest.mark.slow
def test_a_vae_learns_to_reconstruct_and_diffusers_loads_it(data):
    held_out = {"held_out_data_dir": data / "pictures", "held_out_loss_steps": 6}
    folder = train(data, "whole", crop_size=32, set_scaling_factor=True, initial_logvar=-6, **held_out)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["held_out_loss"]["last"] < 0.8 * summary["held_out_loss"]["first"]
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted((data / "pictures").glob("*.png"))])
    with torch.no_grad():
        z = vae.encode(torch.from_numpy(np.moveaxis(pixels / 127.5 - 1, -1, 1)).float()).latent_dist
        out = np.moveaxis(vae.decode(z.mean).sample.numpy(), 1, -1)
        spread = z.sample().std() * vae.config.scaling_factor
    error = np.square((np.rint(np.clip(out * 0.5 + 0.5, 0, 1) * 255) - pixels) / 255)
    np.testing.assert_allclose(error.mean(), summary["held_out_loss"]["last"], rtol=1e-3)
    assert abs(float(spread) - 1) < 0.05
    assert sorted(path.name for path in (folder / "validation").iterdir()) == ["step-000000", "step-000006"]


@pytest.mark.slow
def test_without_its_encoder_a_vae_keeps_its_latents(data):
    before, after = tensors(data / "model"), tensors(train(data, "decoder", no_train_encoder=True))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed and all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


@pytest.mark.slow
def test_a_bfloat16_decoder_stands_beside_the_float32_encoder_that_did_not_train(data):
    before, folder = tensors(data / "model"), train(data, "half", no_train_encoder=True, params_dtype="bfloat16")
    for name, tensor in tensors(folder).items():
        trained = name.startswith(("decoder.", "post_quant_conv."))
        assert tensor.dtype == (jnp.dtype(jnp.bfloat16) if trained else np.float32)
        assert trained or np.array_equal(tensor, before[name])
    assert diffusers.AutoencoderKL.from_pretrained(folder / "vae").dtype == torch.float32
    assert main(["export", f"--run={folder}", f"--output_dir={data / 'exported'}"]) == 0
    file = "vae/diffusion_pytorch_model.safetensors"
    assert (data / "exported" / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"mse_weight": 0}, "reconstructed"),
        ({"crop_size": 128}, "crop_size 128"),
        ({"held_out_loss_steps": 3}, "held_out_data_dir"),
        ({"train_data_dir": "nowhere"}, "nowhere"),
    ],
    ids=["no loss", "crop", "held out", "no data"],
)
def test_wrong_settings_are_told(data, wrong, word, capsys):
    train(data, "wrong", code=2, **wrong)
    assert word in capsys.readouterr().err
    assert not (data / "wrong").exists()
