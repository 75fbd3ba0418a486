"""The house rules, read from the source: who imports whom, which room knows which library, and names.

A breach is printed as `file:line`. The tables are the design's; a change here is a change of the design.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flaxdream

PACKAGE = Path(flaxdream.__file__).parent

# Each room, and the other rooms of ours that it may import.
ROOMS = {
    "config": set(),
    "arrays": set(),
    "diffusion": {"arrays"},
    "models": {"arrays"},
    "weights": {"arrays", "models"},
    "data": {"arrays", "config"},
    "sampling": {"arrays", "diffusion", "models", "weights"},
    "training": {"config", "arrays", "diffusion", "models", "weights", "data", "sampling", "planning"},
    "planning": {"config", "arrays", "diffusion", "models", "weights", "data", "sampling", "training"},
    "__main__": {"cli"},
    "cli": {"config", "arrays", "diffusion", "models", "weights", "data", "sampling", "training", "planning"},
}
# Each walled library, and where alone it may be imported. The rooms that write pictures hold PIL in one file.
WALLS = {
    "flax": ("models/",),
    "PIL": ("data/images.py", "sampling/pictures.py"),
    "safetensors": ("weights/",),
    "huggingface_hub": ("weights/",),
    "wandb": ("training/trackers.py",),
    "tyro": ("cli/",),
    "yaml": ("cli/", "config/"),
    "torch": (),
}
WITHOUT_JAX = ("data/", "config/")
WITHOUT_MODELS = ("training/step.py", "training/loop.py")
NNX_MERGE_HOME = "models/network.py"  # nnx.merge pairs leaves by sorted key: one place takes care of "10" < "2"
UNUSED_NNX = ("jit", "grad", "value_and_grad", "vmap", "scan", "pmap", "Optimizer", "EMA", "LoRA")
NAMELESS_FILES = ("utils.py", "helpers.py", "common.py")
SLOW_TO_IMPORT = ("jax", "flax", "orbax", "optax", "torch", "diffusers", "transformers", "datasets")


def imports(path: Path, root: Path) -> list[tuple[int, str]]:
    """Line and full dotted name of every import in the file, wherever in it; relative ones resolved."""
    package = ("flaxdream", *path.relative_to(root).parent.parts)
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join((*start, node.module) if node.module else start)
            found += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
    return found


def import_breach(file: str, name: str) -> str | None:
    """Why the file, a path inside the package, may not import the name; None if it may."""
    top, *rest = name.split(".")
    if top == "flaxdream":
        here, there = Path(file).parts[0].removesuffix(".py"), rest[0] if rest else ""
        if there in ROOMS and here != there and there not in ROOMS.get(here, set()):
            return f"{here} may import {sorted(ROOMS.get(here, set())) or 'no room of ours'}, not {there}"
        return "it runs functions that a recipe hands it" if file in WITHOUT_MODELS and there == "models" else None
    if top in WALLS and not file.startswith(WALLS[top] or "nowhere"):
        return f"{top} belongs in {' and '.join(WALLS[top]) or 'the tests alone'}"
    return "there is no jax in this room" if top == "jax" and file.startswith(WITHOUT_JAX) else None


def source_breaches(file: str, tree: ast.AST) -> list[tuple[int, str]]:
    """Dataclasses that can be changed, random keys that are called rng, and parts of NNX that are not used."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            marks = [ast.unparse(mark) for mark in node.decorator_list]
            if any("dataclass" in mark and "frozen=True" not in mark for mark in marks):
                found.append((node.lineno, f"dataclass {node.name} is not frozen"))
        elif isinstance(node, ast.arg) and node.arg == "rng":
            found.append((node.lineno, "a random key is called key, not rng"))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "nnx":
            if node.attr in UNUSED_NNX:
                found.append((node.lineno, f"nnx.{node.attr} is not used here; jax has it for plain dicts"))
            elif node.attr == "merge" and file != NNX_MERGE_HOME:
                found.append((node.lineno, f"the only nnx.merge is that of {NNX_MERGE_HOME}"))
    return found


def breaches(root: Path) -> list[str]:
    """`file:line: reason` for all that breaks the rules in the package whose folder is `root`."""
    found = []
    for path in sorted(root.rglob("*.py")):
        file = path.relative_to(root).as_posix()
        if path.name in NAMELESS_FILES:
            found.append(f"{file}:1: a file is named for what it holds, not {path.name}")
        reasons = [(line, import_breach(file, name)) for line, name in imports(path, root)]
        reasons += source_breaches(file, ast.parse(path.read_text(encoding="utf-8")))
        found += [f"{file}:{line}: {reason}" for line, reason in sorted(set(reasons), key=str) if reason]
    return found


def test_the_package_keeps_the_house_rules():
    found = breaches(PACKAGE)
    assert not found, "\n" + "\n".join(f"flaxdream/{breach}" for breach in found)


@pytest.mark.parametrize(
    ("file", "source", "reason"),
    [
        ("diffusion/samplers/ddim.py", "from flaxdream.models.unet import unet", "diffusion may import ['arrays']"),
        ("diffusion/samplers/ddim.py", "from ...weights import names", "diffusion may import ['arrays']"),
        ("models/unet.py", "from flaxdream import weights", "models may import ['arrays'], not weights"),
        ("weights/hub.py", "def f():\n    import flaxdream.sampling.pipeline", "not sampling"),
        ("training/loop.py", "import flaxdream.cli", "not cli"),
        ("training/step.py", "from flaxdream.models import build", "a recipe hands it"),
        ("config/training.py", "from flaxdream import arrays", "no room of ours"),
        ("sampling/pipeline.py", "import flax.nnx", "flax belongs in models/"),
        ("sampling/pipeline.py", "from PIL import Image", "PIL belongs in"),
        ("models/unet.py", "import safetensors.numpy", "safetensors belongs in weights/"),
        ("weights/hub.py", "import torch", "torch belongs in the tests alone"),
        ("data/loader.py", "import jax.numpy as jnp", "no jax in this room"),
        ("config/training.py", "from jax import Array", "no jax in this room"),
        ("training/utils.py", "", "named for what it holds"),
        ("training/state.py", "@dataclass\nclass State: pass", "State is not frozen"),
        ("models/clip.py", "step = nnx.jit(f)", "nnx.jit is not used"),
        ("models/clip.py", "module = nnx.merge(graphdef, params)", "only nnx.merge is that of models/network.py"),
        ("models/vae.py", "def sample(rng): pass", "called key, not rng"),
    ],
)
def test_each_rule_finds_its_breach_and_names_file_and_line(tmp_path, file, source, reason):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(source)
    (breach,) = breaches(tmp_path)
    assert breach.startswith(f"{file}:") and reason in breach


def test_what_the_table_allows_is_no_breach(tmp_path):
    for file, source in {
        "models/network.py": "from flax import nnx\nfrom flaxdream.arrays import Array",
        "models/unet.py": "from .network import Network\nfrom . import network",
        "weights/hub.py": "import huggingface_hub\nfrom flaxdream.models import build",
        "cli/sample.py": "import tyro\nfrom flaxdream.training.recipes import dreambooth\nimport jax",
        "config/yaml_file.py": "import yaml",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(source)
    assert breaches(tmp_path) == []


def test_the_help_of_the_command_imports_no_jax_and_nothing_else_that_is_slow():
    program = (
        "import sys, flaxdream.cli\n"
        "assert flaxdream.cli.main(['--help']) == 0\n"
        f"sys.exit(repr(sorted(set({SLOW_TO_IMPORT}) & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.stderr.strip() == "[]"
    assert "usage" in done.stdout
