#!/usr/bin/env bash
# Installs the package as a user would, in a new virtual environment of the interpreter given, and draws a picture.
#   tests/fresh_install.sh python3.12
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$1" -m venv "$folder/venv"
bin=$folder/venv/bin
"$bin/python" -m pip install --quiet --upgrade pip 2>&1 | grep -v WARNING || true
"$bin/python" -m pip install --quiet . 2>&1 | grep -v WARNING || true
cd "$folder"
"$bin/python" - <<'PYTHON'
import importlib.metadata, importlib.util, pkgutil, sys
import flaxdream
assert importlib.util.find_spec("torch") is None, "torch came with the package"
for module in pkgutil.walk_packages(flaxdream.__path__, "flaxdream."):
    if module.name != "flaxdream.__main__":
        importlib.import_module(module.name)
versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "diffusers", "transformers")}
print("Python", sys.version.split()[0], *(f"{name} {version}" for name, version in versions.items()))
PYTHON
"$bin/flaxdream" random_model --output_dir model
"$bin/flaxdream" sample --pretrained_model_name_or_path model --prompt "a fox" --num_inference_steps 3 \
  --output_dir pictures --compilation_cache_dir ""
test -f pictures/00000-seed0.png
