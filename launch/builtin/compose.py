"""Makes the built-in model's pictures: every drawing on plain colours and in scenes, 64 px, with captions.

    python -m launch.builtin.compose DATA OUT [--views 60] [--held_out 4] [--seed 0] [--workers 1]

DATA is what `launch/builtin/fetch.sh` filled. OUT gets `train/` and `validation/`, each a Hugging Face imagefolder:
PNG files and `metadata.jsonl` with `file_name` and `text`. The same seed gives the same bytes, and a picture depends
only on the seed, its concept's name and its number: more views or concepts leave the others as they were.
"""

from __future__ import annotations

import argparse
import functools
import json
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from launch.builtin.scenes import COLOURS, SCENES, Backdrop, backdrop

SIZE = 64
DRAWN = 2 * SIZE  # pictures are put together at twice their size, then halved
BACKDROPS = [*COLOURS, *SCENES]
SCENE_ALONE = "scene"  # the pseudo-concept of pictures without a thing in them
SHARE_ALONE = 0.03
SHARE_UNSAID = 0.12  # captions that leave the background out, as DreamBooth's prompts do


class Job(NamedTuple):
    """One picture: where it goes, what is on it and which random numbers it gets."""

    path: Path
    concept: dict | None
    drawing: Path | None
    backdrop: str
    seed: tuple[int, ...]


def main() -> None:
    """Reads the command line and writes both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that fetch.sh filled")
    parser.add_argument("out", type=Path, help="gets train/ and validation/")
    parser.add_argument("--views", type=int, default=60, help="training pictures a concept")
    parser.add_argument("--held_out", type=int, default=4, help="validation pictures a concept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--concepts", type=Path, default=Path(__file__).with_name("concepts.json"))
    parser.add_argument("--first", type=int, help="only so many concepts, from the start of the list")
    args = parser.parse_args()
    if args.views < 1 or args.held_out < 1:
        parser.error(f"--views {args.views} --held_out {args.held_out}: expected 1 or more of each")
    concepts = json.loads(args.concepts.read_text())[: args.first]
    splits = {"train": args.views, "validation": args.held_out}
    try:
        drawings = drawing_files(args.data, concepts)
        for split in splits:
            check_empty(args.out / split)
    except ValueError as error:
        parser.error(str(error))
    for split, views in splits.items():
        write_split(args.out / split, jobs(args.out / split, split, concepts, drawings, views, args.seed), args.workers)


def drawing_files(data: Path, concepts: list[dict]) -> dict[str, Path]:
    """Concept's name -> its drawing; ValueError that lists what DATA lacks."""
    codes = {v["name"]: "-".join(f"{ord(c):x}" for c in k) for k, v in json.loads(names_file(data).read_text()).items()}
    found, lacking = {}, []
    for concept in concepts:
        code = codes.get(concept["drawing"], "")
        files = [data / "drawings/assets" / f"{c}.webp" for c in (code, code.replace("-fe0f", ""))]
        path = next((f for f in files if f.is_file()), None)
        if path is None:
            lacking.append(concept["drawing"])
        else:
            found[concept["name"]] = path
    if lacking:
        raise ValueError(f"{data} has no drawing named {', '.join(lacking)}. Expected names of unicode-emoji-json.")
    return found


def names_file(data: Path) -> Path:
    """The table of names inside DATA."""
    path = data / "names/data-by-emoji.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing. Run: launch/builtin/fetch.sh {data}")
    return path


def jobs(folder: Path, split: str, concepts: list[dict], drawings: dict[str, Path], views: int, seed: int) -> list[Job]:
    """All pictures of a split; each concept goes through all backgrounds before it sees one again."""
    names = [c["name"] for c in concepts]
    alone = round(SHARE_ALONE * views * len(concepts))
    result = []
    for name, concept, count in [*zip(names, concepts, [views] * len(names)), (SCENE_ALONE, None, alone)]:
        key = (seed, zlib.crc32(split.encode()), zlib.crc32(name.encode()))
        for i in range(count):
            turn, place = divmod(i, len(BACKDROPS))
            order = np.random.default_rng((*key, 1, turn)).permutation(len(BACKDROPS))
            path = folder / f"{name.replace(' ', '_')}-{i:04d}.png"
            result.append(Job(path, concept, drawings.get(name), BACKDROPS[order[place]], (*key, 0, i)))
    return result


def check_empty(folder: Path) -> None:
    """ValueError if `folder` holds pictures: those of another run would stay beside the new ones."""
    if any(folder.glob("*.png")):
        raise ValueError(f"{folder} holds pictures already; expected an empty folder. Delete it or choose another.")


