"""Floating-point operations of matrix products and convolutions, from the compiled program's own shapes."""

from __future__ import annotations

import math
import re
from functools import lru_cache

from flaxdream.planning.hlo_shapes import Array
from flaxdream.planning.hlo_text import Computation, Instruction

_FIELD = re.compile(r"(\w+)=([\dx_\-]+)")


def flops_of_product(instruction: Instruction, where: Computation) -> float:
    """2 x the multiplications; 0 for what is no product. Products with zeros of the padding are not counted."""
    if instruction.opcode == "dot":
        return _dot(instruction, where)
    if instruction.opcode == "convolution" or "dim_labels=" in instruction.rest:  # cuDNN's custom calls have them too
        return _convolution(instruction, where)
    if instruction.opcode == "custom-call" and "__cublas" in instruction.rest:
        return _cublas(instruction, where)
    return 0.0


def _operands(instruction: Instruction, where: Computation) -> list[Array]:
    known = (where.by_name.get(name) for name in instruction.operands)
    return [one.arrays[0] for one in known if one is not None and one.arrays]


def _dot(instruction: Instruction, where: Computation) -> float:
    left = _operands(instruction, where)[0]
    axes = _numbers(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
    return 2.0 * instruction.arrays[0].elements * math.prod(left.dims[axis] for axis in axes)


def _cublas(instruction: Instruction, where: Computation) -> float:
    left = _operands(instruction, where)[0]
    axes = _numbers(r'"lhs_contracting_dimensions":\[([\d",]*)\]', instruction.rest.replace(" ", ""))
    return 2.0 * instruction.arrays[0].elements * math.prod(left.dims[axis] for axis in axes)


def _numbers(pattern: str, text: str) -> list[int]:
    match = re.search(pattern, text)
    return [int(number) for number in match.group(1).replace('"', "").split(",") if number] if match else []


def _convolution(instruction: Instruction, where: Computation) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    operands = _operands(instruction, where)
    if labels is None or len(operands) < 2:
        return 0.0
    of_left, of_right, of_out = labels.groups()
    left, right, out = operands[0], operands[1], instruction.arrays[0]
    if "__cudnn$convBackward" in instruction.rest:  # its labels are the forward convolution's, not the operands'
        left, right, out = _forward_roles(instruction.rest, left, right, out)
    window = re.search(r"window=\{([^}]*)\}", instruction.rest)
    fields = dict(_FIELD.findall(window.group(1))) if window else {}
    spatial = sorted(label for label in of_out if label.isdigit())
    places = 1
    for number, label in enumerate(spatial):
        places *= _valid(
            out.dims[of_out.index(label)],
            left.dims[of_left.index(label)],
            right.dims[of_right.index(label)],
            _pick(fields, "stride", number, "1"),
            _pick(fields, "pad", number, "0_0"),
            _pick(fields, "lhs_dilate", number, "1"),
            _pick(fields, "rhs_dilate", number, "1"),
        )
    rows, features = out.dims[of_out.index("b")], out.dims[of_out.index("f")]
    return 2.0 * places * rows * features * right.dims[of_right.index("i")]


def _forward_roles(text: str, left: Array, right: Array, out: Array) -> tuple[Array, Array, Array]:
    """Input, kernel and result of the forward convolution that cuDNN's backward calls are described by."""
    if "BackwardInput" in text:
        return out, right, left
    return left, out, right


def _pick(fields: dict[str, str], name: str, number: int, default: str) -> str:
    return fields[name].split("x")[number] if name in fields else default


@lru_cache(maxsize=4096)
def _valid(out: int, left: int, size: int, stride: str, pad: str, left_dilation: str, dilation: str) -> int:
    """Pairs of an output place and a tap that meet an input place, along one axis."""
    step, spread, tap_step, low = int(stride), int(left_dilation), int(dilation), int(pad.split("_")[0])
    last = (left - 1) * spread
    count = 0
    for tap in range(size):
        offset = tap * tap_step - low
        if spread == 1:  # places with 0 <= place * step + offset <= last
            first = max(0, -(offset // step))
            count += max(0, min(out - 1, (last - offset) // step) - first + 1)
        else:
            count += sum(1 for place in range(out) if 0 <= (at := place * step + offset) <= last and at % spread == 0)
    return count
