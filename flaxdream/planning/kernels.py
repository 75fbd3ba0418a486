"""The work of Pallas kernels, of which the compiler counts only what a kernel itself declares."""

from __future__ import annotations

import re

from flaxdream.planning.hlo_text import Computation, Instruction

# Matrix products of the length of one attention, by a word of the kernel's name: forward q k^T and w v; the backward
# kernels compute the scores again.
_PRODUCTS = (("dkv", 4), ("dq", 3), ("flash_attention", 2))
_DECLARED = re.compile(r'"cost_estimate":\{[^}]*"flops":"?(\d+)')


def flops(instruction: Instruction, where: Computation) -> float:
    """Operations of a Pallas kernel, head widths as they are padded; 0 for all else.

    Attention kernels: 2 b n l s k for each of their products. Others: what they declare.
    """
    if instruction.opcode != "custom-call" or "tpu_custom_call" not in instruction.rest:
        return 0.0
    name = re.search(r'op_name="([^"]*)"', instruction.rest)
    words = (name.group(1) if name else "") + " " + instruction.name
    if "flash" in words:
        products = next((count for word, count in _PRODUCTS if word in words), 2)
        return products * _one_product(instruction, where)
    declared = _DECLARED.search(instruction.rest)
    return float(declared.group(1)) if declared else 0.0


def _one_product(instruction: Instruction, where: Computation) -> float:
    """From q [b, n, l, k] and k [b, n, s, k], the first two operands."""
    q, keys = (where.by_name[name].arrays[0] for name in instruction.operands[:2])
    b, n, length, width = q.dims
    return 2.0 * b * n * length * keys.dims[2] * width
