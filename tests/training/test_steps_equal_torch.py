"""Twenty whole training steps against a plain PyTorch loop: losses step by step, and the final weights."""

from __future__ import annotations

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel, compute_snr

from flaxdream import FlaxStableDiffusionPipeline
from flaxdream.diffusion.loss import row_noise
from flaxdream.training.learning_rate import make_schedule
from flaxdream.training.optimizer import make_optimizer
from flaxdream.training.recipes import latent_diffusion as recipe
from flaxdream.training.step import init_state, make_train_step
from flaxdream.weights.names import file_names, leaves, to_file_layout
from tests.twins import torch_pipeline

STEPS, ROWS, SEED = 20, 4, 11
PROMPTS = ["a photo of sks dog", "a photo of a dog"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders with models of random weights, by architecture."""
    folders = {}
    for architecture in ("tiny", "tiny-v"):
        folder = tmp_path_factory.mktemp(architecture)
        torch_pipeline(architecture, folder / "tokenizer-files").save_pretrained(folder / "model")
        folders[architecture] = folder / "model"
    return folders


CASES = {
    "unet": ("tiny", {}),
    "unet and text encoder": ("tiny", {"text_encoder": True}),
    "prior preservation and min-SNR": ("tiny", {"prior": 0.3, "snr_gamma": 5.0}),
    "EMA, min-SNR, offset noise, input perturbation and clipping": (
        "tiny",
        {"ema": True, "snr_gamma": 5.0, "noise_offset": 0.1, "input_perturbation": 0.1, "max_grad_norm": 0.05},
    ),
    "v-prediction": ("tiny-v", {}),
    "v-prediction, prior preservation and min-SNR": ("tiny-v", {"prior": 0.3, "snr_gamma": 5.0}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_equal_a_plain_torch_loop(models, case):
    architecture, options = CASES[case]
    model = models[architecture]
    batches = [rows_of(step, options.get("prior")) for step in range(STEPS)]
    ours, our_losses, ids = train_ours(model, batches, **options)
    theirs, their_losses = train_torch(model, batches, ids, **options)
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-4)
    for group, state_dict in theirs.items():
        names = file_names(dict(leaves(ours[group])))
        for path, leaf in leaves(ours[group]):
            name = names[path].removeprefix("text_model.")
            if name.endswith("k_proj.bias"):
                continue  # its true gradient is 0, so Adam steps it by rounding noise
            want = state_dict[name].numpy()
            distance = np.linalg.norm(to_file_layout(path, np.asarray(leaf)) - want) / np.linalg.norm(want)
            assert distance < 1e-4, (group, path, distance)


def rows_of(step, prior):
    generator = np.random.default_rng(step)
    is_class = np.arange(ROWS) % 2 if prior is not None else np.zeros(ROWS, int)
    return {
        "pixels": generator.uniform(-1, 1, (ROWS, 64, 64, 3)).astype(np.float32),
        "caption_index": is_class.astype(np.int32),
        "row": np.arange(ROWS, dtype=np.int32),
        "weight": np.where(is_class, 2 * (prior or 0), 2 if prior is not None else 1).astype(np.float32),
    }


def objective_of(scheduler, options):
    return recipe.Objective(
        prediction_type=scheduler["prediction_type"],
        snr_gamma=options.get("snr_gamma"),
        noise_offset=options.get("noise_offset", 0.0),
        input_perturbation=options.get("input_perturbation", 0.0),
    )


def train_ours(model, batches, **options):
    pipeline, params = FlaxStableDiffusionPipeline.from_pretrained(model)
    networks, ids = pipeline.networks, pipeline.prepare_inputs(PROMPTS)
    groups = ["unet", "text_encoder"] if options.get("text_encoder") else ["unet"]
    schedule = make_schedule("constant", 1e-4)
    optimizer = make_optimizer(
        "adamw", dict.fromkeys(groups, schedule), max_grad_norm=options.get("max_grad_norm", 1.0)
    )
    loss = recipe.make_loss_of_rows(
        networks.unet,
        networks.vae,
        networks.text_encoder,
        pipeline.scheduler,
        objective_of(pipeline.scheduler, options),
    )
    ema = {} if options.get("ema") else None
    step = jax.jit(make_train_step(loss, optimizer, seed=SEED, ema=ema))
    state = init_state({name: params[name] for name in groups}, optimizer, ema=None if ema is None else jnp.float32)
    frozen = {name: tree for name, tree in params.items() if name not in groups} | {"ids": jnp.asarray(ids)}
    losses = []
    for batch in batches:
        state, metrics = step(state, frozen, batch)
        losses.append(float(metrics["loss"]))
    return state["ema"].params if ema is not None else state["params"], losses, ids


def drawn(step, options):
    """The random numbers of a step, as our step draws them: for latents, noise, perturbed noise and timesteps."""
    key = jax.random.fold_in(jax.random.key(SEED), step)
    key_b = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(ROWS))

    def normal(purpose, *shape):
        return torch.from_numpy(np.array(row_noise(recipe.draws(key_b, purpose), shape))).permute(0, 3, 1, 2)

    t = torch.from_numpy(np.array(recipe.timesteps(recipe.draws(key_b, recipe.TIMESTEP), 1000))).long()
    noise = normal(recipe.NOISE, 8, 8, 4)
    if options.get("noise_offset"):
        noise = noise + options["noise_offset"] * normal(recipe.OFFSET, 1, 1, 4)
    mixed = noise
    if options.get("input_perturbation"):
        mixed = noise + options["input_perturbation"] * normal(recipe.PERTURBATION, 8, 8, 4)
    return normal(recipe.LATENT, 8, 8, 4), noise, mixed, t


def train_torch(model, batches, ids, **options):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    groups = {"unet": pipe.unet} | ({"text_encoder": pipe.text_encoder} if options.get("text_encoder") else {})
    trained = [p for module in groups.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ema = EMAModel(pipe.unet.parameters()) if options.get("ema") else None
    losses = []
    for step, batch in enumerate(batches):
        latent_noise, noise, mixed, t = drawn(step, options)
        with torch.no_grad():
            moments = pipe.vae.encode(torch.from_numpy(batch["pixels"]).permute(0, 3, 1, 2)).latent_dist
            x0 = (moments.mean + moments.std * latent_noise) * pipe.vae.config.scaling_factor
        context = pipe.text_encoder(torch.from_numpy(ids[batch["caption_index"]]).long())[0]
        out = pipe.unet(scheduler.add_noise(x0, mixed, t), t, context).sample
        v = scheduler.config.prediction_type == "v_prediction"
        wanted = scheduler.get_velocity(x0, noise, t) if v else noise
        loss_b = torch.nn.functional.mse_loss(out, wanted, reduction="none").mean((1, 2, 3))
        if "snr_gamma" in options:
            snr = compute_snr(scheduler, t)
            loss_b = loss_b * torch.clamp(snr, max=options["snr_gamma"]) / (snr + 1 if v else snr)
        if "prior" in options:
            loss = loss_b[0::2].mean() + options["prior"] * loss_b[1::2].mean()
        else:
            loss = loss_b.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, options.get("max_grad_norm", 1.0))
        optimizer.step()
        if ema is not None:
            ema.step(pipe.unet.parameters())
        losses.append(loss.item())
    if ema is not None:
        ema.copy_to(pipe.unet.parameters())
    return {name: strip(module.state_dict()) for name, module in groups.items()}, losses


def strip(state_dict):
    return {name.removeprefix("text_model."): tensor.detach() for name, tensor in state_dict.items()}
