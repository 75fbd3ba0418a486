"""Draws the quick start's subject: 5 pictures to learn from and 4 held out for measuring, 256 px.

    python -m launch.quickstart.draw_subject [--out .]

Writes launch/quickstart/subject/*.png and tests/benchmarks/subject_held_out/*.png below `--out`. No random choice is
left open: the same bytes each time.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from launch.builtin.compose import contact_shadow
from launch.builtin.scenes import backdrop
from launch.quickstart.creature import Pose, creature

SIZE = 256


class Shot(NamedTuple):
    """Where the creature is, how high (part of the picture), where its middle and its feet are, and its pose."""

    backdrop: str
    high: float
    middle: float
    foot: float
    pose: Pose


TRAINING = {
    "1": Shot("white", 0.88, 0.50, 0.94, Pose(yaw=0, left_arm=-0.7, right_arm=0.9)),
    "2": Shot("blue", 0.80, 0.46, 0.91, Pose(yaw=26, roll=-4, gaze=(0.2, 0.1), sway=0.3)),
    "3": Shot("grass", 0.84, 0.53, 0.93, Pose(yaw=-24, left_arm=0.8, right_arm=0.8, gaze=(-0.3, 0.2))),
    "4": Shot("pink", 0.80, 0.55, 0.92, Pose(yaw=12, roll=6, left_arm=0.2, right_arm=-0.8, gaze=(-0.3, -0.1))),
    "5": Shot("snow", 0.88, 0.48, 0.95, Pose(yaw=-12, pitch=-5, roll=-7, left_arm=1.0, gaze=(0.4, 0), sway=-0.5)),
}
HELD_OUT = {
    "1": Shot("yellow", 0.84, 0.52, 0.93, Pose(yaw=18, left_arm=0.9, right_arm=-0.5, gaze=(-0.2, 0.2))),
    "2": Shot("beach", 0.82, 0.46, 0.93, Pose(yaw=-20, roll=5, gaze=(0.2, 0.0), sway=0.4)),
    "3": Shot("clouds", 0.86, 0.52, 0.95, Pose(yaw=4, roll=-4, left_arm=0.5, right_arm=0.9, gaze=(0.3, -0.2))),
    "4": Shot("gray", 0.80, 0.54, 0.91, Pose(yaw=-28, pitch=-3, left_arm=-0.2, right_arm=0.3, sway=-0.3)),
}
FOLDERS = {"launch/quickstart/subject": TRAINING, "tests/benchmarks/subject_held_out": HELD_OUT}


def main() -> None:
    """Reads the command line and writes the nine pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("."))
    out = parser.parse_args().out
    for seed, (folder, shots) in enumerate(FOLDERS.items()):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for name, shot in shots.items():
            rng = np.random.default_rng((seed, int(name)))
            picture(shot, rng).save(out / folder / f"{name}.png", optimize=True)


def picture(shot: Shot, rng: np.random.Generator) -> Image.Image:
    """The creature in front of its background, with a contact shadow."""
    scene = backdrop(shot.backdrop, rng, SIZE)
    drawn = creature(shot.pose, SIZE)
    drawn = drawn.crop(drawn.getchannel("A").getbbox())
    ratio = shot.high * SIZE / drawn.height
    drawn = drawn.resize((round(drawn.width * ratio), round(shot.high * SIZE)), Image.Resampling.LANCZOS)
    left, foot = round(shot.middle * SIZE - drawn.width / 2), round(shot.foot * SIZE)
    shadow = contact_shadow(SIZE, left, drawn.width, foot, drawn, 0.08)
    floor = scene.pixels * (1 - scene.shadow * shadow)[..., None]
    layer = Image.new("RGBA", (SIZE, SIZE), 0)
    layer.paste(drawn, (left, foot - drawn.height))
    colour = np.asarray(layer, np.float64) / 255
    lit = np.clip(colour[..., :3] * scene.light, 0, 1)
    pixels = floor + (lit - floor) * colour[..., 3:]
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))


if __name__ == "__main__":
    main()