def write_split(folder: Path, todo: list[Job], workers: int) -> None:
    """Writes the pictures of `todo` and, when all are there, their metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    bar = functools.partial(tqdm, total=len(todo), desc=folder.name, unit="pictures")
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            texts = list(bar(pool.map(write_picture, todo, chunksize=64)))
    else:
        texts = list(bar(map(write_picture, todo)))
    lines = [json.dumps({"file_name": job.path.name, "text": text}) for job, text in zip(todo, texts)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def write_picture(job: Job) -> str:
    """Draws one picture, writes it, returns its caption."""
    rng = np.random.default_rng(job.seed)
    scene = backdrop(job.backdrop, rng, DRAWN)
    said = rng.random() >= SHARE_UNSAID
    picture = scene.pixels if job.drawing is None else place(cut_out(job.drawing), scene, rng)
    image = Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))
    image.resize((SIZE, SIZE), Image.Resampling.BOX).save(job.path, optimize=False)
    return caption(job.concept, job.backdrop if said or job.concept is None else None)


def caption(concept: dict | None, background: str | None) -> str:
    """`a photo of a fox in the snow`; without a concept the background alone, without a background the thing alone."""
    if concept is None:
        assert background is not None
        thing = SCENES[background][2] if background in SCENES else f"{article(background)} {background} background"
        return f"a photo of {thing}"
    words = ["a photo of", concept["article"], concept["name"]]
    if background in SCENES:
        words.append(SCENES[background][1])
    elif background is not None:
        words.append(f"on {article(background)} {background} background")
    return " ".join(w for w in words if w)


def article(word: str) -> str:
    """`an` before a vowel: right for all names of colours here."""
    return "an" if word[0] in "aeiou" else "a"


@functools.lru_cache(maxsize=256)
def cut_out(path: Path) -> Image.Image:
    """The drawing, RGBA, cropped to what is visible of it."""
    image = Image.open(path).convert("RGBA")
    visible = image.getchannel("A").point(lambda a: 255 if a > 24 else 0)
    return image.crop(visible.getbbox())


def place(drawing: Image.Image, scene: Backdrop, rng: np.random.Generator) -> np.ndarray:
    """The scene's pixels with the drawing in them: random size (50-90 %), place, tilt and flip, and its shadow."""
    n = len(scene.pixels)
    if rng.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    long = rng.uniform(0.5, 0.9) * n
    ratio = long / max(drawing.size)
    drawing = drawing.resize([max(1, round(s * ratio)) for s in drawing.size], Image.Resampling.LANCZOS)
    drawing = drawing.rotate(rng.normal(0, 4.5), Image.Resampling.BICUBIC, expand=True)
    drawing = drawing.crop(drawing.getchannel("A").getbbox())
    if max(drawing.size) > 0.94 * n:
        drawing.thumbnail((round(0.94 * n), round(0.94 * n)), Image.Resampling.LANCZOS)
    wide, high = drawing.size
    left = round(rng.uniform(0.02 * n, 0.98 * n - wide))
    lowest = 0.97 * n if scene.shadow else 0.96 * n
    highest = min(max(high + 0.02 * n, scene.ground * n if scene.shadow else 0.0), lowest)
    foot = round(rng.uniform(highest, lowest))
    pixels = scene.pixels
    if scene.shadow:
        pixels = pixels * (1 - scene.shadow * contact_shadow(n, left, wide, foot, drawing))[..., None]
    layer = Image.new("RGBA", (n, n), 0)
    layer.paste(drawing, (left, foot - high))
    colour = np.asarray(layer, np.float64) / 255
    light = np.array(scene.light) * rng.uniform(0.95, 1.05)
    return pixels + (np.clip(colour[..., :3] * light, 0, 1) - pixels) * colour[..., 3:]


def contact_shadow(n: int, left: int, wide: int, foot: int, drawing: Image.Image, part: float = 0.2) -> np.ndarray:
    """A soft ellipse [n, n] in 0..1 under the lowest `part` of the drawing."""
    alpha = np.asarray(drawing.getchannel("A")) > 100
    columns = np.flatnonzero(alpha[-max(2, int(len(alpha) * part)) :].any(0))
    start, end = (columns[0], columns[-1]) if len(columns) else (0, wide)
    middle, half = left + (start + end) / 2, 0.5 * (end - start) + 0.05 * n
    layer = Image.new("L", (n, n), 0)
    thick = 0.13 * half + 0.018 * n
    box = [middle - half, foot - 1.1 * thick, middle + half, foot + 0.9 * thick]
    ImageDraw.Draw(layer).ellipse(box, fill=255)
    return np.asarray(layer.filter(ImageFilter.GaussianBlur(0.018 * n)), np.float64) / 255


if __name__ == "__main__":
    main()
