"""Pictures with edges, shades and texture, drawn from a seed: they compare as photos do."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def photo(seed: int, height: int = 256, width: int = 320) -> Image.Image:
    """Forty shapes of random colours on a shaded ground, with a little texture; no two seeds look alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    corners = rng.uniform(40, 220, (2, 2, 3))
    ground = sum(
        (y if v else 1 - y)[..., None] * (x if u else 1 - x)[..., None] * corners[v, u] for v in (0, 1) for u in (0, 1)
    )
    image = Image.fromarray(np.uint8(ground))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        left, top = rng.uniform(-0.1, 0.9, 2) * (width, height)
        right, bottom = (left, top) + rng.uniform(0.05, 0.35, 2) * (width, height)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((left, top, right, bottom), fill=tuple(rng.integers(0, 256, 3).tolist()))
    texture = rng.normal(0, 3, (height, width, 1))
    return Image.fromarray(np.uint8(np.clip(np.asarray(image) + texture, 0, 255)))
