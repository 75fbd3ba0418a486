"""Compiles a program on this machine's JAX, for its own devices or for a TPU that is not here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax

from flaxdream.config.dreambooth import DreamBoothConfig
from flaxdream.config.text_to_image import TextToImageConfig
from flaxdream.config.training import TrainConfig
from flaxdream.planning.buffers import from_analysis
from flaxdream.planning.hlo_text import parse
from flaxdream.planning.plan import Compiled, Facts
from flaxdream.planning.programs import Assumed, Program, encode_program, sample_program, train_program
from flaxdream.planning.refusals import refusal
from flaxdream.planning.request import Request
from flaxdream.planning.topologies import ATTACHED, Topology, attached, find
from flaxdream.training.mesh import make_mesh


def devices_of(name: str) -> tuple[Topology, Sequence[jax.Device]]:
    """The machine of this name and its devices: this one's, or those that the TPU compiler makes up."""
    if name not in ATTACHED:
        from jax.experimental import topologies

        machine = find(name)
        described = topologies.get_topology_desc(topology_name=machine.layout, platform="tpu", **machine.options)
        return machine, described.devices
    try:
        devices = jax.devices(name)
    except RuntimeError as error:
        raise ValueError(f"--topology {name}: JAX finds no such device here ({error}).") from None
    stats = devices[0].memory_stats() or {}
    return attached(name, devices[0].device_kind, len(devices), stats.get("bytes_limit")), devices


def make_program(request: Request, devices: Sequence[jax.Device]) -> Program:
    """The program of a request on these devices."""
    config = request.config
    mesh = make_mesh(config.fsdp, devices)
    if request.program == "encode":
        return encode_program(config, request.configs, mesh)
    if request.program == "sample":
        return sample_program(config, request.configs, mesh)
    return train_program(config, request.configs, mesh, assumed(config, request.caption_count))


def assumed(config: TrainConfig, caption_count: int) -> Assumed:
    """What the settings say of the pictures. Pictures are taken to leave room for other crops."""
    crops = config.random_flip or not config.center_crop
    varies = isinstance(config, TextToImageConfig) and bool(config.shuffle_caption or config.caption_tag_dropout_rate)
    prior = isinstance(config, DreamBoothConfig) and config.with_prior_preservation
    wanted = config.cache_latents == "yes" or config.latents_cache_dir is not None
    cached = wanted or (config.cache_latents == "auto" and not crops)
    return Assumed(caption_count + prior, varies, prior, cached)


def lower(program: Program) -> tuple[Any, Facts]:
    """Traced and lowered, and what is known so far."""
    began = time.perf_counter()
    lowered = program.lower()
    seconds = time.perf_counter() - began
    return lowered, Facts(program.name, program.arguments, program.images, program.trained, seconds)


def compile_lowered(lowered: Any) -> Compiled:
    """Compiled to the end; a program that does not fit is a Refusal, not an error."""
    began = time.perf_counter()
    try:
        done = lowered.compile()
    except Exception as error:  # the class of XLA's errors has no public name
        refused = refusal(str(error))
        if refused is None:
            raise
        return Compiled(None, None, refused, time.perf_counter() - began, False)
    seconds = time.perf_counter() - began
    text = done.as_text()
    return Compiled(text, from_analysis(done.memory_analysis(), parse(text)), None, seconds, True)
