"""The denoising loss on held-out pictures, at the same noise and timesteps each time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxdream.arrays import Array, Params
from flaxdream.compiler_options import ToldJit
from flaxdream.data.held_out import HeldOutRows
from flaxdream.data.loader import Loader, LoaderSettings
from flaxdream.diffusion.loss import weighted_mean
from flaxdream.sampling.placement import local_mesh, on_every_device, split_rows
from flaxdream.training.recipes.cached import Moments, in_memory, picture_encoder
from flaxdream.training.recipes.finetuned_model import FinetunedModel
from flaxdream.training.recipes.latent_diffusion import Objective, make_loss_of_rows
from flaxdream.weights.tokenizer import tokenize

SEED = 0  # of noise and timesteps, whatever the run's seed: losses of different runs can be compared


class HeldOutLoss:
    """Mean squared error of the model's prediction, unweighted, over all held-out pictures once.

    A picture's noise, timestep and latent draw follow from its place in the set alone. Each host measures all rows
    on its own devices, `rows.batch_size` of them at once.
    """

    def __init__(
        self,
        model: FinetunedModel,
        rows: HeldOutRows,
        settings: LoaderSettings,
        *,
        vae_slicing: bool = False,
    ):
        self.model, self.source, self.mesh = model, rows, local_mesh()
        self.rows = -(-rows.batch_size // self.mesh.size) * self.mesh.size
        self._encoded_at_once = 1 if vae_slicing else self.rows // self.mesh.size
        self._loader = Loader(rows, settings)
        self._frozen: Params = {}
        self._moments: Moments = {}
        objective = Objective(prediction_type=model.scheduler.get("prediction_type", "epsilon"))
        networks = model.networks
        self._loss_of_rows = make_loss_of_rows(
            networks.unet, networks.vae, networks.text_encoder, model.scheduler, objective
        )
        self._sum = ToldJit(self._summed)

    def __call__(self, params: Params, frozen: Params) -> float:
        """`params` are what trains, whole on every device of this host; `frozen` the rest, here or there."""
        if not self._moments:
            self._prepare(frozen)
        total = 0.0
        for start in range(0, len(self.source), self.rows):
            total += float(self._sum(params, self._frozen, self._batch(start)))
        return total / len(self.source)

    def _prepare(self, frozen: Params) -> None:
        """Latents once, and what else does not train."""
        model, place = self.model, on_every_device(self.mesh)
        here = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf), place), dict(frozen))
        encode = picture_encoder(model.networks.vae, here.pop("vae"), self._loader, self._encoded_at_once)
        self._moments = in_memory(self.source, encode, "held-out latents")
        ids = tokenize(model.pipeline.tokenizer, self.source.captions)
        self._frozen = {**here, "ids": jax.device_put(ids, place)}

    def _batch(self, start: int) -> dict[str, Array]:
        """Rows from `start` on; the last ones again, without weight, where there are too few."""
        number = np.arange(start, start + self.rows)
        index = np.minimum(number, len(self.source) - 1)
        moments = np.stack([self._moments[int(i)] for i in index])
        places = {caption: place for place, caption in enumerate(self.source.captions)}
        captions = [places[self.source.pictures.captions(int(i))[0]] for i in index]
        batch = {
            "mean": moments[:, 0],
            "logvar": moments[:, 1],
            "weight": (number < len(self.source)).astype(np.float32),
            "row": index.astype(np.int32),
            "caption_index": np.array(captions, np.int32),
        }
        return jax.device_put(batch, split_rows(self.mesh))

    def _summed(self, params: Params, frozen: Params, rows: dict[str, Any]) -> Array:
        key_b = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(SEED), rows["row"])
        loss_b = self._loss_of_rows(params, frozen, rows, key_b)
        return weighted_mean(loss_b, rows["weight"]) * jnp.float32(self.rows)
