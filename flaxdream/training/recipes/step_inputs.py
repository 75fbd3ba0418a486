"""What a training step is handed, as shapes: for a plan, and to compile while the data is prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flaxdream.config.training import TrainConfig
from flaxdream.models.network import Network
from flaxdream.models.vae_config import VAEConfig
from flaxdream.training.mesh import replicated, rows_sharding
from flaxdream.training.recipes.finetuned_model import FinetunedModel

TOKENS = 77
CONTEXT_ON_DEVICE = 2**28  # bytes of text states that a device keeps for all captions
LATENTS_IN_MEMORY = 4 * 2**30  # bytes of moments that --cache_latents auto keeps

StepInputs = tuple[dict[str, Any], dict[str, Any]]  # what does not train, and a batch


@dataclass(frozen=True)
class Assumed:
    """What only the pictures would tell."""

    captions: int
    """Different captions, whose text states or token ids are kept on the device."""
    captions_vary: bool
    """Token ids come with the rows, and the text encoder runs in the step."""
    class_rows: bool
    latents_cached: bool


def step_inputs(
    config: TrainConfig, model: FinetunedModel, mesh: Mesh, assumed: Assumed, resolution: tuple[int, int] | None = None
) -> StepInputs:
    """The ShapeDtypeStructs, with places, of what `Denoising.inputs` hands to the step; `model` may be shapes itself.

    `resolution` is the height and width of the batch's pictures, the config's unless given.
    """
    networks, whole = model.networks, replicated(mesh)
    frozen: dict[str, Any] = as_they_lie(dict(model.frozen))
    height, width = resolution or (config.resolution, config.resolution)
    rows = config.rows_per_step(mesh.size) * (2 if assumed.class_rows else 1)
    batch = row_numbers(mesh, rows)
    ids = jax.ShapeDtypeStruct((assumed.captions, TOKENS), jnp.int32, sharding=whole)
    room = states_fit(assumed.captions * TOKENS, networks.text_encoder)
    if assumed.captions_vary:
        batch["ids"] = abstract_rows(mesh, (rows, TOKENS), jnp.int32)
    elif config.train_text_encoder or (not room and config.latents_cache_dir is None):
        frozen["ids"] = ids
    else:
        del frozen["text_encoder"]
        states = _result(networks.text_encoder, ids).states_bsd
        if room:
            frozen["context"] = abstract(states, whole)
        else:
            batch["context"] = abstract_rows(mesh, (rows, *states.shape[1:]), states.dtype)
    pixels = jax.ShapeDtypeStruct((rows, height, width, 3), jnp.float32)
    if not assumed.latents_cached:
        return frozen, batch | {"pixels": abstract(pixels, rows_sharding(mesh))}
    del frozen["vae"]
    mean, logvar = (abstract(leaf, rows_sharding(mesh)) for leaf in _result(networks.vae, pixels, method="moments"))
    return frozen, batch | {"mean": mean, "logvar": logvar}


def states_fit(tokens: int, text_encoder: Network) -> bool:
    """Whether a device keeps the states of so many tokens, those of all captions."""
    return tokens * text_encoder.config.hidden_size * 4 <= CONTEXT_ON_DEVICE


def too_many_latents(images: int, resolution: tuple[int, int], vae: VAEConfig) -> bool:
    """Whether the host is not to keep the moments of so many pictures, unless it is told to."""
    height, width = resolution
    per_image = (height * width // vae.downscale**2) * vae.latent_channels * 2 * 4
    return images * per_image > LATENTS_IN_MEMORY


def row_numbers(mesh: Mesh, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What comes with every row, whatever it shows."""
    types = {"weight": jnp.float32, "row": jnp.int32, "caption_index": jnp.int32, "is_class": jnp.bool_}
    return {name: abstract_rows(mesh, (rows,), dtype) for name, dtype in types.items()}


def abstract(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    """The leaf's shape and type, in that place."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def as_they_lie(tree: Any) -> Any:
    """The shapes and types of the tree's arrays, in their places."""
    return jax.tree.map(lambda leaf: abstract(leaf, leaf.sharding), tree)


def abstract_rows(mesh: Mesh, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """Rows that lie over all devices."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=rows_sharding(mesh))


def _result(network: Network, *args: Any, **options: Any) -> Any:
    return jax.eval_shape(lambda params, *rest: network(params, *rest, **options), network.shapes, *args)
