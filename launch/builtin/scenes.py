"""The backgrounds of the built-in model's pictures: 12 plain colours and 11 scenes, drawn by numpy and Pillow alone.

A background is a `Backdrop`: pixels in 0..1, where a thing may stand, and what the light does to it. All of it is a
function of the random generator that the caller hands in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from launch.builtin.brushes import (
    below,
    disc,
    dots,
    fir,
    grid,
    mix,
    noise,
    rgb,
    streaks,
    stroke,
    to_image,
    to_pixels,
    vertical,
    wave,
    windows,
)


class Backdrop(NamedTuple):
    """Pixels [n, n, 3] in 0..1; `ground`: the part of the height above which nothing stands; `light`: RGB factor."""

    pixels: np.ndarray
    ground: float
    shadow: float
    light: tuple[float, float, float]


COLOURS = {
    "red": (0.80, 0.13, 0.14),
    "orange": (0.95, 0.52, 0.13),
    "yellow": (0.97, 0.84, 0.22),
    "green": (0.20, 0.60, 0.25),
    "turquoise": (0.16, 0.70, 0.70),
    "blue": (0.15, 0.33, 0.80),
    "purple": (0.46, 0.21, 0.66),
    "pink": (0.96, 0.60, 0.74),
    "brown": (0.47, 0.28, 0.15),
    "black": (0.07, 0.07, 0.08),
    "gray": (0.52, 0.53, 0.55),
    "white": (0.97, 0.97, 0.97),
}


def plain(name: str, rng: np.random.Generator, n: int) -> Backdrop:
    """A studio wall and floor of one of COLOURS, a little lighter on one side and darker below."""
    colour = np.clip(np.array(COLOURS[name]) * rng.uniform(0.93, 1.05) + rng.normal(0, 0.012, 3), 0, 1)
    y, x = grid(n)
    centre_x, centre_y = rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.6)
    glow = np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / 0.35)
    light = 0.90 + 0.14 * glow - 0.05 * y
    return Backdrop(np.clip(colour * light[..., None], 0, 1), 0.55, 0.42, (1, 1, 1))


def snow(rng: np.random.Generator, n: int) -> Backdrop:
    """White ground with pale blue hollows, small white-capped firs, falling flakes."""
    line = rng.uniform(0.38, 0.55)
    image = to_image(vertical(n, (0.58, 0.72, 0.88), (0.83, 0.90, 0.97)))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(3, 7)):
        fir(draw, n, rng.uniform(0, 1), line + 0.03, rng.uniform(0.14, 0.30))
    hill = line + 0.035 * wave(rng, n)
    ground = vertical(n, (0.98, 0.99, 1.0), (0.84, 0.89, 0.96)) + 0.03 * noise(rng, n, 5)[..., None]
    pixels = below(to_pixels(image), ground, hill)
    flakes = dots(rng, n, int(rng.integers(18, 40)), (0.008, 0.015), 0.0, 1.0)
    return Backdrop(mix(pixels, (1, 1, 1), 0.9 * flakes), line + 0.1, 0.30, (0.98, 1.0, 1.03))


def beach(rng: np.random.Generator, n: int) -> Backdrop:
    """Sky, a band of sea with foam, yellow sand."""
    sea, sand = rng.uniform(0.22, 0.34), rng.uniform(0.44, 0.58)
    y, _ = grid(n)
    pixels = vertical(n, (0.40, 0.72, 0.96), (0.80, 0.93, 0.99))
    water = vertical(n, (0.05, 0.42, 0.68), (0.20, 0.72, 0.78)) + 0.05 * streaks(rng, n)[..., None]
    pixels = below(pixels, water, np.full(n, sea))
    shore = sand + 0.03 * wave(rng, n)
    pixels = below(pixels, np.ones((n, n, 3)), shore - rng.uniform(0.025, 0.045))
    wet = np.clip((y - shore) / 0.10, 0, 1)[..., None]
    dry = np.array((0.95, 0.83, 0.58)) + 0.025 * noise(rng, n, 12)[..., None]
    return Backdrop(below(pixels, dry * (0.84 + 0.16 * wet), shore), sand + 0.1, 0.36, (1.03, 1.0, 0.95))


def grass(rng: np.random.Generator, n: int) -> Backdrop:
    """A meadow with blades and small flowers under a blue sky."""
    line = rng.uniform(0.34, 0.50)
    pixels = vertical(n, (0.42, 0.70, 0.97), (0.80, 0.92, 0.99))
    field = vertical(n, (0.42, 0.74, 0.26), (0.20, 0.52, 0.13)) + 0.04 * noise(rng, n, 6)[..., None]
    image = to_image(below(pixels, field, line + 0.025 * wave(rng, n)))
    draw = ImageDraw.Draw(image)
    for _ in range(130):
        x, y = rng.uniform(0, 1), rng.uniform(line + 0.05, 1.02)
        long = 0.02 + 0.05 * (y - line)
        green = (0.25, 0.62, 0.14) if rng.random() < 0.5 else (0.47, 0.78, 0.27)
        stroke(draw, n, [(x, y), (x + rng.normal(0, 0.012), y - long)], green, 0.008)
    for _ in range(rng.integers(4, 12)):
        flower = [(1, 1, 1), (1, 0.88, 0.25), (0.98, 0.55, 0.70)][rng.integers(3)]
        disc(draw, n, rng.uniform(0, 1), rng.uniform(line + 0.08, 1), 0.012, flower)
    return Backdrop(to_pixels(image), line + 0.12, 0.38, (1, 1, 1))


def night(rng: np.random.Generator, n: int) -> Backdrop:
    """A dark sky full of stars with a moon above dark hills."""
    line = rng.uniform(0.66, 0.78)
    pixels = vertical(n, (0.02, 0.03, 0.14), (0.12, 0.15, 0.40))
    stars = dots(rng, n, int(rng.integers(26, 50)), (0.006, 0.013), 0.0, line)
    pixels = mix(pixels, (1.0, 0.98, 0.86), stars)
    image = to_image(pixels)
    draw = ImageDraw.Draw(image)
    x, y, r = rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.22), rng.uniform(0.05, 0.085)
    disc(draw, n, x, y, r, (0.99, 0.96, 0.80))
    if rng.random() < 0.5:
        disc(draw, n, x + 0.45 * r, y - 0.2 * r, 0.85 * r, (0.03, 0.04, 0.17))
    ground = vertical(n, (0.10, 0.15, 0.26), (0.05, 0.08, 0.15))
    return Backdrop(below(to_pixels(image), ground, line + 0.035 * wave(rng, n)), line + 0.05, 0.45, (0.80, 0.83, 0.95))


def table(rng: np.random.Generator, n: int) -> Backdrop:
    """A table of brown planks before a cream wall."""
    line = rng.uniform(0.36, 0.50)
    y, x = grid(n)
    wall = np.array((0.93, 0.88, 0.78)) * (1.0 - 0.10 * np.abs(x - rng.uniform(0.2, 0.8)))[..., None]
    depth = np.clip((y - line) / (1 - line), 1e-3, 1)
    across = (x - 0.5) / (0.55 + 0.75 * depth) + rng.uniform(0, 1)
    plank = np.floor(across * 6).astype(int)
    shade = rng.uniform(-0.06, 0.06, 64)[plank % 64]
    grain = 0.035 * np.sin(90 * across + 6 * noise(rng, n, 4) + 5 * shade * 100)
    wood = np.array((0.60, 0.36, 0.17)) * (1 + shade + grain + 0.10 * depth)[..., None] * 1.05
    seam = np.abs(across * 6 - np.round(across * 6)) < 0.05
    wood = np.where(seam[..., None], wood * 0.62, wood)
    pixels = np.where((y < line)[..., None], wall, wood)
    edge = (np.abs(y - line) < 0.010)[..., None]
    return Backdrop(np.where(edge, np.array((0.40, 0.22, 0.09)), pixels), line + 0.12, 0.45, (1.02, 1.0, 0.96))


def brick(rng: np.random.Generator, n: int) -> Backdrop:
    """A wall of red bricks above a grey pavement."""
    line = rng.uniform(0.74, 0.84)
    y, x = grid(n)
    high, wide = rng.uniform(0.085, 0.11), rng.uniform(0.19, 0.24)
    row = np.floor(y / high).astype(int)
    along = x / wide + 0.5 * (row % 2) + rng.uniform(0, 1)
    column = np.floor(along).astype(int)
    tone = rng.uniform(0.80, 1.12, (32, 32))[row % 32, column % 32]
    bricks = np.array((0.68, 0.28, 0.20)) * tone[..., None]
    joint = (np.mod(y, high) < 0.018) | (np.mod(along, 1) * wide < 0.018)
    pixels = np.where(joint[..., None], np.array((0.82, 0.76, 0.70)), bricks)
    ground = vertical(n, (0.60, 0.60, 0.61), (0.72, 0.72, 0.72)) + 0.02 * noise(rng, n, 12)[..., None]
    pixels = np.where((y > line)[..., None], ground, pixels)
    return Backdrop(np.clip(pixels, 0, 1), line + 0.03, 0.42, (1, 1, 1))


def clouds(rng: np.random.Generator, n: int) -> Backdrop:
    """Blue sky with white clouds."""
    image = to_image(vertical(n, (0.20, 0.52, 0.93), (0.62, 0.84, 0.99)))
    layer = Image.new("L", (n, n), 0)
    draw = ImageDraw.Draw(layer)
    for _ in range(rng.integers(4, 8)):
        x, y, wide = rng.uniform(0, 1), rng.uniform(0.05, 1), rng.uniform(0.10, 0.2)
        for _ in range(7):
            disc(draw, n, x + rng.normal(0, wide), y + rng.normal(0, 0.018), rng.uniform(0.3, 0.62) * wide, 1.0)
    mask = np.asarray(layer.filter(ImageFilter.GaussianBlur(0.012 * n)), np.float64) / 255
    return Backdrop(mix(to_pixels(image), (1, 1, 1), 0.95 * mask), 0.5, 0.0, (1, 1, 1.02))


def forest(rng: np.random.Generator, n: int) -> Backdrop:
    """Brown trunks before dark leaves, a mossy floor."""
    line = rng.uniform(0.62, 0.74)
    leaves = np.array((0.10, 0.30, 0.13)) * (1 + 0.45 * noise(rng, n, 9))[..., None]
    image = to_image(leaves)
    draw = ImageDraw.Draw(image)
    for far in (True, False):
        for _ in range(rng.integers(3, 5)):
            x, wide = rng.uniform(0, 1), (0.02 if far else 0.045) * rng.uniform(0.8, 1.3)
            brown = (0.22, 0.20, 0.13) if far else (0.36, 0.22, 0.11)
            lean, foot = rng.normal(0, 0.02), line + (0.02 if far else 0.06)
            points = [
                (x - wide, foot),
                (x - 0.7 * wide + lean, -0.05),
                (x + 0.7 * wide + lean, -0.05),
                (x + wide, foot),
            ]
            draw.polygon([(a * n, b * n) for a, b in points], fill=rgb(brown))
    for _ in range(26):
        tone = rng.uniform(0.7, 1.5)
        green = (0.13 * tone, 0.40 * tone, 0.14 * tone)
        disc(draw, n, rng.uniform(0, 1), rng.uniform(-0.02, 0.20), rng.uniform(0.03, 0.08), green)
    floor = vertical(n, (0.24, 0.40, 0.13), (0.34, 0.29, 0.13)) + 0.04 * noise(rng, n, 9)[..., None]
    pixels = below(to_pixels(image), floor, line + 0.02 * wave(rng, n))
    return Backdrop(pixels, line + 0.06, 0.45, (0.95, 1.0, 0.94))


def under_water(rng: np.random.Generator, n: int) -> Backdrop:
    """Blue depth with rays from above, bubbles, weeds and a sandy floor."""
    line = rng.uniform(0.80, 0.88)
    y, x = grid(n)
    pixels = vertical(n, (0.22, 0.76, 0.90), (0.02, 0.25, 0.55))
    fan = x + (0.5 - rng.uniform(0, 1)) * 0.5 * y
    rays = np.clip(np.sin(fan * rng.uniform(16, 26) + rng.uniform(0, 6)), 0, 1) * np.clip(1 - 1.3 * y, 0, 1)
    pixels = mix(pixels, (0.85, 1.0, 1.0), 0.35 * rays)
    floor = np.array((0.62, 0.66, 0.50)) + 0.03 * noise(rng, n, 30)[..., None]
    image = to_image(below(pixels, floor, line + 0.025 * wave(rng, n)))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 6)):
        foot, high, bend = rng.uniform(0, 1), rng.uniform(0.15, 0.34), rng.uniform(0, 6)
        stem = [(foot + 0.018 * np.sin(bend + 9 * s), line + 0.06 - high * s) for s in np.linspace(0, 1, 9)]
        stroke(draw, n, stem, (0.06, 0.50, 0.30), 0.024)
    for _ in range(rng.integers(6, 14)):
        bx, by, r = rng.uniform(0, 1), rng.uniform(0, 0.85), rng.uniform(0.008, 0.022)
        box = [(bx - r) * n, (by - r) * n, (bx + r) * n, (by + r) * n]
        draw.ellipse(box, outline=rgb((0.85, 0.97, 1.0)), width=max(1, round(0.007 * n)))
    return Backdrop(to_pixels(image), 0.6, 0.0, (0.90, 0.99, 1.04))


def desert(rng: np.random.Generator, n: int) -> Backdrop:
    """Orange dunes under a hot, pale orange sky."""
    line = rng.uniform(0.36, 0.48)
    image = to_image(vertical(n, (0.98, 0.72, 0.42), (1.0, 0.90, 0.66)))
    disc(ImageDraw.Draw(image), n, rng.uniform(0.12, 0.88), rng.uniform(0.10, 0.22), 0.065, (1.0, 0.97, 0.78))
    pixels = to_pixels(image)
    _, x = grid(n)
    for i, tone in enumerate(((0.80, 0.46, 0.22), (0.88, 0.54, 0.25), (0.94, 0.63, 0.31))):
        base = line + 0.15 * i
        crest = base + 0.07 * np.sin(2 * np.pi * (rng.uniform(0.6, 1.1) * x[0] + rng.uniform(0, 1)))
        dune = np.array(tone) + 0.03 * streaks(rng, n)[..., None]
        pixels = below(pixels, dune, crest)
    return Backdrop(pixels, line + 0.22, 0.40, (1.04, 1.0, 0.92))


def city(rng: np.random.Generator, n: int) -> Backdrop:
    """Towers with lit windows at dusk, behind a grey road with a white line."""
    line = rng.uniform(0.66, 0.76)
    image = to_image(vertical(n, (0.44, 0.36, 0.66), (0.98, 0.66, 0.56)))
    draw = ImageDraw.Draw(image)
    left = -0.05
    while left < 1:
        wide, top = rng.uniform(0.13, 0.22), rng.uniform(0.06, 0.42)
        tone = rng.uniform(0.8, 1.25)
        draw.rectangle(
            [left * n, top * n, (left + wide) * n, line * n], fill=rgb((0.20 * tone, 0.20 * tone, 0.34 * tone))
        )
        windows(draw, rng, n, left, top, wide, line)
        left += wide + rng.uniform(0, 0.02)
    pixels = to_pixels(image)
    y, x = grid(n)
    road = vertical(n, (0.36, 0.36, 0.40), (0.28, 0.28, 0.31)) + 0.015 * noise(rng, n, 30)[..., None]
    pixels = np.where((y > line)[..., None], road, pixels)
    middle = line + 0.55 * (1 - line)
    dash = (np.abs(y - middle) < 0.012) & (np.mod(x + rng.uniform(0, 1), 0.25) < 0.14)
    pixels = np.where(dash[..., None], 0.92, pixels)
    kerb = (np.abs(y - line) < 0.012)[..., None]
    return Backdrop(np.where(kerb, 0.66, pixels), line + 0.05, 0.45, (0.97, 0.95, 0.99))


Draw = Callable[[np.random.Generator, int], Backdrop]

# name: (drawing, what a caption says of a thing in it, what a caption says of it alone)
SCENES: dict[str, tuple[Draw, str, str]] = {
    "snow": (snow, "in the snow", "snow"),
    "beach": (beach, "on the beach", "a beach"),
    "grass": (grass, "on the grass", "grass"),
    "night": (night, "at night", "the night sky"),
    "table": (table, "on a wooden table", "a wooden table"),
    "brick": (brick, "in front of a brick wall", "a brick wall"),
    "clouds": (clouds, "in the sky", "the sky"),
    "forest": (forest, "in the forest", "a forest"),
    "under_water": (under_water, "under water", "the sea under water"),
    "desert": (desert, "in the desert", "a desert"),
    "city": (city, "in the city", "a city"),
}


def backdrop(name: str, rng: np.random.Generator, n: int) -> Backdrop:
    """The background `name`, a key of SCENES or COLOURS, n pixels wide and high."""
    return SCENES[name][0](rng, n) if name in SCENES else plain(name, rng, n)
