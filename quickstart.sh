#!/usr/bin/env bash
# From a fresh clone to a personalised model: makes .venv, installs flaxdream, teaches the built-in model a creature from
# five pictures (DreamBooth with prior preservation), and draws it in new places.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
out=${1:-out/quickstart}
if [ ! -x .venv/bin/flaxdream ]; then
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --upgrade pip
  .venv/bin/python -m pip install --quiet .
fi
.venv/bin/flaxdream dreambooth --config configs/dreambooth-cpu-quickstart.yaml --output_dir "$out" \
  --class_data_dir "$out/class-pictures"
.venv/bin/flaxdream sample --pretrained_model_name_or_path "$out" --output_dir "$out/pictures" \
  --prompts_file launch/quickstart/prompts.txt --num_inference_steps 25 --guidance_scale 3
echo "Look at $out/pictures/sheet-00000.png and open $out/report.html"
