"""FlaxStableDiffusionPipeline: the interface that diffusers removed, and a plainer one beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from flaxdream.arrays import Array, Float, Int, Params
from flaxdream.diffusion.samplers import make_sampler
from flaxdream.models import build
from flaxdream.sampling import generate as core
from flaxdream.sampling import pictures, placement
from flaxdream.sampling.pictures import Picture
from flaxdream.sampling.prompts import Request
from flaxdream.weights import checkpoint_model, hub, model_dir
from flaxdream.weights.tokenizer import read_tokenizer, tokenize

COMPONENTS = ("text_encoder", "unet", "vae")


@dataclass(frozen=True)
class FlaxStableDiffusionPipelineOutput:
    """`images` in 0..1; nothing checks them for safety, so `nsfw_content_detected` is always None."""

    images: Any
    nsfw_content_detected: None = None


class FlaxStableDiffusionPipeline:
    """Text to picture with Stable Diffusion 1.x and 2.x.

    The pipeline holds structure, tokenizer and scheduler settings; parameters are passed to each call.
    """

    def __init__(
        self,
        networks: core.Networks,
        tokenizer: Any,
        scheduler: Mapping[str, Any],
        source: Path,
        variant: str | None = None,
        replaced: Mapping[str, Path] | None = None,
    ):
        """`source` is the model's folder, `replaced` those of components that are not its own."""
        self.networks, self.tokenizer, self.source, self.variant = networks, tokenizer, source, variant
        self.replaced = dict(replaced or {})
        self.scheduler = _as_diffusers_samples(scheduler)
        self.vae_scale_factor = networks.downscale
        self.mesh = placement.local_mesh()
        # What the diffusers class had and notebooks read.
        self.text_encoder, self.unet, self.vae = networks.text_encoder, networks.unet, networks.vae
        self.safety_checker = self.feature_extractor = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = None,
        revision: str | None = None,
        variant: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        scheduler: str | Mapping[str, Any] | None = None,
        sharding: jax.sharding.Sharding | None = None,
        attention: str = "auto",
        from_pt: bool = True,
        safety_checker: None = None,
        feature_extractor: None = None,
    ) -> tuple[FlaxStableDiffusionPipeline, Params]:
        """The pipeline and its parameters, from a diffusers folder, a Hub id or a checkpoint of a training.

        A local folder comes first. A checkpoint (`out/checkpoint-500`) is what the training would have written then.

        `dtype` is that of the computation, `param_dtype` (the same if not given) that of the parameters;
        `sharding` says where they go (the first device if not given). `scheduler` is a sampler's name or the
        mapping of a scheduler_config.json, instead of the model's own. `from_pt`, `safety_checker` and
        `feature_extractor` are there for old notebooks: PyTorch files are read as they are, and no checker runs.
        """
        if safety_checker is not None or feature_extractor is not None:
            raise ValueError("safety_checker and feature_extractor cannot be run here; leave them out or pass None.")
        source: dict[str, Any] = {
            "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only,
            "components": model_dir.NEEDED,
        }  # fmt: skip
        model, variant = _opened(pretrained_model_name_or_path, revision, variant, source)
        networks = _networks(model.configs, attention, dtype=dtype, param_dtype=param_dtype or dtype)
        own = model.configs["scheduler"]
        if isinstance(scheduler, str):
            own = scheduler_config(own, scheduler)
        elif scheduler is not None:
            own = dict(scheduler)
        pipeline = cls(networks, read_tokenizer(model.folder_of("tokenizer")), own, model.path, variant, model.replaced)
        params = {
            name: model.read_params(name, getattr(networks, name).shapes, variant=variant, sharding=sharding)
            for name in COMPONENTS
        }
        return pipeline, params

    def save_pretrained(self, save_directory: str | Path, params: Params) -> None:
        """Writes a diffusers folder with these parameters and every other file of the source model.

        The folder appears whole or not at all; PyTorch diffusers loads it.
        """
        trees = {name: params[name] for name in COMPONENTS}
        own = _as_diffusers_samples(model_dir.read_model_dir(self.source).configs["scheduler"])
        configs = {} if self.scheduler == own else {"scheduler": self.scheduler}
        model_dir.write_model_dir(
            save_directory,
            params=trees,
            source=self.source,
            replaced=self.replaced,
            configs=configs,
            variant=self.variant,
        )

    def prepare_inputs(self, prompt: str | Sequence[str]) -> Int[np.ndarray, "b s"]:
        """Token ids of a prompt or of a list of prompts."""
        if not isinstance(prompt, str | list | tuple):
            raise ValueError(f"prompt has type {type(prompt).__name__}; expected a string or a list of strings.")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("The list of prompts is empty; give at least one prompt.")
        return tokenize(self.tokenizer, prompts)

    def numpy_to_pil(self, images: Float[np.ndarray, "*b H W c"]) -> list[Picture]:
        """Pictures from arrays with values in 0..1."""
        return pictures.numpy_to_pil(images)

    def __call__(
        self,
        prompt_ids: Int[Array, "*d b s"],
        params: Params,
        prng_seed: Array,
        num_inference_steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | Array = 7.5,
        latents: Float[Array, "*d b c h w"] | None = None,
        neg_prompt_ids: Int[Array, "*d b s"] | None = None,
        return_dict: bool = True,
        jit: bool = False,
    ) -> FlaxStableDiffusionPipelineOutput | tuple[Any, None]:
        """Pictures as an array in 0..1, as the diffusers class of this name returned them.

        With `jit=True` every argument has a leading device axis: `prompt_ids` from `shard`, `params` from
        `replicate` (plain ones will do), `prng_seed` one key a device, and so has the result. Without it there
        is no such axis and one key. Both are compiled. `latents` are unit normal, channels first.
        """
        ids = np.asarray(prompt_ids)
        if ids.ndim != (3 if jit else 2):
            raise ValueError(
                f"prompt_ids has shape {ids.shape}; with jit={jit} it must be "
                + ("[devices, rows, tokens]: call shard(prompt_ids)." if jit else "[rows, tokens].")
            )
        groups = ids.shape[:-1]  # (devices, rows) or (rows,)
        sampler = make_sampler(self.scheduler, num_inference_steps)
        height, width = self._size(height, width)
        negative = self._negative_ids(ids) if neg_prompt_ids is None else np.asarray(neg_prompt_ids)
        if negative.shape != ids.shape:
            raise ValueError(f"neg_prompt_ids has shape {negative.shape}, prompt_ids {ids.shape}; they must be equal.")
        keys = placement.as_keys(prng_seed)
        if keys.shape != groups[:-1]:
            raise ValueError(f"prng_seed has {keys.shape} keys; expected {groups[:-1]}: one a device with jit=True.")
        rows = int(np.prod(groups))
        images = self._run(
            params,
            ids.reshape(rows, -1),
            negative.reshape(rows, -1),
            self._latents(latents, keys, groups, height, width),
            _row_keys(keys, groups),
            _per_row(guidance_scale, groups),
            sampler,
            core.Settings(),
        )
        images = images.reshape(*groups, *images.shape[1:])
        return FlaxStableDiffusionPipelineOutput(images) if return_dict else (images, None)

    def generate(
        self,
        prompts: str | Sequence[str],
        params: Params,
        *,
        negative_prompts: str | Sequence[str] = "",
        seeds: int | Sequence[int] = 0,
        num_images_per_prompt: int = 1,
        num_inference_steps: int = 30,
        guidance_scale: float | Sequence[float] = 7.5,
        guidance_rescale: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        sampler: str | None = None,
        clip_skip: int = 0,
        latents: Float[Array, "b c h w"] | None = None,
        batch_size: int = 1,
        vae_tiling: bool = False,
        progress: bool = True,
    ) -> list[Picture]:
        """PIL pictures of any number of prompts, on all devices of this host; prompt by prompt.

        `seeds` is the first picture's seed (the others count up from it) or one seed a picture; a picture
        depends on its own prompt and seed alone, not on what else is drawn or on how many devices. Each device
        draws `batch_size` at once. `sampler` is a name such as "dpmpp_2m", or the model's own. A guidance scale
        of 1 or less, for all, leaves guidance out. `latents` are unit normal, channels first, one a picture.
        """
        layers = self.text_encoder.config.num_hidden_layers
        if not 0 <= clip_skip < layers:
            raise ValueError(
                f"clip_skip {clip_skip} must lie in 0..{layers - 1}: the text encoder has {layers} layers."
            )
        ids = self.prepare_inputs(prompts).repeat(num_images_per_prompt, axis=0)
        count = len(ids)
        prompt_count = count // num_images_per_prompt
        negative = self.prepare_inputs(_list_of(negative_prompts, prompt_count, "negative_prompts"))
        negative = negative.repeat(num_images_per_prompt, axis=0)
        key_b = jax.vmap(jax.random.key)(jnp.asarray(_seeds(seeds, count), jnp.uint32))
        scale = _list_of(guidance_scale, prompt_count, "guidance_scale")
        scale_b = np.repeat(np.asarray(scale, np.float32), num_images_per_prompt)
        height, width = self._size(height, width)
        method = make_sampler(self.scheduler, num_inference_steps, name=sampler)
        settings = core.Settings(
            guided=bool((scale_b > 1).any()),
            guidance_rescale=guidance_rescale,
            clip_skip=clip_skip,
            vae_tiling=vae_tiling,
        )
        if latents is None:
            latents_bhwc = core.initial_latents(key_b, self._latent_shape(height, width))
        else:
            latents_bhwc = self._latents(latents, key_b, (count,), height, width)
        noise_key_b = core.sampler_keys(key_b)
        per_call = batch_size * self.mesh.size
        params = self.replicate(params)
        drawn: list[Picture] = []
        calls = -(-count // per_call)
        total = calls * len(method.calls)
        with tqdm(total=total, desc="sampling", disable=not progress, dynamic_ncols=True) as bar:
            for start in range(0, count, per_call):
                # The last batch is filled up with its first rows again, so that one program serves all.
                rows = np.resize(np.arange(start, min(start + per_call, count)), per_call)
                images = self._run(
                    params, ids[rows], negative[rows], latents_bhwc[rows], noise_key_b[rows], scale_b[rows],
                    method, settings, on_call=bar.update if progress else None,
                )  # fmt: skip
                drawn += pictures.numpy_to_pil(np.asarray(images))[: count - start]
        return drawn

    def draw(self, params: Params, requests: Sequence[Request], **options: Any) -> list[Picture]:
        """The picture of each request, in order; those of one size and step count are drawn together.

        Requests must be filled in but for their size; `options` are those of `generate` that are alike for all.
        """

        def kind(item: tuple[int, Request]) -> tuple[int, int, int, bool]:
            request = item[1]
            return (
                request.height or 0, request.width or 0, request.num_inference_steps or 0,
                (request.guidance_scale or 0) > 1,
            )  # fmt: skip

        drawn: dict[int, Picture] = {}
        for (height, width, steps, _), members in groupby(sorted(enumerate(requests), key=kind), key=kind):
            numbers, group = zip(*members)
            pictures_of_group = self.generate(
                [request.prompt for request in group],
                params,
                negative_prompts=[request.negative_prompt or "" for request in group],
                seeds=[request.seed or 0 for request in group],
                num_inference_steps=steps,
                guidance_scale=[request.guidance_scale or 0.0 for request in group],
                height=height or None,
                width=width or None,
                **options,
            )
            drawn.update(zip(numbers, pictures_of_group))
        return [drawn[number] for number in range(len(requests))]

    def replicate(self, params: Params) -> Params:
        """The parameters on every device of this host; at no cost where they are already."""
        if placement.is_replicated_by_flax(params["unet"], self.unet.shapes):
            return params
        return jax.device_put({name: params[name] for name in COMPONENTS}, placement.on_every_device(self.mesh))

    def _run(self, params, ids, negative, latents, keys, scale, sampler, settings, on_call=None):  # type: ignore
        """One compiled call with its rows spread over the devices."""
        params = {name: params[name] for name in COMPONENTS}
        mesh = self.mesh
        if placement.is_replicated_by_flax(params["unet"], self.unet.shapes):
            settings = replace(settings, device_axis=mesh)
            params = jax.device_put(params, placement.split_rows(mesh))
        else:
            params = self.replicate(params)
        how = {"networks": self.networks, "sampler": sampler, "settings": settings}
        generate = core.generate if on_call is None else partial(core.generate_by_calls, on_call=on_call)
        if len(ids) % mesh.size:  # a lone legacy call with fewer rows than devices: each device runs them all
            rows = jax.device_put((ids, negative, latents, keys, scale), placement.on_every_device(mesh))
            return generate(params, *rows, **how)
        rows = jax.device_put((ids, negative, latents, keys, scale), placement.split_rows(mesh))
        with jax.set_mesh(mesh):  # attention takes each device's rows by themselves
            return generate(params, *rows, **how)

    def _negative_ids(self, like: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.prepare_inputs("")[0], like.shape)

    def _latents(self, latents: Any, keys: Array, groups: tuple[int, ...], height: int, width: int) -> Array:
        shape_chw = self._latent_shape(height, width)
        if latents is None:
            if len(groups) == 1:
                return core.batch_latents(keys, groups[0], shape_chw)
            drawn = jax.vmap(lambda key: core.batch_latents(key, groups[1], shape_chw))(keys)
            return drawn.reshape(-1, *drawn.shape[2:])
        if latents.shape != (*groups, *shape_chw):
            raise ValueError(f"latents have shape {latents.shape}; expected {(*groups, *shape_chw)}, channels first.")
        return jnp.asarray(latents).reshape(-1, *shape_chw).transpose(0, 2, 3, 1)

    def _latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.networks.latent_channels, height // self.vae_scale_factor, width // self.vae_scale_factor

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        cells = self.unet.config.sample_size or 64
        cells_hw = (cells, cells) if isinstance(cells, int) else cells
        scale = self.vae_scale_factor
        size = height or cells_hw[0] * scale, width or cells_hw[1] * scale
        if min(size) <= 0 or any(side % scale for side in size):
            raise ValueError(f"height {size[0]} and width {size[1]} must be positive multiples of {scale} pixels.")
        return size


def _opened(
    source: str | Path, revision: str | None, variant: str | None, where: dict[str, Any]
) -> tuple[model_dir.ModelDir, str | None]:
    """The model of a folder, an id or a checkpoint, and which weight files are read."""
    saved = checkpoint_model.find_checkpoint(source)
    if saved is None:
        folder = hub.model_folder(source, revision=revision, variant=variant, **where)
        return model_dir.read_model_dir(folder), variant
    model = checkpoint_model.checkpoint_model(saved, **where)
    return model, variant or saved.extra["config"].get("variant")


def _as_diffusers_samples(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler config with the two corrections that PyTorch's StableDiffusionPipeline makes to old ones.

    A steps_offset of 0 (what a missing one means) ends a step too late; clip_sample (on, where DDIM's and DDPM's
    is missing) clips latents as if they were pixels.
    """
    return {**scheduler, "steps_offset": 1, "clip_sample": False}


def _networks(configs: Mapping[str, Any], attention: str, **compute: Any) -> core.Networks:
    """The three networks of a model; ValueError when they do not fit together, or cannot draw from text alone."""
    networks = core.Networks(
        text_encoder=build(configs["text_encoder"], **compute),
        unet=build(configs["unet"], attention=attention, **compute),
        vae=build(configs["vae"], **compute),
    )
    unet, text_width = networks.unet.config, networks.text_encoder.config.hidden_size
    if set(unet.per_block(unet.cross_attention_dim)) != {text_width}:
        raise ValueError(
            f"unet/config.json has cross_attention_dim {unet.cross_attention_dim}, but the text encoder's hidden_size "
            f"is {text_width}; they must be equal. Take both folders from one model."
        )
    if unet.in_channels != networks.latent_channels:
        raise ValueError(
            f"unet/config.json has in_channels {unet.in_channels}, but the VAE has {networks.latent_channels} latent "
            "channels. A UNet with 9 is an inpainting model, which cannot draw from text alone; give the base model."
        )
    return networks


def _seeds(seeds: int | Sequence[int], count: int) -> list[int]:
    if isinstance(seeds, int):
        return [seeds + index for index in range(count)]
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} pictures; give one seed a picture, or a single number.")
    return list(seeds)


def _list_of(value: Any, count: int, name: str) -> list[Any]:
    """One value for each prompt from one for all, or from a list of them."""
    if isinstance(value, str | int | float):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{len(value)} {name} for {count} prompts; give one for each, or a single one for all.")
    return list(value)


def _row_keys(keys: Array, groups: tuple[int, ...]) -> Array:
    """A sampler key for each row: those of a device are folded from the device's key with the row's number."""
    rows = jnp.arange(groups[-1])
    fold = jax.vmap(lambda key, row: jax.random.fold_in(jax.random.fold_in(key, core.SAMPLER_NOISE), row), (None, 0))
    return fold(keys, rows) if len(groups) == 1 else jax.vmap(lambda key: fold(key, rows))(keys).reshape(-1)


def _per_row(guidance_scale: Any, groups: tuple[int, ...]) -> np.ndarray:
    """The guidance scale of each row, from one number, one a device or one a row."""
    scale = np.asarray(guidance_scale, np.float32)
    scale = scale.reshape(scale.shape + (1,) * (len(groups) - scale.ndim))
    return np.broadcast_to(scale, groups).reshape(-1)
