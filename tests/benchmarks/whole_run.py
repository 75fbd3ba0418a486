"""What a DreamBooth run costs beside its steps: `python -m tests.benchmarks.whole_run [--steps 60]`.

The quick start's settings on the built-in model, without class pictures and validation, in processes of their own:
seconds from the command to the first step with an empty and with a filled compilation cache, the median step, the
share of time spent waiting for data, what the steps cost that save a checkpoint, and peak memory. Then a checkpoint of
some gigabytes alone: how long training stands still for it, and when it is on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CONFIG = "configs/dreambooth-cpu-quickstart.yaml"
EVERY = 10  # steps from one checkpoint to the next


def run(folder: Path, name: str, steps: int) -> dict[str, float]:
    """One run; its numbers."""
    own = {
        "output_dir": folder / name, "compilation_cache_dir": folder / "compiled", "max_train_steps": steps,
        "checkpointing_steps": EVERY, "report_to": "none",
    }  # fmt: skip
    argv = [sys.executable, "-m", "flaxdream", "dreambooth", "--config", CONFIG, "--no_with_prior_preservation"]
    argv += ["--class_data_dir", "", "--validation_prompt", ""]
    argv = [*argv, *(f"--{key}={value}" for key, value in own.items())]
    began = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the run failed: {' '.join(argv)}")
    whole = time.perf_counter() - began
    summary = json.loads((folder / name / "summary.json").read_text())
    times = [json.loads(line)["time"] for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    gaps = np.diff(times)
    saving = [gap for step, gap in enumerate(gaps, 2) if step % EVERY == 1]  # a step is logged before it is saved
    plain = statistics.median(gap for step, gap in enumerate(gaps, 2) if step % EVERY > 2)
    return {
        "whole": whole,
        "first": summary["seconds_to_first_step"],
        "step": plain,
        "wait": summary["host_wait_share"],
        "saving": statistics.median(saving) - plain,
        "peak": usage.ru_maxrss / 1e6,
    }


def checkpoint(folder: Path, gigabytes: float) -> tuple[float, float]:
    """Seconds that a save takes of the caller, and until it is complete on the disk."""
    import jax.numpy as jnp

    from flaxdream.training.checkpoints import Checkpoints

    state = {str(i): jnp.full((int(gigabytes * 2.5e8 / 40),), i, jnp.float32) for i in range(40)}
    with Checkpoints(folder) as checkpoints:
        began = time.perf_counter()
        checkpoints.save(1, state, {})
        stall = time.perf_counter() - began
        checkpoints.wait()
        return stall, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for cache in ("empty", "filled"):
            found = run(folder, cache, options.steps)
            print(
                f"cache {cache:6s}: first step after {found['first']:.1f} s, all {found['whole']:.1f} s; a step "
                f"{found['step'] * 1e3:.0f} ms, {found['wait']:.1%} of the time waits for data; saving adds "
                f"{found['saving'] * 1e3:.0f} ms; peak {found['peak']:.2f} GB"
            )
        stall, done = checkpoint(folder / "checkpoints", options.gigabytes)
        print(f"checkpoint of {options.gigabytes:.1f} GB: a stop of {stall:.2f} s, complete after {done:.2f} s")


if __name__ == "__main__":
    main()
