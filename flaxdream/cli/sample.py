"""`flaxdream sample`: prompts in, PNG files and a contact sheet out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxdream.cli.flags import parse
from flaxdream.cli.host_memory import run_in_caller
from flaxdream.config import SampleConfig, sample_problems
from flaxdream.config.checks import compile_notes

DTYPES = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}


def main(argv: Sequence[str]) -> int:
    config: SampleConfig = parse(SampleConfig, argv, "sample")
    problems = sample_problems(config)
    requests: list[Any] = []
    try:
        requests = read_requests(config)
    except ValueError as error:
        problems.append(str(error))
    if config.sampler is not None:
        from flaxdream.diffusion.samplers import scheduler_config

        try:
            scheduler_config({}, config.sampler)
        except ValueError as error:
            problems.append(f"--sampler: {error}")
    if problems:
        raise ValueError("these settings cannot be used:\n  " + "\n  ".join(problems))
    draw(config, requests)
    return 0


def read_requests(config: SampleConfig) -> list[Any]:
    """A filled-in Request for each picture, in the order of the files to write."""
    from dataclasses import replace

    from flaxdream.sampling.prompts import Request, read_prompts_file

    requests = [Request(prompt) for prompt in config.prompt]
    if config.prompts_file is not None:
        requests += read_prompts_file(config.prompts_file)
    filled, seed = [], config.seed
    for request in requests:
        own_seed = seed if request.seed is None else request.seed
        for index in range(config.num_images_per_prompt):
            filled.append(replace(_filled(request, config), seed=own_seed + index))
        if request.seed is None:
            seed += config.num_images_per_prompt
    return filled


def _filled(request: Any, config: SampleConfig) -> Any:
    """The request with the command's own values where its line gives none."""
    from dataclasses import replace

    values = {name: getattr(config, name) for name in vars(request) if getattr(request, name) is None}
    return replace(request, **values)


def draw(config: SampleConfig, requests: list[Any]) -> None:
    """Loads the model, draws all pictures and writes them."""
    import jax

    from flaxdream.compiler_options import configure_compiler
    from flaxdream.sampling.pictures import contact_sheet, save_png
    from flaxdream.sampling.pipeline import FlaxStableDiffusionPipeline
    from flaxdream.sampling.placement import local_mesh, on_every_device

    run_in_caller()
    configure_compiler(cache_dir=config.compilation_cache_dir, fast=config.fast_compile)
    for line in compile_notes(config, jax.default_backend()):
        print(line)
    start = time.perf_counter()
    pipeline, params = FlaxStableDiffusionPipeline.from_pretrained(
        config.pretrained_model_name_or_path,
        dtype=DTYPES[config.mixed_precision],
        revision=config.revision,
        variant=config.variant,
        token=config.hub_token,
        cache_dir=config.cache_dir,
        attention=config.attention,
        sharding=on_every_device(local_mesh()),
    )
    print(
        f"model loaded in {time.perf_counter() - start:.1f} s on {jax.device_count()} x {jax.devices()[0].device_kind}"
    )
    start = time.perf_counter()
    drawn = pipeline.draw(
        params,
        requests,
        guidance_rescale=config.guidance_rescale,
        sampler=config.sampler,
        clip_skip=config.clip_skip,
        batch_size=config.sample_batch_size,
        vae_tiling=config.vae_tiling,
    )
    seconds = time.perf_counter() - start

    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    first = first_free_number(folder)
    for number, (request, picture) in enumerate(zip(requests, drawn), start=first):
        settings = vars(request) | {"width": picture.width, "height": picture.height}
        settings |= {"model": config.pretrained_model_name_or_path, "sampler": config.sampler or "model's own"}
        settings |= {"guidance_rescale": config.guidance_rescale, "clip_skip": config.clip_skip}
        save_png(folder / f"{number:05d}-seed{request.seed}.png", picture, settings)
    sheet = folder / f"sheet-{first:05d}.png"
    captions = [f"{request.prompt} ({request.seed})" for request in requests]
    save_png(sheet, contact_sheet(drawn, captions), {"model": config.pretrained_model_name_or_path})
    print(f"{len(drawn)} pictures in {seconds:.1f} s, compiling included; all of them on one sheet: {sheet}")


def first_free_number(folder: Path) -> int:
    """One more than the highest number that a picture in the folder starts with; nothing is overwritten."""
    numbers = [int(path.name[:5]) for path in folder.glob("[0-9][0-9][0-9][0-9][0-9]-*.png")]
    return max(numbers, default=-1) + 1
