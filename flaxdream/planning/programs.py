"""What a training run executes, built from shapes alone: the train step, the encoding of its pictures, its sampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flaxdream.arrays import Params, Shapes
from flaxdream.config.dreambooth import DreamBoothConfig
from flaxdream.config.run_checks import optimizer_name
from flaxdream.config.text_to_image import TextToImageConfig
from flaxdream.config.training import TrainConfig
from flaxdream.config.vae import VaeConfig
from flaxdream.diffusion.samplers import make_sampler
from flaxdream.models import build
from flaxdream.models.network import Network
from flaxdream.models.vae_config import VAEConfig
from flaxdream.planning.held_bytes import bytes_by_path
from flaxdream.planning.image_size import largest_size
from flaxdream.planning.request import Request
from flaxdream.planning.told_step import mesh_in_use
from flaxdream.sampling import generate
from flaxdream.training.mesh import make_mesh, param_shardings, replicated
from flaxdream.training.prefetch import AHEAD
from flaxdream.training.recipes import autoencoding
from flaxdream.training.recipes.denoising import Denoising
from flaxdream.training.recipes.finetuned_model import (
    DTYPES,
    FinetunedModel,
    make_networks,
    scheduler_of,
    trained_components,
)
from flaxdream.training.recipes.latent_diffusion import encode_pictures
from flaxdream.training.recipes.run import RunState
from flaxdream.training.recipes.step_inputs import (
    TOKENS,
    Assumed,
    abstract,
    abstract_rows,
    row_numbers,
    step_inputs,
    too_many_latents,
)
from flaxdream.training.recipes.vae import as_trained
from flaxdream.training.step import LossOfRows


@dataclass(frozen=True)
class Program:
    """Something to compile. `arguments` are bytes per device by the argument's path; `images` are of all devices."""

    name: str
    lower: Callable[[], Any]  # -> jax.stages.Lowered
    arguments: dict[str, int]
    images: int


@dataclass(frozen=True)
class _Rows:
    """In place of a data set."""

    has_class_rows: bool


def abstract_model(config: TrainConfig, configs: Mapping[str, Any], mesh: Mesh) -> FinetunedModel:
    """The model of a run as shapes on the mesh, as `finetuned_model.load` would place its weights."""
    networks = make_networks(config, configs)
    names = trained_components(config)

    def placed(name: str) -> Shapes:
        shapes = getattr(networks, name).shapes
        trains = name in names
        places = param_shardings(shapes, mesh) if trains else jax.tree.map(lambda _: replicated(mesh), shapes)
        return jax.tree.map(abstract, shapes, places)

    trained = {name: placed(name) for name in names}
    frozen = {name: placed(name) for name in ("text_encoder", "vae") if name not in trained}
    no_pipeline: Any = None  # a plan draws no picture
    return FinetunedModel(networks, no_pipeline, Path(), scheduler_of(config, configs), trained, frozen)


def train_program(config: TrainConfig, configs: Mapping[str, Any], mesh: Mesh, assumed: Assumed) -> Program:
    """The step that `recipes.run` would compile for this run, by the same functions."""
    model = abstract_model(config, configs, mesh)
    state_of = _run_state(config, model, mesh, class_rows=assumed.class_rows)
    inputs = step_inputs(config, model, mesh, assumed, largest_size(config))
    return _step_program(state_of, *inputs, held_out=_held_out(config, model))


def _held_out(config: TrainConfig, model: FinetunedModel) -> Params:
    """What the held-out loss keeps on the devices from one time to the next."""
    if not (isinstance(config, TextToImageConfig) and config.held_out_loss_steps):
        return {}
    return {name: tree for name, tree in model.frozen.items() if name != "vae"}


@dataclass(frozen=True)
class _VaeTask:
    """As much of `Autoencoding` as a step is made of; `trained` are shapes."""

    config: VaeConfig
    vae: Network
    trained: Params
    mesh: Mesh
    steps: int

    def loss_of_rows(self) -> LossOfRows:
        return autoencoding.make_loss_of_rows(self.config, self.vae)

    def groups(self) -> None:
        return None


def vae_program(config: VaeConfig, configs: Mapping[str, Any], mesh: Mesh) -> Program:
    """The step of `flaxdream vae`, by the functions of its run."""
    vae = build(configs["vae"], dtype=DTYPES[config.mixed_precision], remat=config.remat)
    shapes = as_trained(vae.shapes, config)
    params = jax.tree.map(abstract, shapes, param_shardings(shapes, mesh))
    trained, still = autoencoding.trained_and_still(config, params)
    task: Any = _VaeTask(config, vae, trained, mesh, config.max_train_steps or 1000)
    rows, side = config.rows_per_step(mesh.size), config.resolution
    pixels = abstract_rows(mesh, (rows, side, side, 3), jnp.float32)
    return _step_program(RunState(task), {"still": still}, row_numbers(mesh, rows) | {"pixels": pixels})


