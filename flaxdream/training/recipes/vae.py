"""Training a VAE on a folder of pictures."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxdream.arrays import Params, Shapes
from flaxdream.config import VaeConfig, batch_problems, vae_problems
from flaxdream.data.captioned import CaptionedRows
from flaxdream.data.held_out import HeldOutRows
from flaxdream.models import build
from flaxdream.training.mesh import make_mesh, param_shardings
from flaxdream.training.recipes import finetuned_model
from flaxdream.training.recipes.autoencoding import ENCODER, Autoencoding
from flaxdream.training.recipes.captioned_data import broken_pictures, folder_of_pictures, say, training_set, without
from flaxdream.training.recipes.run import run, total_steps
from flaxdream.training.trackers import tracker_names
from flaxdream.weights.model_dir import read_model_dir


def train_vae(config: VaeConfig) -> int:
    """Runs the whole training and returns the exit code: 0, or 130 and 143 when a signal stopped it.

    Raises ValueError with all problems of the settings and the data, before anything is compiled.
    """
    problems = vae_problems(config) + batch_problems(config, jax.device_count())
    pictures, held_out = None, None
    try:
        tracker_names(config.report_to, config.hub_token)
        pictures = training_set(config, config.seed, token=config.hub_token, cache_dir=config.cache_dir)
        if config.held_out_data_dir is not None:
            held_out = folder_of_pictures(config.held_out_data_dir, config, missing_caption="empty")
    except ValueError as error:
        problems.append(str(error))
    broken = broken_pictures(pictures, config.dataloader_num_workers) if pictures is not None else {}
    if broken and not config.skip_broken_images:
        problems += [f"{problem} (--skip_broken_images goes on without it)" for problem in broken.values()]
    if problems:
        raise ValueError("these settings cannot be used:\n  " + "\n  ".join(problems))
    assert pictures is not None

    folder = finetuned_model.model_folder(config)
    model = read_model_dir(folder, needed=("vae",))
    mesh = make_mesh(config.fsdp)
    dtype = finetuned_model.DTYPES[config.mixed_precision]
    vae = build(model.configs["vae"], dtype=dtype, remat=config.remat)
    shapes = as_trained(vae.shapes, config)
    params = model.read_params("vae", shapes, variant=config.variant, sharding=param_shardings(shapes, mesh))
    if config.initial_logvar is not None:
        params = with_initial_logvar(params, config.initial_logvar)
    source = CaptionedRows(
        without(pictures, broken.keys()),
        config.rows_per_step(jax.device_count()),
        config.seed,
    )
    steps = total_steps(config, source)
    say([
        *pictures.notes,
        *(f"left out: {problem}" for problem in broken.values()),
        f"{len(source)} pictures, {source.batch_rows} rows a step on {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}, {steps} steps",
    ])  # fmt: skip
    rows = HeldOutRows(held_out, source.batch_rows) if held_out is not None else None
    return run(Autoencoding(config, vae, params, folder, source, rows, mesh, steps))


def as_trained(shapes: Shapes, config: VaeConfig) -> Shapes:
    """The VAE's shapes with what trains in the run's params_dtype; an encoder that does not keeps float32."""
    masters = jnp.dtype(config.params_dtype)
    return {
        name: part
        if name in ENCODER and not config.train_encoder
        else jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, masters), part)
        for name, part in shapes.items()
    }


def with_initial_logvar(params: Params, logvar: float) -> Params:
    """The VAE's parameters with log variances near `logvar`: the bias of the layer that makes them is set to it."""
    layer = params["quant_conv"] if "quant_conv" in params else params["encoder"]["conv_out"]
    bias = np.asarray(layer["bias"]).copy()
    bias[len(bias) // 2 :] = logvar
    new = layer | {"bias": jax.device_put(jnp.asarray(bias), layer["bias"].sharding)}
    if "quant_conv" in params:
        return {**params, "quant_conv": new}
    return {**params, "encoder": {**params["encoder"], "conv_out": new}}
