"""The model that a run trains: its networks, what trains and what does not, and where each lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxdream.arrays import Params
from flaxdream.config.run import RunConfig
from flaxdream.config.training import TrainConfig
from flaxdream.models import build
from flaxdream.sampling.generate import Networks
from flaxdream.sampling.pipeline import FlaxStableDiffusionPipeline
from flaxdream.sampling.placement import local_mesh, on_every_device
from flaxdream.training.mesh import param_shardings, replicated
from flaxdream.weights import hub, model_dir
from flaxdream.weights.tokenizer import read_tokenizer

DTYPES = {"no": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16}


@dataclass(frozen=True)
class FinetunedModel:
    """`trained` are masters in the run's params_dtype, `frozen` have the type that is computed in."""

    networks: Networks
    pipeline: FlaxStableDiffusionPipeline
    folder: Path
    scheduler: dict[str, Any]
    """As the model's file has it, but for a `prediction_type` that the settings name."""
    trained: Params
    frozen: Params
    replaced: Mapping[str, Path] = field(default_factory=dict)
    """Folders of components that are not the model's own."""


def model_folder(config: RunConfig) -> Path:
    """The folder of the model to start from, with every component: they are carried over to the result."""
    return hub.model_folder(
        config.pretrained_model_name_or_path,
        revision=config.revision,
        variant=config.variant,
        token=config.hub_token,
        cache_dir=config.cache_dir,
    )


def open_model(config: TrainConfig, folder: Path) -> model_dir.ModelDir:
    """The model, with the VAE and the tokenizer that the settings name instead of its own; nothing is read yet."""
    given = {"vae": config.pretrained_vae_name_or_path, "tokenizer": config.tokenizer_name}
    replaced = {
        name: hub.component_folder(source, name, token=config.hub_token, cache_dir=config.cache_dir)
        for name, source in given.items()
        if source is not None
    }
    return model_dir.read_model_dir(folder, replaced=replaced)


def load(config: TrainConfig, folder: Path, mesh: Mesh) -> FinetunedModel:
    """Reads each component straight to its type and place."""
    model = open_model(config, folder)
    names, networks = trained_components(config), make_networks(config, model.configs)
    trained = {name: _read(model, config, name, networks, mesh, trains=True) for name in names}
    frozen = {name: _read(model, config, name, networks, mesh, trains=False) for name in ("text_encoder", "vae")}
    frozen = {name: tree for name, tree in frozen.items() if name not in trained}
    tokenizer = read_tokenizer(model.folder_of("tokenizer"))
    scheduler = scheduler_of(config, model.configs)
    pipeline = FlaxStableDiffusionPipeline(networks, tokenizer, scheduler, folder, config.variant)
    return FinetunedModel(networks, pipeline, folder, scheduler, trained, frozen, model.replaced)


def trained_components(config: TrainConfig) -> tuple[str, ...]:
    """The components that train; the first one's learning rate is the run's."""
    return ("unet", "text_encoder") if config.train_text_encoder else ("unet",)


def make_networks(config: TrainConfig, configs: Mapping[str, Any]) -> Networks:
    """The networks of a model as the settings ask for them, from its components' configs."""
    dtype, masters = DTYPES[config.mixed_precision], jnp.dtype(config.params_dtype)
    trains_text = "text_encoder" in trained_components(config)
    return Networks(
        unet=build(configs["unet"], dtype=dtype, param_dtype=masters, remat=config.remat, attention=config.attention),
        text_encoder=build(
            configs["text_encoder"],
            dtype=dtype,
            param_dtype=masters if trains_text else dtype,
            remat=config.remat if trains_text else "none",
        ),
        vae=build(configs["vae"], dtype=dtype, param_dtype=dtype),
    )


def scheduler_of(config: TrainConfig, configs: Mapping[str, Any]) -> dict[str, Any]:
    """The model's scheduler config, with the prediction type that the settings name."""
    given = {} if config.prediction_type is None else {"prediction_type": config.prediction_type}
    return {**configs["scheduler"], **given}


def _read(
    model: model_dir.ModelDir, config: TrainConfig, name: str, networks: Networks, mesh: Mesh, *, trains: bool
) -> Params:
    shapes = getattr(networks, name).shapes
    place = param_shardings(shapes, mesh) if trains else replicated(mesh)
    return model.read_params(name, shapes, variant=config.variant, sharding=place)


def local_copy(tree: Any, mesh: Mesh) -> Any:
    """The tree whole on every device of this host, wherever it lies on the mesh; all hosts take part.

    Arrays that lie so already are returned themselves.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, replicated(mesh))
    here = jax.tree.map(lambda leaf: leaf.addressable_data(0), _gathered(tree, mesh))
    return jax.device_put(here, on_every_device(local_mesh()))


def on_host(tree: Any, mesh: Mesh) -> Any:
    """The tree in this host's memory, wherever it lies on the mesh; all hosts take part.

    One array after the other, so that a device never holds more than one of them whole beside what it has.
    """

    def here(leaf: Any) -> np.ndarray:
        if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            leaf = _gathered(leaf, mesh)
        return np.array(leaf)  # a copy on CPUs too, so that the array can be given up

    return jax.tree.map(here, tree)


def _gathered(tree: Any, mesh: Mesh) -> Any:
    return jax.jit(lambda leaves: leaves, out_shardings=replicated(mesh))(tree)


def give_up(tree: Any) -> None:
    """Gives back the memory of the tree's arrays at once, whoever still refers to them."""
    jax.tree.map(lambda leaf: leaf.delete(), tree)
