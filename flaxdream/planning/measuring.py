"""Compiles in a process of its own, which for TPUs is ended as soon as the memory is planned.

Of a compile for a TPU 80 to 95 % of the time is code generation; all but the program's size is known before it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxdream.planning.buffers import Buffers, from_dump
from flaxdream.planning.plan import Compiled, Facts, Plan, make_plan
from flaxdream.planning.refusals import Refusal
from flaxdream.planning.request import Request
from flaxdream.planning.topologies import ATTACHED, Chip, Topology

_PLANNED = "*.after_optimizations_after_buffer_assignment.txt"  # the last file before code generation
_REFUSED = "*.after_optimizations.txt"  # what there is of a program that does not fit
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
_POLL = 0.5  # seconds


class CompileError(RuntimeError):
    """The process that compiles ended without an answer."""


def has_tpu_compiler() -> bool:
    """Whether libtpu is installed, or the environment names its file."""
    return importlib.util.find_spec("libtpu") is not None or bool(os.environ.get("TPU_LIBRARY_PATH"))


def require_tpu_compiler() -> None:
    """ValueError where the TPU compiler is not installed."""
    if not has_tpu_compiler():
        raise ValueError(
            "Plans for TPUs need the TPU compiler, which runs on any Linux machine: pip install 'flaxdream[tpu]'. "
            "--topology cpu or gpu plans for this machine without it."
        )


def measure(request: Request) -> Plan:
    """The plan of a request. Raises ValueError for settings that cannot be, CompileError when the compiler fails."""
    command = [sys.executable, "-m", "flaxdream.planning.child"]
    for_tpu = request.topology not in ATTACHED
    return measured_by(command, request.as_json(), request.config.mixed_precision, for_tpu=for_tpu, full=request.full)


def measured_by(command: Sequence[str], asked: str, mixed_precision: str, *, for_tpu: bool, full: bool) -> Plan:
    """The plan of what the command compiles: it gets a folder with request.json, and writes as `compiling.answer`."""
    if for_tpu:
        require_tpu_compiler()
    with tempfile.TemporaryDirectory(prefix="flaxdream-plan-") as name:
        folder = Path(name)
        (folder / "request.json").write_text(asked, encoding="utf-8")
        environment = _environment(folder) if for_tpu else dict(os.environ)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.STDOUT}  # the input ends with us
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen([*command, name], stdout=log, env=environment, **pipes) as child,
        ):
            try:
                early = _wait(child, folder, stop_early=for_tpu and not full)
                code = child.poll() or 0
            finally:
                child.kill()
        return _answer(folder, early, code, mixed_precision)


def _environment(folder: Path) -> dict[str, str]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={folder / 'dump'} --xla_dump_hlo_as_text=true"
    return {**os.environ, **_ENVIRONMENT, "XLA_FLAGS": flags.strip()}


def _wait(child: subprocess.Popen[bytes], folder: Path, *, stop_early: bool) -> float | None:
    """Until the child ends, or the memory is planned; then the seconds from its lowering to that."""
    facts_at = None
    while child.poll() is None:
        time.sleep(_POLL)
        if facts_at is None and (folder / "facts.json").exists():
            facts_at = time.monotonic()
        if stop_early and facts_at is not None and _is_whole(folder / "dump"):
            time.sleep(4 * _POLL)  # a refusal, if there is one, follows at once
            if not (folder / "compiled.json").exists():
                return time.monotonic() - facts_at
    return None


def _is_whole(dump: Path) -> bool:
    found = _largest(dump, _PLANNED)
    if found is None or not all(path.exists() for path in _beside(found)):
        return False
    with found.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 16))
        return file.read().rstrip().endswith(b"}")


def _largest(dump: Path, pattern: str) -> Path | None:
    return max(dump.glob(pattern), key=lambda path: path.stat().st_size, default=None)


def _ending(code: int) -> str:
    """How a process ended that did not do so by itself."""
    if code == -signal.SIGKILL:
        return "It was ended by signal 9: most often this machine has too little memory for the compiler; free some."
    return f"It was ended by signal {-code}." if code < 0 else ""


def _answer(folder: Path, early: float | None, code: int, mixed_precision: str) -> Plan:
    if (folder / "error.json").exists():
        raise ValueError(json.loads((folder / "error.json").read_text())["message"])
    if early is None and not (folder / "compiled.json").exists():
        log = (folder / "log").read_text(errors="replace").strip().splitlines()
        raise CompileError("\n".join(["the compiler failed:", *log[-15:], _ending(code)]).strip())
    values = json.loads((folder / "facts.json").read_text())
    machine: dict[str, Any] = values["machine"]
    topology = Topology(**machine | {"chip": Chip(**machine["chip"])})
    compiled = _compiled(folder) if early is None else Compiled(*_dumped(folder), None, early, False)
    return make_plan(Facts(**values["facts"]), compiled, topology, mixed_precision)


def _compiled(folder: Path) -> Compiled:
    values = json.loads((folder / "compiled.json").read_text())
    refused = None if values["refusal"] is None else Refusal(**values["refusal"])
    text, buffers = _dumped(folder)
    if refused is None:
        text = (folder / "module.txt").read_text(encoding="utf-8")
        buffers = _buffers(values["buffers"])
    return Compiled(text, buffers, refused, values["seconds"], values["has_code"])


def _buffers(values: dict[str, Any]) -> Buffers:
    numbered = {
        name: {int(key): size for key, size in values[name].items()} for name in ("arguments", "host_arguments")
    }
    return Buffers(**values | numbered)


def _dumped(folder: Path) -> tuple[str | None, Buffers | None]:
    """The program and its memory as far as the compiler wrote them down."""
    program = _largest(folder / "dump", _PLANNED) or _largest(folder / "dump", _REFUSED)
    if program is None:
        return None, None
    assignment, usage = _beside(program)
    if not (assignment.exists() and usage.exists()):
        return None, None
    buffers = from_dump(assignment.read_text(encoding="utf-8"), usage.read_text(encoding="utf-8"))
    return program.read_text(encoding="utf-8"), buffers


def _beside(program: Path) -> tuple[Path, Path]:
    """The files of the buffers and of the memory's use that belong to a program's."""
    stem = program.name.partition(".after_optimizations")[0]
    names = ("buffer-assignment", "memory-usage-report")
    assignment, usage = (program.with_name(f"{stem}.after_optimizations-{name}.txt") for name in names)
    return assignment, usage
