"""`flaxdream dreambooth` as a user runs it, in processes of its own, on a tiny model and a few small pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from flaxdream.weights.safetensors import open_safetensors
from tests.training.smallest_model import write_smallest_model

WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


def make_inputs(folder: Path, class_pictures: int = 4) -> Path:
    """A model with random weights, five instance pictures and some class pictures."""
    write_smallest_model(folder / "model")
    for kind, count, colour in (("instance", 5, "orange"), ("class", class_pictures, "grey")):
        (folder / kind).mkdir()
        for number in range(count):
            picture = Image.new("RGB", (24, 20), (200, 220, 30 * number))
            ImageDraw.Draw(picture).ellipse((2 + number, 2, 15 + number, 15), fill=colour)
            picture.save(folder / kind / f"{number}.png")
    return folder


def arguments(inputs: Path, out: Path, **changes: Any) -> list[str]:
    """The command line, from the command's name on, of a short run with prior preservation."""
    settings = {
        "pretrained_model_name_or_path": inputs / "model",
        "instance_data_dir": inputs / "instance",
        "instance_prompt": "a photo of sks ball",
        "class_data_dir": inputs / "class",
        "class_prompt": "a photo of a ball",
        "with_prior_preservation": True,
        "prior_loss_weight": 0.5,
        "num_class_images": 4,
        "output_dir": out,
        "resolution": 16,
        "train_batch_size": 1,
        "max_train_steps": 4,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 0,
        "report_to": "none",
        "compilation_cache_dir": inputs / "compiled",
    } | changes
    argv = ["dreambooth"]
    for name, value in settings.items():
        argv += [] if value is None or value is False else [f"--{name}"] if value is True else [f"--{name}={value}"]
    return argv


def environment(devices: int = 1) -> dict[str, str]:
    """That of a new process with some fake devices, which keeps every compiled program."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "HF_HUB_OFFLINE": "1",
    }


def start(argv: list[str], devices: int = 1, log: Path | None = None) -> subprocess.Popen:
    """The command in a process of its own; what it prints goes to the file `log`."""
    command = [sys.executable, "-m", "flaxdream", *argv]
    if log is None:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment(devices), **pipes)
    with log.open("ab") as file:
        return subprocess.Popen(command, env=environment(devices), stdout=file, stderr=subprocess.STDOUT)


def finish(argv: list[str], devices: int = 1) -> str:
    """Runs the command to its end, which must be a good one, and returns what it printed."""
    with start(argv, devices) as process:
        text, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, text
    return text


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of the model in a folder, by component and name."""
    return {
        f"{component}.{name}": np.array(tensor.view())
        for component, file in WEIGHTS.items()
        for name, tensor in open_safetensors(folder / file).items()
    }


def weight_files(folder: Path) -> dict[str, bytes]:
    """The bytes of the model's weights."""
    return {component: (folder / file).read_bytes() for component, file in WEIGHTS.items()}


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, which must all be whole."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
