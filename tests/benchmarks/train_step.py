"""A DreamBooth step beside the same loop in PyTorch: `python -m tests.benchmarks.train_step [builtin|sd15 ...]`.

VAE and text encoder run in the step, the UNet trains (AdamW, gradient clipping), float32 on the CPU, two threads,
random weights. `builtin` has the size of the model that ships (64 x 64 pixels, batch 8), `sd15` is Stable Diffusion
1.5 at 256 x 256, batch 1. The sides run in turns, each in a process of its own; the least time of a step counts. Peak
memory is that of the process; a step's call is what it takes before it returns, while the device computes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CASES = {"builtin": (64, 8), "sd15": (256, 1)}  # side in pixels, rows
PROMPT = "a photo of sks dog"


def torch_side(model: Path, side: int, rows: int) -> Callable[[], Any]:
    import diffusers
    import torch

    torch.set_num_threads(2)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model, safety_checker=None, torch_dtype=torch.float32)
    scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    pipe.vae.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW(pipe.unet.parameters(), lr=1e-5)
    pixels = torch.rand(rows, 3, side, side) * 2 - 1
    ids = pipe.tokenizer([PROMPT] * rows, padding="max_length", max_length=77, return_tensors="pt").input_ids

    def step() -> Any:
        with torch.no_grad():
            x0 = pipe.vae.encode(pixels).latent_dist.sample() * pipe.vae.config.scaling_factor
            context = pipe.text_encoder(ids)[0]
        noise, t = torch.randn_like(x0), torch.randint(0, 1000, (rows,))
        out = pipe.unet(scheduler.add_noise(x0, noise, t), t, context).sample
        v = scheduler.config.prediction_type == "v_prediction"
        wanted = scheduler.get_velocity(x0, noise, t) if v else noise
        loss = torch.nn.functional.mse_loss(out, wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(pipe.unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def flaxdream_side(model: Path, side: int, rows: int) -> Callable[[], Any]:
    from flaxdream.cli.host_memory import keep_freed_memory, run_in_caller, start_with_huge_pages

    start_with_huge_pages()
    keep_freed_memory()
    run_in_caller()  # all three as the command does
    import jax

    from flaxdream import FlaxStableDiffusionPipeline
    from flaxdream.compiler_options import ToldJit
    from flaxdream.training.learning_rate import make_schedule
    from flaxdream.training.optimizer import make_optimizer
    from flaxdream.training.recipes.latent_diffusion import Objective, make_loss_of_rows
    from flaxdream.training.step import init_state, make_train_step

    pipeline, params = FlaxStableDiffusionPipeline.from_pretrained(model)
    networks, scheduler = pipeline.networks, pipeline.scheduler
    objective = Objective(prediction_type=scheduler["prediction_type"])
    loss = make_loss_of_rows(networks.unet, networks.vae, networks.text_encoder, scheduler, objective)
    optimizer = make_optimizer("adamw", {"unet": make_schedule("constant", 1e-5)})
    train_step = ToldJit(make_train_step(loss, optimizer, seed=0), donate_argnums=0)
    state = init_state({"unet": params.pop("unet")}, optimizer)
    frozen = params | {"ids": jax.numpy.asarray(pipeline.prepare_inputs([PROMPT]))}
    batch = {  # on the device, as a run's batches are before their step
        "pixels": np.random.default_rng(0).uniform(-1, 1, (rows, side, side, 3)).astype(np.float32),
        "caption_index": np.zeros(rows, np.int32),
        "row": np.arange(rows, dtype=np.int32),
        "weight": np.ones(rows, np.float32),
    }
    batch = jax.block_until_ready(jax.device_put(batch))

    def step() -> Any:
        nonlocal state
        began = time.perf_counter()
        state, metrics = train_step(state, frozen, batch)
        called = time.perf_counter() - began
        return float(metrics["loss"]), called

    return step


SIDES = {"torch": torch_side, "flaxdream": flaxdream_side}


def measure(name: str, model: Path, case: str, steps: int) -> dict[str, float]:
    """In this process: seconds of the first and of the quickest step, of a call, and peak memory in GB."""
    step = SIDES[name](model, *CASES[case])
    began = time.perf_counter()
    step()
    first, seconds, calls = time.perf_counter() - began, [], []
    for _ in range(steps):
        began = time.perf_counter()
        result = step()
        seconds.append(time.perf_counter() - began)
        calls.append(result[1] if isinstance(result, tuple) else 0.0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"first": first, "step": min(seconds), "call": min(calls), "peak": peak}


def write_model(folder: Path, architecture: str) -> None:
    """A model with random weights, made on the CPU in a process of its own."""
    write = "from flaxdream.weights.random_model import write_random_model as w; import sys; w(*sys.argv[1:])"
    command = [sys.executable, "-c", write, str(folder), architecture]
    subprocess.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["builtin"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, model, case = options.child
        print(json.dumps(measure(name, Path(model), case, options.steps)))
        return
    print(f"{'':30s} torch   flaxdream   images/s ratio   peak GB (torch, flaxdream)   first step   call of a step")
    for case in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model"
            write_model(model, case)
            best: dict[str, dict[str, float]] = {}
            for name in [*SIDES] * options.rounds:
                command = [sys.executable, "-m", "tests.benchmarks.train_step", "--steps", str(options.steps)]
                done = subprocess.run(
                    [*command, "--child", name, model, case], check=True, capture_output=True, text=True
                )
                found = json.loads(done.stdout.splitlines()[-1])
                best[name] = {key: min(value, best.get(name, found)[key]) for key, value in found.items()}
        torch, ours = best["torch"], best["flaxdream"]
        print(
            f"{case + ', seconds a step':30s} {torch['step']:5.3f}   {ours['step']:9.3f}   "
            f"{torch['step'] / ours['step']:14.2f}   {torch['peak']:11.2f}, {ours['peak']:12.2f}   "
            f"{ours['first']:8.1f} s   {ours['call'] * 1e3:8.1f} ms"
        )


if __name__ == "__main__":
    main()
