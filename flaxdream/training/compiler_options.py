"""What the compiler is told beside the program, in one place, with what it was seen to change.

Compiled for SD 1.5's DreamBooth step at 512 x 512, bfloat16, `fsdp` over 8 chips, 4 pictures a chip (roofline
milliseconds a picture, as `flaxdream plan` estimates them):

    option                       v5e            v6e
    no windowed products         19.2 -> 18.5   6.5 -> 5.4

and compiled to the end, for v5e:

    option                       the compiler's work    program          the compiler's cycles
    short programs               1180 -> 804 CPU s      732 -> 593 MiB   190 -> 190 ms
"""

from __future__ import annotations

# A product whose operand or result is spread over devices would else be cut into one for each device, so that
# transfers hide behind them: each reads the same activations again. Transfers hide behind other work here.
_NO_WINDOWED_PRODUCTS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}

# Of the ways to cut a convolution or product into tiles, the shortest program that reaches this share of the best
# one's speed: half the time that a convolution takes to compile, for 1 % more cycles.
_SHORT_PROGRAMS = {"xla_jf_convolution_performance_target": "0.97"}


def compiler_options(platform: str) -> dict[str, str]:
    """The options of a training step's compile for devices of a platform (`jax.Device.platform`)."""
    return _NO_WINDOWED_PRODUCTS | _SHORT_PROGRAMS if platform == "tpu" else {}
