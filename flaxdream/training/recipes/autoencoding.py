"""The task of training a VAE: reconstruction and KL divergence (Rombach et al. 2022, section 3.1)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxdream.arrays import Array, Float, Params
from flaxdream.compiler_options import ToldJit
from flaxdream.config.vae import VaeConfig
from flaxdream.data.images import Crop
from flaxdream.data.loader import Loader
from flaxdream.data.rows import RowSource
from flaxdream.diffusion.loss import row_noise
from flaxdream.models.network import Network
from flaxdream.sampling.pictures import Picture, numpy_to_pil
from flaxdream.sampling.placement import local_mesh
from flaxdream.sampling.prompts import Request
from flaxdream.training.mesh import local_rows, to_devices
from flaxdream.training.recipes.batches import live_batches
from flaxdream.training.recipes.cached import on_devices
from flaxdream.training.recipes.checks import loader_settings
from flaxdream.training.recipes.latent_diffusion import draws, encode_pictures
from flaxdream.training.step import Batch, Groups, LossOfRows
from flaxdream.weights.model_dir import read_model_dir, write_model_dir

CROP, LATENT = range(2)  # what a row's key is folded with
ENCODER = ("encoder", "quant_conv")
THUMBS = 12


class Autoencoding:
    """A Task: the VAE of a model folder, on the pictures of a source."""

    def __init__(
        self,
        config: VaeConfig,
        vae: Network,
        params: Params,
        model_folder: Path,
        source: RowSource,
        held_out: RowSource | None,
        mesh: Mesh,
        steps: int,
    ):
        """`params` are the VAE's, on the mesh: what trains in the config's params_dtype, the rest float32."""
        self.config, self.vae, self.model_folder = config, vae, model_folder
        self.source, self.mesh, self.steps = source, mesh, steps
        self._held_out = held_out
        self.trained, self._still = trained_and_still(config, params)
        shown = held_out if held_out is not None else source
        self._shown = self._loader(shown)
        self.requests = [Request(f"{shown.path(i).name} and what the VAE makes of it", seed=0) for i in self._examples]
        self._psnr: float | None = None
        self._encode = partial(encode_pictures, vae)
        self._decode = ToldJit(lambda params, z: vae(params, z, method="decode"))

    @property
    def _examples(self) -> range:
        return range(min(self.config.num_validation_images, len(self._shown.source)))

    def examples(self) -> dict[str, list[np.ndarray]]:
        """The first pictures."""
        loader = self._loader(self.source)
        return {"instance": [loader.picture(index).pixels for index in range(min(THUMBS, len(self.source)))]}

    def input_shapes(self, start: int) -> None:
        """Nothing is prepared that a compile could go beside."""

    def inputs(self, start: int) -> tuple[Params, Iterator[dict[str, jax.Array]]]:
        """Live pictures; crops are cut in the step."""
        loader = self._loader(self.source)
        live = live_batches(loader, start, self.steps)
        return {"still": self._still}, (to_devices(batch, self.mesh) for batch in live)

    def loss_of_rows(self) -> LossOfRows:
        return make_loss_of_rows(self.config, self.vae)

    def groups(self) -> Groups | None:
        return None

    def held_out_loss(self, params: Params) -> float | None:
        """Mean squared error of 8-bit reconstructions from the most likely latents, of colours in 0..1."""
        if self._held_out is None:
            return None
        errors = []
        for wanted, made in self._reconstructed(params, range(len(self._held_out))):
            errors.append(np.mean(np.square((made.astype(np.float64) - wanted) / 255), axis=(1, 2, 3)))
        error_b = np.concatenate(errors)
        self._psnr = float(np.mean(-10 * np.log10(np.maximum(error_b, 1e-10))))
        return float(np.mean(error_b))

    def pictures(self, params: Params) -> list[Picture]:
        """Each example beside its reconstruction."""
        pairs = [
            np.concatenate(pair, axis=1)
            for batch in self._reconstructed(params, self._examples)
            for pair in zip(*batch, strict=True)
        ]
        return [numpy_to_pil(pair.astype(np.float32) / 255)[0] for pair in pairs]

    def export(self, params: Params) -> None:
        """The model's folder with the trained VAE in it."""
        whole = {**jax.device_get(self._still), **params["vae"]}
        config = dict(read_model_dir(self.model_folder, needed=("vae",)).configs["vae"])
        self._channels = self._latent_statistics(whole)
        if self.config.set_scaling_factor:
            config["scaling_factor"] = round(1 / self._channels["std"], 5)
        write_model_dir(
            self.config.output_dir,
            params={"vae": whole},
            configs={"vae": config},
            source=self.model_folder,
            variant=self.config.variant,
        )

    def summary(self) -> dict[str, Any]:
        """PSNR in dB, mean over held-out pictures; means and standard deviations of the latents, unscaled."""
        found = {"latents": self._channels}
        return found if self._psnr is None else found | {"held_out_psnr": round(self._psnr, 3)}

    def _latent_statistics(self, params: Params) -> dict[str, Any]:
        """Of up to 1024 training pictures: the channels' means and standard deviations, and that of all together."""
        found = []
        for crops, pixels in self._pictures(self._loader(self.source), range(min(len(self.source), 1024))):
            mean, logvar = (np.asarray(each)[: len(crops)] for each in self._encode(params, pixels))
            found.append(np.stack([mean, np.exp(logvar)]).reshape(2, -1, mean.shape[-1]))
        mean_nc, variance_nc = np.concatenate(found, axis=1).astype(np.float64)
        within = variance_nc.mean(axis=0)  # what the draw from the latents adds
        return {
            "channel_means": [round(float(x), 4) for x in mean_nc.mean(axis=0)],
            "channel_stds": [round(float(x), 4) for x in np.sqrt(mean_nc.var(axis=0) + within)],
            "std": float(np.sqrt(mean_nc.var() + within.mean())),
        }

    def _reconstructed(self, params: Params, indices: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pictures and their reconstructions in batches, 8-bit; `params` may lack what does not train."""
        whole = {**self._still, **params["vae"]}
        for crops, pixels in self._pictures(self._shown, indices):
            made = np.asarray(self._decode(whole, self._encode(whole, pixels)[0]))
            yield np.stack([crop.pixels for crop in crops]), _to_8_bits(made[: len(crops)])

    @property
    def _rows(self) -> int:
        """Rows of a batch outside the step."""
        return local_mesh().size * max(1, min(32, self.config.train_batch_size))

    def _pictures(self, loader: Loader, indices: range) -> Iterator[tuple[Sequence[Crop], jax.Array]]:
        """Batches of whole pictures, and the same on this host's devices, filled up; the next are decoded meanwhile."""
        parts = (indices[start : start + self._rows] for start in range(0, len(indices), self._rows))
        with contextlib.closing(loader.pictures(parts)) as pictures:
            for crops in pictures:
                yield crops, on_devices(crops, self._rows, local_mesh())

    def _loader(self, source: RowSource) -> Loader:
        return Loader(source, loader_settings(self.config), local_rows=local_rows(self.mesh, source.batch_rows))


def trained_and_still(config: VaeConfig, params: Params) -> tuple[Params, Params]:
    """A VAE's parameters: what trains, as a run names it, and the parts that do not."""
    still = () if config.train_encoder else ENCODER
    trained = {name: tree for name, tree in params.items() if name not in still}
    return {"vae": trained}, {name: tree for name, tree in params.items() if name in still}


def make_loss_of_rows(config: VaeConfig, vae: Network) -> LossOfRows:
    """Reconstruction and KL divergence of each row, a crop of it where the settings say so."""

    def loss_of_rows(trained: Params, frozen: Params, rows: Batch, key_b: Array) -> Float[Array, " b"]:
        params = {**frozen["still"], **trained["vae"]}
        pixels = rows["pixels"]
        if config.crop_size is not None:
            pixels = crops(pixels, draws(key_b, CROP), config.crop_size)
        mean, logvar = vae(params, pixels, method="moments")
        z = mean + jnp.exp(0.5 * logvar) * row_noise(draws(key_b, LATENT), mean.shape[1:])
        out = vae(params, z, method="decode").astype(jnp.float32)
        loss_b = reconstruction(
            out, pixels, mse=config.mse_weight, l1=config.l1_weight, gradient=config.gradient_weight
        )
        return loss_b + config.kl_weight * kl_divergence(mean, logvar)

    return loss_of_rows


def crops(pixels_bHWc: Array, key_b: Array, size: int) -> Float[Array, "b H W c"]:
    """A square of each row's picture, drawn by the row's key."""
    height, width, channels = pixels_bHWc.shape[1:]

    def one(pixels: Array, key: Array) -> Array:
        top, left = jax.random.randint(key, (2,), 0, jnp.array([height - size + 1, width - size + 1]))
        return jax.lax.dynamic_slice(pixels, (top, left, 0), (size, size, channels))

    return jax.vmap(one)(pixels_bHWc, key_b)


def reconstruction(
    out_bHWc: Array, pixels_bHWc: Array, *, mse: float, l1: float, gradient: float
) -> Float[Array, " b"]:
    """Weighted sum of squared error, absolute error and squared error of neighbours' differences, means over pixels."""
    error = out_bHWc - pixels_bHWc
    axes = (1, 2, 3)
    loss_b = mse * jnp.mean(jnp.square(error), axes) + l1 * jnp.mean(jnp.abs(error), axes)
    if gradient:
        across, down = jnp.diff(error, axis=2), jnp.diff(error, axis=1)
        loss_b += gradient * (jnp.mean(jnp.square(across), axes) + jnp.mean(jnp.square(down), axes))
    return loss_b


def kl_divergence(mean_bhwc: Array, logvar_bhwc: Array) -> Float[Array, " b"]:
    """From the normal distribution, in nats: summed over a cell's channels, mean over cells (diffusers sums cells)."""
    divergence = 0.5 * (jnp.square(mean_bhwc) + jnp.exp(logvar_bhwc) - 1 - logvar_bhwc)
    return jnp.mean(jnp.sum(divergence, axis=-1), axis=(1, 2))


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(pixels * 0.5 + 0.5, 0, 1) * 255).astype(np.uint8)
