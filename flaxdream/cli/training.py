"""What the commands that train share: settings checked, compilation cache set, errors turned into exit codes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from flaxdream.cli.flags import parse_training
from flaxdream.cli.host_memory import run_in_caller
from flaxdream.config.checks import compile_notes

OUT_OF_MEMORY = (
    "The device's memory is too small for this. What helps, the cheapest first: --mixed_precision bf16, "
    "--gradient_checkpointing, a smaller --train_batch_size with more --gradient_accumulation_steps, --fsdp over "
    "several devices, --use_8bit_adam, --params_dtype bfloat16, --offload_ema, --offload_optimizer. flaxdream plan "
    "with the same flags, --topology and --advise tries them on a machine without the device."
)


def train(
    argv: Sequence[str],
    command: str,
    cls: type,
    problems: Callable[[Any], list[str]],
    notes: Callable[[Any], list[str]],
    function: str,
) -> int:
    """Runs `function` ("module:name" of a recipe) with the config that the flags make; returns the exit code."""
    config, translated, sources = parse_training(cls, argv, command, problems)
    import jax

    from flaxdream.compiler_options import configure_compiler
    from flaxdream.training.checkpoints import CheckpointNotSavedError
    from flaxdream.training.loop import DivergedError
    from flaxdream.training.processes import join_processes
    from flaxdream.training.recipes.publishing import NotUploadedError

    run_in_caller()
    configure_compiler(cache_dir=config.compilation_cache_dir, fast=config.fast_compile)
    join_processes()
    if jax.process_index() == 0:
        for line in (*sources, *translated, *notes(config), *compile_notes(config, jax.default_backend())):
            print(line)
    module, name = function.split(":")
    try:
        return getattr(importlib.import_module(module), name)(config)
    except (DivergedError, CheckpointNotSavedError, NotUploadedError) as error:
        print(f"flaxdream {command}: {error}", file=sys.stderr)
        return 1
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"flaxdream {command}: {str(error).splitlines()[0]}\n{OUT_OF_MEMORY}", file=sys.stderr)
        return 1
