"""What the scenes are drawn with: smooth noise, soft edges, dots, firs, windows. Lengths are parts of the picture.

Arrays of pixels are [n, n, 3] in 0..1; y runs downwards.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Heights y and widths x of the pixels' centres, each [n, n] in 0..1."""
    line = (np.arange(n) + 0.5) / n
    return np.repeat(line[:, None], n, 1), np.repeat(line[None, :], n, 0)


def vertical(n: int, top: tuple[float, ...], bottom: tuple[float, ...]) -> np.ndarray:
    """Colour that runs from `top` to `bottom`."""
    y, _ = grid(n)
    return np.array(top) * (1 - y[..., None]) + np.array(bottom) * y[..., None]


def noise(rng: np.random.Generator, n: int, cells: int) -> np.ndarray:
    """Smooth noise of about -1..1, `cells` bumps across."""
    small = Image.fromarray(rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32))
    return np.asarray(small.resize((n, n), Image.Resampling.BICUBIC), np.float64)


def streaks(rng: np.random.Generator, n: int) -> np.ndarray:
    """Smooth noise drawn out sideways."""
    small = Image.fromarray(rng.uniform(-1, 1, (28, 4)).astype(np.float32))
    return np.asarray(small.resize((n, n), Image.Resampling.BICUBIC), np.float64)


def wave(rng: np.random.Generator, n: int) -> np.ndarray:
    """A gentle line [n] of about -1..1."""
    return noise(rng, n, 3)[n // 2]


def below(above: np.ndarray, under: np.ndarray, line: np.ndarray) -> np.ndarray:
    """`above` over the line (a height in 0..1 per column), `under` beneath it, with a soft edge of one pixel."""
    y, _ = grid(len(above))
    return np.clip(above + (under - above) * np.clip((y - line[None]) * len(above) + 0.5, 0, 1)[..., None], 0, 1)


def dots(
    rng: np.random.Generator, n: int, count: int, radius: tuple[float, float], top: float, end: float
) -> np.ndarray:
    """Coverage [n, n] of `count` soft dots between the heights `top` and `end`."""
    layer = Image.new("L", (n, n), 0)
    draw = ImageDraw.Draw(layer)
    for _ in range(count):
        disc(draw, n, rng.uniform(0, 1), rng.uniform(top, end), rng.uniform(*radius), rng.uniform(0.6, 1.0))
    return np.asarray(layer, np.float64) / 255


def fir(draw: ImageDraw.ImageDraw, n: int, x: float, foot: float, high: float) -> None:
    """A fir of three tiers with snow on each."""
    for tier in range(3):
        top, wide = foot - high + 0.26 * high * tier, (0.16 + 0.09 * tier) * high
        low = top + 0.42 * high
        draw.polygon(
            [(x * n, top * n), ((x - wide) * n, low * n), ((x + wide) * n, low * n)], fill=rgb((0.16, 0.36, 0.30))
        )
        cap = [
            (x * n, top * n),
            ((x - 0.5 * wide) * n, (top + 0.2 * high) * n),
            ((x + 0.5 * wide) * n, (top + 0.2 * high) * n),
        ]
        draw.polygon(cap, fill=rgb((0.95, 0.97, 1.0)))


def windows(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, n: int, left: float, top: float, wide: float, line: float
) -> None:
    """Rows of windows on a tower, about half of them lit."""
    step = 0.045
    for y in np.arange(top + 0.03, line - 0.04, step):
        for x in np.arange(left + 0.02, left + wide - 0.03, step):
            if rng.random() < 0.55:
                draw.rectangle([x * n, y * n, (x + 0.02) * n, (y + 0.022) * n], fill=rgb((1.0, 0.86, 0.48)))


def mix(pixels: np.ndarray, colour: tuple[float, float, float], amount: np.ndarray) -> np.ndarray:
    """`pixels` with `colour` laid over them, `amount` [n, n] in 0..1 thick."""
    return pixels + (np.array(colour) - pixels) * amount[..., None]


def disc(draw: ImageDraw.ImageDraw, n: int, x: float, y: float, r: float, colour: tuple[float, ...] | float) -> None:
    """A filled circle of radius r; a number as colour is grey, for layers of coverage."""
    fill = round(255 * colour) if isinstance(colour, float) else rgb(colour)
    draw.ellipse([(x - r) * n, (y - r) * n, (x + r) * n, (y + r) * n], fill=fill)


def stroke(
    draw: ImageDraw.ImageDraw, n: int, points: list[tuple[float, float]], colour: tuple[float, ...], wide: float
) -> None:
    """A line through `points`, `wide` thick."""
    draw.line([(x * n, y * n) for x, y in points], fill=rgb(colour), width=max(1, round(wide * n)), joint="curve")


def rgb(colour: tuple[float, ...]) -> tuple[int, ...]:
    """A colour in 0..1 as Pillow wants it."""
    return tuple(round(255 * min(max(c, 0.0), 1.0)) for c in colour)


def to_image(pixels: np.ndarray) -> Image.Image:
    """Pixels in 0..1 as a picture."""
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))


def to_pixels(image: Image.Image) -> np.ndarray:
    """A picture as pixels in 0..1."""
    return np.asarray(image, np.float64) / 255
