"""Plans that were made before, kept in files: the same question gets its answer at once."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import flaxdream
from flaxdream.planning.collectives import KINDS
from flaxdream.planning.memory import Memory
from flaxdream.planning.plan import Plan
from flaxdream.planning.request import Request
from flaxdream.planning.roofline import Estimate
from flaxdream.planning.topologies import ATTACHED

# Settings that change nothing of what is compiled.
_WITHOUT_EFFECT = (
    "pretrained_model_name_or_path", "revision", "variant", "cache_dir", "output_dir", "push_to_hub", "hub_model_id",
    "hub_private_repo", "compilation_cache_dir", "report_to", "logging_dir", "tracker_project_name",
    "instance_data_dir", "instance_prompt", "class_data_dir", "class_prompt", "train_data_dir", "dataset_name",
    "dataloader_num_workers", "checkpointing_steps", "resume_from_checkpoint", "seed",
)  # fmt: skip


def remembering(measure: Callable[[Request], Plan], request: Request) -> Plan:
    """`measure(request)`, or its answer of another time by the same code, compiler and machine."""
    folder = request.config.compilation_cache_dir
    if not folder or request.topology in ATTACHED:  # its devices may not be those of another time
        return measure(request)
    path = Path(folder).expanduser() / "plans" / f"{_key(request)}.json"
    if path.exists():
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    plan = measure(request)
    try:
        _write(path, plan)
    except OSError as error:
        print(f"This plan is not kept for another time: {path.parent}: {error.strerror}.", file=sys.stderr)
    return plan


def _write(path: Path, plan: Plan) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(plan.as_dict()), encoding="utf-8")
    part.rename(path)


def from_dict(values: dict[str, Any]) -> Plan:
    """The plan that `as_dict` wrote."""
    given = {name: value for name, value in values.items() if name != "images_per_second"}
    given["memory"] = None if given["memory"] is None else Memory(**given["memory"])
    numbers = given["estimate"]
    given["estimate"] = None if numbers is None else _estimate(numbers)
    given["collectives"] = {kind: tuple(pair) for kind, pair in given["collectives"].items() if kind in KINDS}
    return Plan(**given)


def _estimate(numbers: dict[str, float | None]) -> Estimate:
    known: dict[str, Any] = {name: float("nan") if value is None else value for name, value in numbers.items()}
    return Estimate(**known | {"scheduled_seconds": numbers["scheduled_seconds"]})


def _key(request: Request) -> str:
    values = json.loads(request.as_json())
    config = {name: value for name, value in values["config"].items() if name not in _WITHOUT_EFFECT}
    asked = json.dumps(values | {"config": config, "code": _code(), "versions": _versions()}, sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:32]


def _code() -> str:
    """A digest of the package's source."""
    root = Path(flaxdream.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in ("jax", "jaxlib", "libtpu", "flax", "optax"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = os.environ.get("TPU_LIBRARY_PATH", "none")
    flags = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    return found | flags
