"""Pictures a second from JPEG files: this loader against torchvision's transforms in PyTorch's DataLoader.

`python -m tests.benchmarks.decode [--size 1024] [--resolution 512] [--workers 0 1 2] [--rounds 3]`

Both read, decode, resize, crop at random, flip and scale to -1..1 the same files; float32 batches leave both. Rounds
alternate between the sides; the medians are printed. "with threads" is this loader without its processes. `per CPU
second` counts the time of all threads and processes on all cores: it says what one core does, also while other
programs run. Starting the workers is included. Needs torch and torchvision.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image, ImageFilter

from flaxdream.data import loader
from flaxdream.data.captioned import CaptionedRows
from flaxdream.data.folder_set import FolderSet
from flaxdream.data.loader import Loader, LoaderSettings

BATCH = 16
STUBS = ("nms", "qnms")  # operators that a torchvision without its binary part needs to be known when it is imported


def write_pictures(folder: Path, count: int, size: int) -> int:
    """Photo-like JPEG files, 4:3, quality 90; their mean size in bytes."""
    key = np.random.default_rng(0)
    total = 0
    for number in range(count):
        small = Image.fromarray(key.integers(0, 256, (size // 16, size // 12, 3), np.uint8))
        shapes = np.asarray(small.resize((size, size * 3 // 4), Image.Resampling.BICUBIC)).astype(np.float32)
        grain = key.normal(0, 6, shapes.shape)
        picture = Image.fromarray(np.clip(shapes + grain, 0, 255).astype(np.uint8)).filter(
            ImageFilter.GaussianBlur(0.6)
        )
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=90)
        total += len(stream.getvalue())
        (folder / f"{number:04d}.jpg").write_bytes(stream.getvalue())
        (folder / f"{number:04d}.txt").write_text(f"picture {number}")
    return total // count


def ours(folder: Path, resolution: int, workers: int, interpolation: str) -> Iterator[Any]:
    """The batches of one epoch from this package."""
    rows = CaptionedRows(FolderSet(folder), BATCH, 0)
    settings = LoaderSettings(
        (resolution, resolution),
        random_flip=True,
        interpolation=interpolation,
        num_workers=workers,
        prefetch=4,
        cache_bytes=0,
    )
    return Loader(rows, settings).batches(0, len(rows) // BATCH)


def threads(folder: Path, resolution: int, workers: int, interpolation: str) -> Iterator[Any]:
    """The same with threads in place of processes."""
    with patch.object(loader, "AVAILABLE", False):
        yield from ours(folder, resolution, workers, interpolation)


def torchvisions(folder: Path, resolution: int, workers: int, interpolation: str) -> Iterator[Any]:
    """The batches of one epoch as diffusers' scripts make them."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in STUBS:
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor x) -> Tensor")
    from torchvision import transforms

    cut = transforms.Compose(
        [
            transforms.Resize(resolution, interpolation=transforms.InterpolationMode(interpolation)),
            transforms.RandomCrop(resolution),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )
    files = sorted(folder.glob("*.jpg"))

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Any:
            return cut(Image.open(files[index]).convert("RGB"))

    torch.set_num_threads(1)
    return iter(torch.utils.data.DataLoader(Pictures(), BATCH, shuffle=True, num_workers=workers, drop_last=True))


def cpu_seconds() -> float:
    """Of this process with its threads and of all its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measure(batches: Callable[[], Iterator[Any]], pictures: int) -> tuple[float, float]:
    """Pictures a second of wall time and of CPU time, the start of workers included."""
    start, cpu = time.perf_counter(), cpu_seconds()
    for _ in batches():
        pass
    return pictures / (time.perf_counter() - start), pictures / (cpu_seconds() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="longer side of the files")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--interpolation", default="bilinear")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), chosen.pictures // BATCH * BATCH
        size = write_pictures(folder, count, chosen.size)
        print(
            f"{count} JPEG files, {chosen.size} x {chosen.size * 3 // 4}, {size / 1e3:.0f} kB; to {chosen.resolution}"
        )
        for workers in chosen.workers:
            arguments = (folder, chosen.resolution, workers, chosen.interpolation)
            sides = {"flaxdream": partial(ours, *arguments), "torchvision": partial(torchvisions, *arguments)}
            if workers:
                sides["with threads"] = partial(threads, *arguments)
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
            for number in range(chosen.rounds + 1):
                for side, batches in sides.items():
                    made = measure(batches, count)
                    if number:  # the first warms up files and imports
                        found[side].append(made)
            for side, rounds in found.items():
                wall, cpu = (statistics.median(values) for values in zip(*rounds))
                print(f"{workers} workers  {side:13}  {wall:7.1f} pictures/s  {cpu:7.1f} per CPU second", flush=True)


if __name__ == "__main__":
    main()
