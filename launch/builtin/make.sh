#!/usr/bin/env bash
# The built-in model from nothing: drawings, composites, VAE, UNet and text encoder, the folder that ships.
#   launch/builtin/make.sh WORK     needs npm and flaxdream; about four hours on two CPU cores
# Each training goes on where it stopped when the script is started again.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$1
python=${PYTHON:-python3}
mkdir -p "$work"
[ -d "$work/drawings/drawings" ] || launch/builtin/fetch.sh "$work/drawings"
[ -d "$work/data" ] || "$python" -m launch.builtin.compose "$work/drawings" "$work/data" --views 60
[ -d "$work/data-102" ] || "$python" -m launch.builtin.compose "$work/drawings" "$work/data-102" --first 102
[ -d "$work/base" ] || flaxdream random_model --architecture builtin --output_dir "$work/base"
[ -f "$work/vae/summary.json" ] || flaxdream vae --config configs/builtin-vae.yaml \
  --pretrained_model_name_or_path "$work/base" --train_data_dir "$work/data/train" \
  --held_out_data_dir "$work/data/validation" --output_dir "$work/vae" --resume_from_checkpoint latest
[ -f "$work/model/summary.json" ] || flaxdream text_to_image --config configs/builtin-model.yaml \
  --pretrained_model_name_or_path "$work/vae" --train_data_dir "$work/data-102/train" \
  --held_out_data_dir "$work/data-102/validation" --output_dir "$work/model" --resume_from_checkpoint latest
[ -f "$work/decoder/summary.json" ] || flaxdream vae --config configs/builtin-decoder.yaml \
  --pretrained_model_name_or_path "$work/model" --train_data_dir "$work/data/train" \
  --held_out_data_dir "$work/data/validation" --output_dir "$work/decoder" --resume_from_checkpoint latest
# A second round with a fresh rate: things that a first one of 9,900 steps leaves soft get their shape.
[ -f "$work/more/summary.json" ] || flaxdream text_to_image --config configs/builtin-model.yaml \
  --pretrained_model_name_or_path "$work/decoder" --train_data_dir "$work/data-102/train" \
  --held_out_data_dir "$work/data-102/validation" --output_dir "$work/more" --resume_from_checkpoint latest \
  --learning_rate 7e-4 --lr_warmup_steps 100 --max_train_steps 5000 --seed 1 --held_out_loss_steps 1000
"$python" -m launch.builtin.pack "$work/more" "$work/data-102" "$work/builtin"
flaxdream sample --pretrained_model_name_or_path "$work/builtin" --prompts_file launch/builtin/prompts.txt \
  --output_dir "$work/sheet" --num_inference_steps 50 --guidance_scale 4 --sampler ddim --sample_batch_size 16
