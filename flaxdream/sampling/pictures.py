"""Arrays to PIL pictures, PNG files that carry their settings, thumbnails, and contact sheets."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from flaxdream.arrays import Float, Shaped

Picture = Image.Image  # for those who may not import Pillow

MARGIN, CAPTION = 8, 18  # pixels of a contact sheet


def numpy_to_pil(pixels: Float[np.ndarray, "*b H W c"]) -> list[Image.Image]:
    """Pictures from values in 0..1, rounded to 8 bits; one or three channels. A single picture may lack `b`."""
    pixels = np.asarray(pixels, np.float32)
    rows = pixels[None] if pixels.ndim == 3 else pixels
    bytes_bHWc = (rows * 255).round().astype(np.uint8)
    return [Image.fromarray(row[..., 0] if row.shape[-1] == 1 else row) for row in bytes_bHWc]


def save_png(path: Path, picture: Image.Image, settings: dict[str, Any]) -> None:
    """Writes the picture whole or not at all, with each setting as a text chunk of the file."""
    info = PngInfo()
    for key, value in settings.items():
        info.add_itxt(key, str(value))
    partial = path.with_name(f".{path.name}.partial")
    try:
        picture.save(partial, format="PNG", pnginfo=info)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def jpeg_thumbnail(pixels: Shaped[np.ndarray, "H W 3"], longest: int, quality: int = 82) -> tuple[bytes, int, int]:
    """A JPEG of 8-bit RGB, with its width and height; made smaller, never larger, to `longest` pixels.

    Small pictures keep the full resolution of their colours, and more quality: there every pixel is seen.
    """
    picture = Image.fromarray(np.asarray(pixels, np.uint8))
    small = max(picture.size) <= 160
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=max(quality, 92) if small else quality, subsampling=0 if small else 2)
    return file.getvalue(), picture.width, picture.height


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], columns: int | None = None, cell: int = 256
) -> Image.Image:
    """All pictures on one sheet, each fitted into a square of `cell` pixels above its caption."""
    columns = columns or max(1, math.ceil(math.sqrt(len(pictures))))
    rows = math.ceil(len(pictures) / columns)
    step_x, step_y = cell + MARGIN, cell + MARGIN + CAPTION
    sheet = Image.new("RGB", (columns * step_x + MARGIN, rows * step_y + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = MARGIN + index % columns * step_x, MARGIN + index // columns * step_y
        small = picture.convert("RGB")
        scale = cell / max(small.size)
        small = small.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale))))
        sheet.paste(small, (x + (cell - small.width) // 2, y + (cell - small.height) // 2))
        draw.text((x, y + cell + 2), _fit(draw, font, caption, cell), fill="black", font=font)
    return sheet


def _fit(draw: ImageDraw.ImageDraw, font: Any, caption: str, width: int) -> str:
    if draw.textlength(caption, font=font) <= width:
        return caption
    while caption and draw.textlength(caption + "...", font=font) > width:
        caption = caption[:-1]
    return caption + "..."
