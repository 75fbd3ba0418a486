"""What the compiler is told beside the program, in one place, with what it was seen to change.

For SD 1.5 at 512 x 512 in bfloat16, as `flaxdream plan` estimates it; the step is DreamBooth's, `fsdp` over 8 chips:

    no space to batch                   v3              v4              v5e             v6e
    step, 1 picture a chip, ms          93.0 -> 79.9    13.6 -> 13.2    22.0 -> 21.7    7.8 -> 7.5
    step, 4 pictures a chip, ms                         47.8 -> 41.3    73.0 -> 61.6    20.6 -> 16.6
    20 steps of the sampler, ms         1058 -> 1029                    291 -> 246      70 -> 58
    4 pictures encoded, ms                                              97 -> 31
    TFLOP a picture, the model's 2.41   2.91 -> 2.59    2.73 -> 2.40    2.73 -> 2.40    2.73 -> 2.41

    no windowed products
    step, 4 pictures a chip, ms                                         77 -> 74        26 -> 22

and compiled to the end, for v5e and 4 pictures a chip:

                                        the compiler's work    program          its cycles
    short programs                      1180 -> 804 CPU s      732 -> 593 MiB   190 -> 190 ms
    no space to batch, calls            739 -> 644 CPU s       593 -> 234 MiB   190 -> 151 ms
    fast compile                        635 -> 364 CPU s       234 -> 141 MiB   151 -> 170 ms
    fast compile, v6e                   825 -> 441 CPU s       198 -> 123 MiB    72 ->  87 ms

On CPUs, measured on two cores with AVX-512: a training step of a small UNet, and the exponential of 1024 x 512 numbers:

    wide vectors                        465 -> 431 ms          173 -> 88 us
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

# A product whose operand or result is spread over devices would else be cut into one for each device, so that
# transfers hide behind them: each reads the same activations again. Transfers hide behind other work here.
_NO_WINDOWED_PRODUCTS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}

# Of the ways to cut a convolution or product into tiles, the shortest program that reaches this share of the best
# one's speed: half the time that a convolution takes to compile, for 1 % more cycles.
_SHORT_PROGRAMS = {"xla_jf_convolution_performance_target": "0.97"}

# Convolutions of few large pictures would else be cut along the picture into more and smaller rows, with a border
# each that is computed twice, and passes over memory that cut and join. Either alone changes nothing.
_NO_SPACE_TO_BATCH = {"xla_tpu_run_space_to_batch": "false", "xla_tpu_run_space_to_batch_on_new_platforms": "false"}

# Equal operations are one routine that is called, not a copy of the code each.
_CALLS = {"xla_tpu_enable_deduplicated_calls": "true"}

# Shorter programs yet, for who waits longer for the compiler than for the steps (`--fast_compile`): tiles of less
# memory need less code. The chips whose programs are given twice the memory for tiles keep twice as much.
_FAST = {"xla_jf_convolution_performance_target": "0.93", "xla_tpu_scoped_vmem_limit_kib": "6144"}
_FAST_LARGE_TILES = _FAST | {"xla_tpu_scoped_vmem_limit_kib": "12288"}
_SMALL_TILES = re.compile(r"v[234]\b|v5 lite|v5e")

# XLA's own loops would else use half of a vector register, although its products and PyTorch's use all of it. CPUs
# that have no such registers are not touched by it.
_CPU = {"xla_cpu_prefer_vector_width": "512"}

_TPU = _NO_WINDOWED_PRODUCTS | _SHORT_PROGRAMS | _NO_SPACE_TO_BATCH | _CALLS
_REFUSED = re.compile(r"(?:No such compile option: '|Failed to parse '[^']*' into flag )(\w+)")
_unknown: set[str] = set()
_fast = False

Result = TypeVar("Result")


def configure_compiler(*, cache_dir: str | None, fast: bool) -> None:
    """From now on compiled programs are kept in the folder, if one is given, and compiled fast, if they are for TPUs.

    A fast compile makes programs that run slower: see above.
    """
    global _fast
    if cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path(cache_dir).expanduser()))
    _fast = fast


def compiler_options(device: jax.Device) -> dict[str, str]:
    """The options of a compile for devices like this one."""
    options = {"tpu": _TPU, "cpu": _CPU}.get(device.platform, {})
    if device.platform == "tpu" and _fast:
        options = options | (_FAST if _SMALL_TILES.search(device.device_kind) else _FAST_LARGE_TILES)
    return {name: value for name, value in options.items() if name not in _unknown}


def with_options(device: jax.Device, compiled: Callable[[dict[str, str]], Result]) -> Result:
    """`compiled(options)` with the device's options, less those that this version of the compiler does not take."""
    while True:
        options = compiler_options(device)
        try:
            return compiled(options)
        except Exception as error:  # the class of XLA's errors has no public name
            refused = _REFUSED.search(str(error))
            if refused is None or refused[1] not in options:
                raise
            _unknown.add(refused[1])
            print(
                f"This version of the compiler does not take the option {refused[1]}: goes on without it, "
                "maybe slower or in more memory than planned.",
                file=sys.stderr,
            )


class ToldJit:
    """`jax.jit` with these settings, whose compiler is told the options of JAX's devices.

    Within another compiled function it is part of that: options are for a whole program.
    """

    def __init__(self, function: Callable[..., Any], **settings: Any):
        functools.update_wrapper(self, function)
        self.plain = jax.jit(function, **settings)
        self._told = functools.cache(lambda options: jax.jit(function, compiler_options=dict(options), **settings))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        def call(options: dict[str, str]) -> Any:
            if not options or _is_traced((arguments, named)):
                return self.plain(*arguments, **named)
            return self._told(tuple(options.items()))(*arguments, **named)

        return with_options(jax.devices()[0], call)

    def lower(self, *arguments: Any, **named: Any) -> Any:
        """As `jax.jit(function).lower`; its `compile` takes the options of the devices that it is for."""
        return self.plain.lower(*arguments, **named)


def _is_traced(arguments: Any) -> bool:
    """Whether this is within a transformed function, whose constants are traced too where it is compiled."""
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments))
    return traced or isinstance(jnp.asarray(0), jax.core.Tracer)
