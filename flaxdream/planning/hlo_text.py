"""The compiler's text of a program, as computations of instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from flaxdream.planning.hlo_shapes import Array, arrays

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_NAME = re.compile(r"%([\w.\-]+)")
_COMMENT = re.compile(r"/\*[^*]*\*/")


@dataclass(frozen=True)
class Instruction:
    """`rest` is all that follows the operands: attributes and metadata."""

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    inside: str  # the text between the parentheses: a parameter's number, a constant's value
    rest: str
    is_root: bool

    @property
    def arrays(self) -> tuple[Array, ...]:
        return arrays(self.shape)

    def called(self, *attributes: str) -> list[str]:
        """Names of the computations under these attributes."""
        found: list[str] = []
        for attribute in attributes:
            match = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%[\w.\-]+)", self.rest)
            found += _NAME.findall(match.group(1)) if match else []
        return found


@dataclass(frozen=True)
class Computation:
    name: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who takes an instruction's result."""
        found: dict[str, list[Instruction]] = {}
        for instruction in self.instructions:
            for operand in dict.fromkeys(instruction.operands):
                found.setdefault(operand, []).append(instruction)
        return found

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        return {int(one.inside): one for one in self.instructions if one.opcode == "parameter"}

    @property
    def root(self) -> Instruction:
        return next((one for one in self.instructions if one.is_root), self.instructions[-1])


@dataclass(frozen=True)
class Module:
    computations: dict[str, Computation]
    entry: Computation


def parse(text: str) -> Module:
    """The module of `compiled.as_text()` or of a dumped file. ValueError if there is no entry computation."""
    found: dict[str, Computation] = {}
    entry = name = None
    body: list[Instruction] = []
    for line in text.splitlines():
        if name is None:
            head = _HEAD.match(line)
            if head:
                name, body = head.group(2), []
                entry = name if head.group(1) else entry
        elif line.startswith("}"):
            found[name] = Computation(name, tuple(body))
            name = None
        else:
            instruction = _instruction(line)
            if instruction is not None:
                body.append(instruction)
    if entry is None or entry not in found:
        raise ValueError(f"the compiler's text has no whole entry computation ({len(text)} characters)")
    return Module(found, found[entry])


def _instruction(line: str) -> Instruction | None:
    match = _LINE.match(line)
    if match is None:
        return None
    rest = line[match.end() :]
    shape, rest = _shape_and_rest(rest)
    opcode, opened, rest = rest.partition("(")
    if not opened:
        return None
    end = _closing(rest)
    inside = rest[:end]
    operands = tuple(_NAME.findall(_COMMENT.sub("", inside)))
    return Instruction(match.group(2), opcode.strip(), shape, operands, inside, rest[end + 1 :], bool(match.group(1)))


def _shape_and_rest(text: str) -> tuple[str, str]:
    """A tuple's shape ends with its own parenthesis, an array's with a blank."""
    if text.startswith("("):
        end = _closing(text[1:]) + 2
        return _COMMENT.sub("", text[:end]), text[end:].lstrip()
    shape, _, rest = text.partition(" ")
    return shape, rest


def _closing(text: str) -> int:
    """The place of the parenthesis that closes one opened before the text."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place
    return len(text)
