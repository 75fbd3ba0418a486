"""The task of every recipe that trains a UNet, and maybe a text encoder, by denoising."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxdream.arrays import Params
from flaxdream.config.training import TrainConfig
from flaxdream.data.held_out import HeldOutRows
from flaxdream.data.loader import Loader
from flaxdream.data.rows import RowSource
from flaxdream.data.shards import caption_shards, picture_shards
from flaxdream.diffusion.timesteps import TimestepSampling
from flaxdream.sampling.pictures import Picture
from flaxdream.training.mesh import local_rows, replicated, to_devices
from flaxdream.training.recipes.batches import cached_batches, live_batches
from flaxdream.training.recipes.cached import (
    Moments,
    caption_encoder,
    in_memory,
    maker,
    on_disk,
    picture_encoder,
)
from flaxdream.training.recipes.checks import loader_settings
from flaxdream.training.recipes.finetuned_model import FinetunedModel, give_up, local_copy, on_host
from flaxdream.training.recipes.held_out_loss import HeldOutLoss
from flaxdream.training.recipes.latent_diffusion import Objective, make_loss_of_rows
from flaxdream.training.recipes.previews import validation_requests
from flaxdream.training.recipes.step_inputs import Assumed, StepInputs, states_fit, step_inputs, too_many_latents
from flaxdream.training.step import Groups, LossOfRows
from flaxdream.weights.model_dir import write_model_dir
from flaxdream.weights.tokenizer import tokenize

THUMBS = 12


class Denoising:
    """A Task: the denoising loss on the rows of a source, from a model folder to one of the same kind."""

    def __init__(
        self,
        config: TrainConfig,
        model: FinetunedModel,
        source: RowSource,
        mesh: Mesh,
        steps: int,
        *,
        held_out: HeldOutRows | None = None,
    ):
        self.config, self.model, self.source, self.mesh, self.steps = config, model, source, mesh, steps
        self.model_folder, self.trained = model.folder, model.trained
        self._frozen = dict(model.frozen)
        self.requests = validation_requests(config)
        self._resolution = (config.resolution, config.resolution)
        self._held_out = None
        if held_out is not None:
            settings = loader_settings(config)
            self._held_out = HeldOutLoss(model, held_out, settings, vae_slicing=config.vae_slicing)

    def examples(self) -> dict[str, list[np.ndarray]]:
        """Pictures of the first steps: instance pictures, and class pictures where there are some; none of a stream."""
        if not self.source.random_access:
            return {}
        loader = self._loader()
        rows = {row.index: row.is_class for step in range(4) for row in self.source.rows(step)}
        kinds = {"instance": False, "class": True}
        chosen = {kind: sorted(i for i, flag in rows.items() if flag == is_class) for kind, is_class in kinds.items()}
        return {
            kind: [loader.picture(index).pixels for index in found[:THUMBS]] for kind, found in chosen.items() if found
        }

    def input_shapes(self, start: int) -> StepInputs | None:
        """None of a stream: its rows come only once."""
        source = self.source
        if not source.random_access:
            return None
        class_rows = bool(getattr(source, "has_class_rows", False))
        known = Assumed(len(source.captions), not source.captions_are_fixed, class_rows, not self._lives)
        resolution = source.resolution(source.rows(start)[0].index)
        return step_inputs(self.config, self.model, self.mesh, known, resolution)

    def inputs(self, start: int) -> tuple[Params, Iterator[dict[str, jax.Array]]]:
        """Live pictures, or latents that are made here once; the same for text.

        What the step does not get leaves the devices.
        """
        frozen = dict(self._frozen)
        batches = self._batches(start, frozen)
        for name in self._frozen.keys() - frozen.keys():
            on_devices, self._frozen[name] = self._frozen[name], on_host(self._frozen[name], self.mesh)
            give_up(on_devices)
        return frozen, (to_devices(batch, self.mesh) for batch in batches)

    def _batches(self, start: int, frozen: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
        """This host's rows; takes what the step needs no more out of `frozen`."""
        config, networks, loader = self.config, self.model.networks, self._loader()
        text = self._text(frozen)
        if self._lives:
            return live_batches(loader, start, self.steps, **text)
        vae_params = local_copy(frozen.pop("vae"), self.mesh)
        encode = picture_encoder(networks.vae, vae_params, loader, config.encoded_at_once)
        moments: Moments
        if config.latents_cache_dir is None:
            moments = in_memory(self.source, encode, "latents")
        else:
            folder = self.model.replaced.get("vae", self.model.folder / "vae")
            made_by = maker(folder, config.mixed_precision, self._resolution, config.image_interpolation_mode)
            shards = picture_shards(config.latents_cache_dir, self.source, made_by, config.dataloader_num_workers)
            moments = on_disk(shards, encode, "latents")
        return cached_batches(self.source, loader.local_rows, moments, start, self.steps, **text)

    def _text(self, frozen: dict[str, Any]) -> dict[str, Any]:
        """Adds what the step needs for text to `frozen`; returns what rows need for theirs, as of `cached_batches`.

        Captions that vary are tokenized for each row. Fixed ones are tokenized once and, if their encoder does not
        train, encoded once, as far as there is room for their states.
        """
        config, tokenizer, encoder = self.config, self.model.pipeline.tokenizer, self.model.networks.text_encoder
        if not self.source.captions_are_fixed:
            return {"tokenize": lambda captions: tokenize(tokenizer, captions, warn=False)}
        captions, whole = self.source.captions, replicated(self.mesh)
        ids = tokenize(tokenizer, captions, warn=False)  # the recipe has named the pictures of those that are cut
        fits = states_fit(ids.size, encoder)
        if config.train_text_encoder or (not fits and config.latents_cache_dir is None):
            frozen["ids"] = jax.device_put(ids, whole)
            return {}
        encode = caption_encoder(encoder, local_copy(frozen.pop("text_encoder"), self.mesh), ids)
        if config.latents_cache_dir is None:
            (states,) = encode([range(len(captions))], lambda count: None)
        else:
            made_by = maker(self.model.folder / "text_encoder", config.mixed_precision, ids.shape[1])
            shards = on_disk(caption_shards(config.latents_cache_dir, captions, made_by), encode, "captions")
            if not fits:
                return {"context": shards}
            states = np.stack([shards[index] for index in range(len(captions))])
        frozen["context"] = jax.device_put(states, whole)
        return {}

    @cached_property
    def _lives(self) -> bool:
        """Whether latents are made in each step: asked for, or they look different each time, or are too many."""
        config, wanted = self.config, self.config.keeps_latents
        if wanted or self._loader().augments or config.cache_latents == "no":
            return not wanted
        return too_many_latents(len(self.source), self._resolution, self.model.networks.vae.config)

    def loss_of_rows(self) -> LossOfRows:
        networks, objective = self.model.networks, objective_of(self.config, self.model.scheduler)
        return make_loss_of_rows(
            networks.unet,
            networks.vae,
            networks.text_encoder,
            self.model.scheduler,
            objective,
            vae_slicing=self.config.vae_slicing,
        )

    def groups(self) -> Groups | None:
        """Instance and class rows apart, where there are both."""
        if not getattr(self.source, "has_class_rows", False):
            return None

        def groups(rows: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            is_class = rows["is_class"].astype(jnp.float32)
            return {"instance": 1 - is_class, "prior": is_class}

        return groups

    def held_out_loss(self, params: Params) -> float | None:
        return None if self._held_out is None else self._held_out(params, self._frozen)

    def pictures(self, params: Params) -> list[Picture]:
        """One for each request, by the pipeline."""
        params = {**self._frozen, **params}
        return self.model.pipeline.draw(params, self.requests, sampler=self.config.validation_scheduler, progress=False)

    def export(self, params: Params) -> None:
        """A diffusers folder; what training did not touch is carried over."""
        kept = {name: tree for name, tree in params.items() if not self._skipped(name)}
        changed = {"scheduler": self.model.scheduler} if self.config.prediction_type is not None else {}
        write_model_dir(
            self.config.output_dir,
            params=kept,
            configs=changed,
            source=self.model.folder,
            replaced=self.model.replaced,
            variant=self.config.variant,
        )

    def summary(self) -> dict[str, Any]:
        prompts = [caption for index, caption in enumerate(self.source.captions) if index in self._instance_captions()]
        return {"instance_prompts": prompts[:THUMBS]}

    def _skipped(self, component: str) -> bool:
        return component == "text_encoder" and self.config.skip_save_text_encoder

    def _instance_captions(self) -> set[int]:
        return {row.caption_index for step in range(4) for row in self.source.rows(step) if not row.is_class}

    def _loader(self) -> Loader:
        rows = local_rows(self.mesh, self.source.batch_rows)
        return Loader(self.source, loader_settings(self.config), local_rows=rows)


def objective_of(config: TrainConfig, scheduler: Mapping[str, Any]) -> Objective:
    """The loss that the settings ask for, of a model with this scheduler."""
    return Objective(
        prediction_type=scheduler.get("prediction_type", "epsilon"),
        snr_gamma=config.snr_gamma,
        debiased_estimation_loss=config.debiased_estimation_loss,
        noise_offset=config.noise_offset,
        input_perturbation=config.input_perturbation,
        loss_type=config.loss_type,
        huber_c=config.huber_c,
        huber_schedule=config.huber_schedule,
        multires_noise_iterations=config.multires_noise_iterations,
        multires_noise_discount=config.multires_noise_discount,
        dream_detail_preservation=config.dream_detail_preservation if config.dream_training else None,
        timesteps=TimestepSampling(
            sampling=config.timestep_sampling,
            logit_mean=config.logit_mean,
            logit_std=config.logit_std,
            min_timestep=config.min_timestep,
            max_timestep=config.max_timestep,
            bias_strategy=config.timestep_bias_strategy,
            bias_multiplier=config.timestep_bias_multiplier,
            bias_begin=config.timestep_bias_begin,
            bias_end=config.timestep_bias_end,
            bias_portion=config.timestep_bias_portion,
        ),
    )