def _step_program(state_of: RunState, frozen: Params, batch: dict[str, Any], **beside: Any) -> Program:
    state = state_of.abstract()
    arguments = bytes_by_path({"state": state, "frozen": frozen, "batch": batch, "waiting": [batch] * AHEAD, **beside})

    def lower() -> Any:
        with mesh_in_use(state):
            return state_of.compiled_step().lower(state, frozen, batch)

    return Program("train", lower, arguments, batch["row"].shape[0])


def _run_state(config: TrainConfig, model: FinetunedModel, mesh: Mesh, *, class_rows: bool = False) -> RunState:
    source: Any = _Rows(class_rows)
    without_files = dataclasses.replace(config, validation_prompt=(), validation_prompts_file=None)
    return RunState(Denoising(without_files, model, source, mesh, config.max_train_steps or 1000))


def make_program(request: Request, devices: Sequence[jax.Device]) -> Program:
    """The program of a request on these devices."""
    config = request.config
    mesh = make_mesh(config.fsdp, devices)
    if isinstance(config, VaeConfig):
        return vae_program(config, request.configs, mesh)
    assert isinstance(config, TrainConfig)
    if request.program == "encode":
        return encode_program(config, request.configs, mesh)
    if request.program == "sample":
        return sample_program(config, request.configs, mesh)
    return train_program(config, request.configs, mesh, assumed(request))


def assumed(request: Request) -> Assumed:
    """What the settings say of the pictures. Pictures are taken to leave room for other crops."""
    config = request.config
    assert isinstance(config, TrainConfig)
    prior = isinstance(config, DreamBoothConfig) and config.with_prior_preservation
    square, vae = (config.resolution, config.resolution), VAEConfig.from_dict(request.configs["vae"])
    cached = config.latents_stay and (config.keeps_latents or not too_many_latents(request.image_count, square, vae))
    return Assumed(request.caption_count + prior, config.captions_vary, prior, cached)


def encode_program(config: TrainConfig, configs: Mapping[str, Any], mesh: Mesh) -> Program:
    """The encoding of pictures for cached latents, as many at once as a training with these settings takes.

    The training's state and what else does not train lie on the devices meanwhile.
    """
    model = abstract_model(config, configs, mesh)
    vae, rows = model.networks.vae, config.encoded_at_once * mesh.size
    pixels = abstract_rows(mesh, (rows, *largest_size(config), 3), jnp.float32)
    params = model.frozen["vae"]

    def lower() -> Any:
        with jax.set_mesh(mesh):
            return encode_pictures.lower(vae, params, pixels)

    others = {name: tree for name, tree in model.frozen.items() if name != "vae"}
    meanwhile = {"state": _run_state(config, model, mesh).abstract(), "frozen": others}
    arguments = bytes_by_path({"params": params, "pixels_bHWc": pixels, **meanwhile})
    return Program("encode", lower, arguments, rows)


def sample_program(config: TrainConfig, configs: Mapping[str, Any], mesh: Mesh) -> Program:
    """The call that draws validation pictures: what trains as the run would write it, the rest as it is computed in.

    The training's state lies on the devices meanwhile; parameters that lie whole on each of them are drawn with as
    they are.
    """
    model = abstract_model(config, configs, mesh)
    whole = replicated(mesh)
    result = dict(model.trained)
    if config.use_ema:
        average = jnp.dtype(config.ema_dtype)
        result = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, average), result)
    params = jax.tree.map(lambda leaf: abstract(leaf, whole), {**model.frozen, **result})
    networks, count = model.networks, mesh.size  # a picture a device
    cells = config.resolution // networks.downscale
    sampler = make_sampler(
        {**model.scheduler, "steps_offset": 1, "clip_sample": False},
        config.validation_num_inference_steps,
        name=config.validation_scheduler,
    )
    ids = abstract_rows(mesh, (count, TOKENS), jnp.int32)
    latents = abstract_rows(mesh, (count, cells, cells, networks.latent_channels), jnp.float32)
    keys = abstract_rows(mesh, (count,), jax.random.key(0).dtype)
    scale = abstract_rows(mesh, (count,), jnp.float32)
    settings = generate.Settings(guided=config.validation_guidance_scale > 1)

    def lower() -> Any:
        with jax.set_mesh(mesh):
            return generate.generate.lower(
                params, ids, ids, latents, keys, scale, networks=networks, sampler=sampler, settings=settings
            )

    rest = {"ids_bs": ids, "negative_ids_bs": ids, "latents_bhwc": latents}
    state = _run_state(config, model, mesh).abstract()
    if config.fsdp == 1 and optimizer_name(config) != "schedule_free":  # which computes its result
        state.pop("ema" if "ema" in state else "params")  # it is among `params`
    arguments = bytes_by_path(
        {"params": params, **rest, "noise_key_b": keys, "guidance_scale_b": scale, "state": state}
    )
    return Program("sample", lower, arguments, count)
