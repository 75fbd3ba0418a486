"""A training step and a sampling call beside PyTorch on a GPU: `python -m tests.benchmarks.gpu`.

SD 1.5 with random weights at 512 x 512: the UNet trains (float32 masters, bfloat16, AdamW, gradient clipping, latents
and text states at hand); pictures take 25 DDIM steps with guidance, in bfloat16. PyTorch runs as it is and compiled,
`channels_last`, with fused AdamW. Every side and batch is a process of its own: its peak memory is its own, and one
that finds no room costs only its row. `--platform cpu --model tiny --size 64` tries the script out without a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.train_step import write_model

SIDES = ("flaxdream", "torch", "torch compiled")
PROGRAMS = ("train", "sample")
PROMPT = "a photo of sks dog"
SAMPLER_STEPS = 25
WARM_UP = 3  # calls, the one that compiles among them
NO_ROOM = ("out of memory", "RESOURCE_EXHAUSTED")

Call = Callable[[], None]  # returns when the device is done
Peak = Callable[[], float]  # bytes


def torch_train(model: Path, size: int, rows: int, device: str, compiled: bool) -> tuple[Call, Peak]:
    import diffusers
    import torch

    unet = diffusers.UNet2DConditionModel.from_pretrained(model / "unet").to(device, memory_format=torch.channels_last)
    scheduler = diffusers.DDPMScheduler.from_pretrained(model / "scheduler")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5, fused=device == "cuda")
    network = torch.compile(unet) if compiled else unet
    latents = torch.randn(rows, unet.config.in_channels, size // 8, size // 8, device=device)
    context = torch.randn(rows, 77, unet.config.cross_attention_dim, device=device)

    def call() -> None:
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (rows,), device=device)
        noisy = scheduler.add_noise(latents, noise, t)
        with torch.autocast(device, torch.bfloat16):
            out = network(noisy, t, context).sample
        loss = torch.nn.functional.mse_loss(out.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return call, _torch_peak(device)


def torch_sample(model: Path, size: int, rows: int, device: str, compiled: bool) -> tuple[Call, Peak]:
    import diffusers
    import torch

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model, safety_checker=None, torch_dtype=torch.bfloat16)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.to(device)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    if compiled:
        pipe.unet = torch.compile(pipe.unet)

    def call() -> None:
        pipe([PROMPT] * rows, num_inference_steps=SAMPLER_STEPS, height=size, width=size)

    return call, _torch_peak(device)


def _torch_peak(device: str) -> Peak:
    import torch

    return (lambda: float(torch.cuda.max_memory_allocated())) if device == "cuda" else lambda: math.nan


def flaxdream_train(model: Path, size: int, rows: int) -> tuple[Call, Peak]:
    import jax
    import numpy as np

    from flaxdream.config import DreamBoothConfig
    from flaxdream.planning.told_step import ToldStep
    from flaxdream.training.learning_rate import make_schedule
    from flaxdream.training.mesh import make_mesh
    from flaxdream.training.optimizer import make_optimizer
    from flaxdream.training.recipes import finetuned_model
    from flaxdream.training.recipes.latent_diffusion import Objective, make_loss_of_rows
    from flaxdream.training.step import init_state, make_train_step

    config = DreamBoothConfig(pretrained_model_name_or_path=str(model), mixed_precision="bf16", resolution=size)
    loaded = finetuned_model.load(config, model, make_mesh(1, jax.devices()[:1]))
    networks = loaded.networks
    loss = make_loss_of_rows(networks.unet, networks.vae, networks.text_encoder, loaded.scheduler, Objective())
    optimizer = make_optimizer("adamw", {"unet": make_schedule("constant", 1e-5)})
    state = jax.jit(lambda trained: init_state(trained, optimizer), donate_argnums=0)(loaded.trained)
    step = ToldStep(jax.jit(make_train_step(loss, optimizer, seed=0), donate_argnums=0), lambda table: None)
    draw, cells = np.random.default_rng(0), size // networks.downscale
    shape = (rows, cells, cells, networks.latent_channels)
    moments = {"mean": draw.standard_normal(shape, np.float32), "logvar": np.full(shape, -9, np.float32)}
    numbers = {"caption_index": np.zeros(rows, np.int32), "row": np.arange(rows, dtype=np.int32)}
    batch = jax.device_put(moments | numbers | {"weight": np.ones(rows, np.float32)})
    context = draw.standard_normal((1, 77, networks.text_encoder.config.hidden_size), np.float32)
    frozen = jax.device_put({"context": context})

    def call() -> None:
        nonlocal state
        state, metrics = step(state, frozen, batch)
        float(metrics["loss"])

    return call, _jax_peak


def flaxdream_sample(model: Path, size: int, rows: int) -> tuple[Call, Peak]:
    import jax.numpy as jnp

    from flaxdream import FlaxStableDiffusionPipeline

    pipeline, params = FlaxStableDiffusionPipeline.from_pretrained(model, dtype=jnp.bfloat16)
    params = pipeline.replicate(params)
    how = {"num_inference_steps": SAMPLER_STEPS, "height": size, "width": size, "sampler": "ddim"}

    def call() -> None:
        pipeline.generate([PROMPT] * rows, params, batch_size=rows, progress=False, **how)

    return call, _jax_peak


def _jax_peak() -> float:
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", math.nan)


def measure(program: str, side: str, model: Path, size: int, rows: int, platform: str, calls: int) -> dict[str, float]:
    """In this process: seconds of the first call and the median of the later ones, and peak memory in bytes."""
    began = time.perf_counter()
    if side == "flaxdream":
        call, peak = {"train": flaxdream_train, "sample": flaxdream_sample}[program](model, size, rows)
    else:
        twin = {"train": torch_train, "sample": torch_sample}[program]
        call, peak = twin(model, size, rows, platform, side == "torch compiled")
    call()
    first, seconds = time.perf_counter() - began, []
    for _ in range(WARM_UP - 1 + calls):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return {"first": first, "seconds": statistics.median(seconds[WARM_UP - 1 :]), "peak": peak()}


def peak_flops() -> float:
    """Of the attached device in bfloat16; NaN where it is in no table."""
    import jax

    from flaxdream.planning.topologies import attached

    device = jax.devices()[0]
    return attached(device.platform, device.device_kind, 1, None).chip.peak


def flops_of_picture(architecture: str, size: int) -> float:
    """A picture's products in a training step that computes nothing twice, as PyTorch counts them."""
    import diffusers
    import torch
    from diffusers.models.attention_processor import AttnProcessor
    from torch.utils.flop_counter import FlopCounterMode

    from flaxdream.models.architectures import ARCHITECTURES

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(ARCHITECTURES[architecture]["unet"])
        unet.set_attn_processor(AttnProcessor())  # plain products, which are all counted
        latents = torch.zeros(1, unet.config.in_channels, size // 8, size // 8)
        context = torch.zeros(1, 77, unet.config.cross_attention_dim)
        with FlopCounterMode(display=False) as counter:
            unet(latents, torch.zeros(1), context).sample.sum().backward()
    return float(counter.get_total_flops())


def row(program: str, rows: int, found: dict[str, dict[str, float] | None], flops: float, peak: float) -> str:
    """A line of the table: pictures a second and GB of each side, our ratio to PyTorch's better, the peak's share."""
    speeds = {side: rows / one["seconds"] for side, one in found.items() if one is not None}
    cells = []
    for side, one in found.items():
        cells.append("no room" if one is None else f"{speeds[side]:.2f} ({one['peak'] / 1e9:.1f} GB)")
    best = max((speed for side, speed in speeds.items() if side != "flaxdream"), default=math.nan)
    ours = speeds.get("flaxdream", math.nan)
    share = f"{ours * flops / peak:.0%}" if program == "train" and math.isfinite(ours * peak) else ""
    return "| " + " | ".join([program, str(rows), *cells, f"{ours / best:.2f}", share]) + " |"


def run_side(options: argparse.Namespace, program: str, side: str, model: Path, rows: int) -> dict[str, float] | None:
    """`measure` in a process of its own; None where there is no room."""
    asked = [program, side, str(model), str(options.size), str(rows), options.platform, str(options.calls)]
    environment = os.environ | ({"JAX_PLATFORMS": "cpu"} if options.platform == "cpu" else {})
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--child", *asked]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if any(words in done.stderr for words in NO_ROOM):
        return None
    raise RuntimeError(f"{program}, {side}, {rows} at once:\n{done.stderr[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES])
    parser.add_argument("--what", nargs="+", choices=PROGRAMS, default=[*PROGRAMS])
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--platform", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--child", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        program, side, model, size, rows, platform, calls = options.child
        print(json.dumps(measure(program, side, Path(model), int(size), int(rows), platform, int(calls))))
        return
    about = "from tests.benchmarks import gpu; import sys; print(gpu.flops_of_picture(sys.argv[1], int(sys.argv[2])))"
    peak = "from tests.benchmarks import gpu; print(gpu.peak_flops())"
    cpu, here = os.environ | {"JAX_PLATFORMS": "cpu"}, dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_model(model, options.model)
        flops = float(_output([about, options.model, str(options.size)], cpu))
        of = float(_output([peak], here if options.platform == "cuda" else cpu))
        print(f"{flops / 1e12:.2f} TFLOP a picture in a training step; the device's peak {of / 1e12:.0f} TFLOP/s")
        print(f"| pictures a second | at once | {' | '.join(options.sides)} | ratio | of the peak |")
        print("|" + "---|" * (len(options.sides) + 4))
        for program in options.what:
            for rows in options.batches:
                found = {side: run_side(options, program, side, model, rows) for side in options.sides}
                print(row(program, rows, found, flops, of), flush=True)


def _output(code: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", *code], check=True, capture_output=True, text=True, env=environment)
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    main()
