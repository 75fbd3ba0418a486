#!/usr/bin/env bash
# From a fresh clone to pictures: makes .venv, installs flaxdream, writes a tiny model, draws a sheet of pictures.
# Until the built-in model exists, the weights are random and the pictures are noise; every step is the real one.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
out=${1:-out/quickstart}
if [ ! -x .venv/bin/flaxdream ]; then
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --upgrade pip
  .venv/bin/python -m pip install --quiet .
fi
if [ ! -f "$out/model/model_index.json" ]; then
  .venv/bin/flaxdream random_model --architecture tiny --output_dir "$out/model"
fi
.venv/bin/flaxdream sample --pretrained_model_name_or_path "$out/model" --output_dir "$out/pictures" \
  --prompts_file launch/prompts.txt --num_inference_steps 20
