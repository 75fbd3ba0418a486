"""Pictures per second and time to the first picture, beside PyTorch's pipeline.

    python -m tests.benchmarks.pipeline [--architecture tiny] [--steps 20] [--repeats 5]

Both sides draw the same pictures from the same folder, in float32 on the CPU, by turns in one process. The time
to the first picture is that of a fresh `flaxdream sample` process, with an empty and with a filled compilation cache.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "a photo of sks dog in a bucket"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(options.architecture, folder)
        first_picture(folder, options.steps)
        pictures_per_second(folder / "model", options.steps, options.repeats)


def write_model(architecture: str, folder: Path) -> None:
    from tests.twins import torch_pipeline

    torch_pipeline(architecture, folder / "tokenizer-files").save_pretrained(folder / "model")


def first_picture(folder: Path, steps: int) -> None:
    """Wall seconds of the whole command."""
    command = [
        *(sys.executable, "-m", "flaxdream", "sample", "--prompt", PROMPT, "--num_inference_steps", str(steps)),
        *("--pretrained_model_name_or_path", str(folder / "model"), "--output_dir", str(folder / "out")),
        *("--compilation_cache_dir", str(folder / "cache")),
    ]
    for cache in ("empty", "filled"):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        print(f"first picture, {cache} compilation cache: {time.perf_counter() - start:.1f} s")


def pictures_per_second(model: Path, steps: int, repeats: int) -> None:
    import diffusers
    import torch

    from flaxdream import FlaxStableDiffusionPipeline

    twin = diffusers.StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    twin.set_progress_bar_config(disable=True)
    pipeline, params = FlaxStableDiffusionPipeline.from_pretrained(model)

    def ours() -> None:
        pipeline.generate(PROMPT, params, num_inference_steps=steps, progress=False)

    def theirs() -> None:
        with torch.no_grad():
            twin(PROMPT, num_inference_steps=steps)

    seconds: dict[str, list[float]] = {"flaxdream": [], "torch": []}
    for repeat in range(repeats + 1):  # the first round warms up
        for name, call in (("flaxdream", ours), ("torch", theirs)):
            start = time.perf_counter()
            call()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        print(f"{name}: {1 / statistics.median(values):.3f} pictures/s (median of {repeats}, {steps} steps)")
    ratio = statistics.median(seconds["torch"]) / statistics.median(seconds["flaxdream"])
    print(f"pictures/s, flaxdream / torch: {ratio:.2f}")


if __name__ == "__main__":
    main()
