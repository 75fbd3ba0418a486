"""The DreamBooth step of diffusers 0.38's Flax script, compiled for a TPU: `python tpu_peer.py FOLDER`.

For `tests.benchmarks.tpu`, under an interpreter with diffusers 0.38.0, transformers 4.57.6 and jax. The program is the
script's: VAE and text encoder in the step, everything replicated, AdamW behind gradient clipping for the UNet and for
the text encoder even where that is frozen, float32 parameters, bfloat16 computation, gradients averaged over the
devices. FOLDER/request.json has the configs, the topology, pictures per device and whether the text encoder trains.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from diffusers import FlaxAutoencoderKL, FlaxDDPMScheduler, FlaxUNet2DConditionModel
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from transformers import CLIPTextConfig, FlaxCLIPTextModel

from flaxdream.planning import compiling
from flaxdream.planning.child import end_when_left
from flaxdream.planning.held_bytes import bytes_by_path
from flaxdream.planning.plan import Facts

SIDE, TOKENS = 512, 77


def networks(configs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """UNet, VAE and text encoder that compute in bfloat16; no weights."""
    unet = FlaxUNet2DConditionModel.from_config(configs["unet"], dtype=jnp.bfloat16)
    vae = FlaxAutoencoderKL.from_config(configs["vae"], dtype=jnp.bfloat16)
    text = FlaxCLIPTextModel(CLIPTextConfig(**configs["text_encoder"]), dtype=jnp.bfloat16, _do_init=False)
    return unet, vae, text


def make_step(unet: Any, vae: Any, text: Any, optimizer: Any, train_text: bool) -> Any:
    """What each device does with its rows: (state, frozen, batch, key) -> (state, loss, key)."""
    scheduler = FlaxDDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
    )
    noise_levels = scheduler.create_state()

    def step(state: Any, frozen: Any, batch: Any, key: Any) -> Any:
        dropout_key, sample_key, new_key = jax.random.split(key[0], 3)
        trained = ("unet", "text_encoder") if train_text else ("unet",)

        def loss_of(params: Any) -> Any:
            moments = vae.apply({"params": frozen["vae"]}, batch["pixels"], deterministic=True, method=vae.encode)
            latents = moments.latent_dist.sample(sample_key)
            latents = jnp.transpose(latents, (0, 3, 1, 2)) * vae.config.scaling_factor
            noise_key, timestep_key = jax.random.split(sample_key)
            noise = jax.random.normal(noise_key, latents.shape)
            t = jax.random.randint(timestep_key, (latents.shape[0],), 0, 1000)
            noisy = scheduler.add_noise(noise_levels, latents, noise, t)
            weights = params["text_encoder"] if train_text else state["params"]["text_encoder"]
            options = {"dropout_rng": dropout_key} if train_text else {}
            states = text(batch["ids"], params=weights, train=train_text, **options)[0]
            predicted = unet.apply({"params": params["unet"]}, noisy, t, states, train=True).sample
            return jnp.mean((noise - predicted) ** 2)

        loss, grads = jax.value_and_grad(loss_of)({name: state["params"][name] for name in trained})
        grads = jax.lax.pmean(grads, "batch")
        params, opt_state = dict(state["params"]), dict(state["opt_state"])
        for name in trained:
            updates, opt_state[name] = optimizer.update(grads[name], opt_state[name], params[name])
            params[name] = optax.apply_updates(params[name], updates)
        return {"params": params, "opt_state": opt_state}, jax.lax.pmean(loss, "batch"), new_key[None]

    return step


def main(folder: Path) -> None:
    asked = json.loads((folder / "request.json").read_text())
    machine, devices = compiling.devices_of(asked["topology"])
    mesh = Mesh(np.array(devices), ("batch",))
    unet, vae, text = networks(asked["configs"])
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(5e-6, 0.9, 0.999, 1e-8, weight_decay=1e-2))

    whole, spread = NamedSharding(mesh, P()), NamedSharding(mesh, P("batch"))
    key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
    params = {"unet": jax.eval_shape(unet.init_weights, key), "text_encoder": text.params_shape_tree}
    opt_state = {name: jax.eval_shape(optimizer.init, tree) for name, tree in params.items()}
    rows = asked["batch"] * len(devices)
    batch = {
        "pixels": jax.ShapeDtypeStruct((rows, 3, SIDE, SIDE), jnp.float32),
        "ids": jax.ShapeDtypeStruct((rows, TOKENS), jnp.int32),
    }
    frozen = {"vae": jax.eval_shape(vae.init_weights, key)}
    state = _placed({"params": params, "opt_state": opt_state}, whole)
    keys = jax.ShapeDtypeStruct((len(devices), *key.shape), key.dtype, sharding=spread)
    arguments = (state, _placed(frozen, whole), _placed(batch, spread), keys)

    step = make_step(unet, vae, text, optimizer, asked["train_text_encoder"])
    specs = {"in_specs": (P(), P(), P("batch"), P("batch")), "out_specs": (P(), P(), P("batch"))}
    program = jax.jit(jax.shard_map(step, mesh=mesh, check_vma=False, **specs), donate_argnums=0)
    began = time.perf_counter()
    lowered = program.lower(*arguments)
    seconds = time.perf_counter() - began
    held = bytes_by_path(dict(zip(("state", "frozen", "batch", "key"), arguments, strict=True)))
    facts = Facts("train", held, compiling.kept_arguments(lowered), rows, seconds)
    compiling.answer(folder, machine, lowered, facts)


def _placed(tree: Any, sharding: Any) -> Any:
    return jax.tree.map(partial(_struct, sharding=sharding), tree)


def _struct(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


if __name__ == "__main__":
    end_when_left(Path(sys.argv[1]))
    main(Path(sys.argv[1]))
