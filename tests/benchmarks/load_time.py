"""Load time and peak host memory of a model: `python -m tests.benchmarks.load_time [sd15|sd21|tiny] [float16|float32]`.

Writes random weights of the true shapes to a temporary folder, then loads them in fresh processes, once for each
type of the parameters. The files are in the page cache by then.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NETWORKS = ("unet", "vae", "text_encoder")


def write(folder: Path, architecture: str, dtype: str) -> int:
    """A model folder with random weights, made a network at a time; the size of its weights in bytes."""
    import jax.numpy as jnp
    import numpy as np

    from flaxdream.models import build
    from flaxdream.models.architectures import ARCHITECTURES
    from flaxdream.weights import names
    from flaxdream.weights.safetensors import Entry, write_entries

    noise = np.random.default_rng(0).standard_normal(2**20).astype(jnp.dtype(dtype))
    size = 0
    for name in NETWORKS:
        config = ARCHITECTURES[architecture][name]
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        shapes = dict(names.leaves(build(config).shapes))
        named = names.file_names(shapes)
        entries = {}
        for path, leaf in shapes.items():
            shape = names.file_shape(path, leaf.shape)
            entries[named[path]] = Entry(noise.dtype, shape, lambda shape=shape: np.resize(noise, shape))
        write_entries(
            folder / name / f"{'' if name == 'text_encoder' else 'diffusion_pytorch_'}model.safetensors", entries
        )
        size += sum(file.stat().st_size for file in (folder / name).glob("*.safetensors"))
    return size


def load(folder: Path, dtype: str) -> None:
    """Loads all networks and prints what it took as JSON."""
    import jax

    from flaxdream.models import build
    from flaxdream.weights.params import read_params

    jax.config.update("jax_platforms", "cpu")
    configs = {name: json.loads((folder / name / "config.json").read_text()) for name in NETWORKS}
    networks = {name: build(config, param_dtype=dtype) for name, config in configs.items()}
    jax.devices()
    before, start, cpu_start = _peak(), time.perf_counter(), time.process_time()
    params = {name: read_params(folder / name, network.shapes) for name, network in networks.items()}
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    loaded = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    print(json.dumps({"seconds": seconds, "cpu": cpu, "before": before, "peak": _peak(), "loaded": loaded}))


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(architecture: str = "sd15", stored: str = "float16") -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        start = time.perf_counter()
        size = write(folder, architecture, stored)
        print(
            f"{architecture}, {stored}: {size / 1e9:.2f} GB of weights, written in {time.perf_counter() - start:.1f} s"
        )
        for dtype in dict.fromkeys((stored, "float32", "bfloat16")):
            command = [sys.executable, "-m", "tests.benchmarks.load_time", "--load", str(folder), dtype]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"loaded as {dtype}: {result['seconds']:.1f} s ({result['cpu']:.1f} s of CPU), "
                f"peak {result['peak'] / 1e9:.2f} GB ({result['before'] / 1e9:.2f} GB before): "
                f"{result['peak'] / size:.2f} x the files, "
                f"{(result['peak'] - result['before']) / result['loaded']:.2f} x the parameters without what jax takes"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        load(Path(sys.argv[2]), sys.argv[3])
    else:
        main(*sys.argv[1:])
