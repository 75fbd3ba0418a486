"""The work of kernels that the compiler does not look into: Pallas on TPUs, cuDNN's attention on GPUs."""

from __future__ import annotations

import math
import re

from flaxdream.planning.hlo_text import Computation, Instruction

# Matrix products of the length of one attention, by a word of the kernel's name: forward q k^T and w v; the backward
# kernels compute the scores again.
_PRODUCTS = (("dkv", 4), ("dq", 3), ("flash_attention", 2))
_SCORES = re.compile(r'"intermediate_tensor_shape":\{[^{}]*"dimensions":\[([\d",]*)\]')  # b, n, l, s
_DECLARED = re.compile(r'"cost_estimate":\{[^}]*"flops":"?(\d+)')


def flops(instruction: Instruction, where: Computation) -> float:
    """Operations of a kernel, head widths as they are padded; 0 for all else.

    Attention kernels: 2 b n l s k for each of their products. Others: what they declare.
    """
    if "__cudnn$fmha" in instruction.rest:
        return _cudnn_attention(instruction, where)
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


def _cudnn_attention(instruction: Instruction, where: Computation) -> float:
    """Two products forward, five backward, which has the scores' sums but not the scores."""
    scores = _SCORES.search(instruction.rest.replace(" ", ""))
    if scores is None:
        return 0.0
    width = where.by_name[instruction.operands[0]].arrays[0].dims[-1]
    products = 5 if "Backward" in instruction.rest else 2
    return products * 2.0 * math.prod(int(size.strip('"')) for size in scores.group(1).split(",")) * width
