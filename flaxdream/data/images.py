"""Picture files to uint8 RGB arrays, and arrays to the size of training: the only user of Pillow in this room.

`read_picture` gives what a viewer shows: EXIF rotation applied, transparency on white, the first frame of
animations, 16 bits scaled to 8. Colour profiles (ICC) are ignored, as in diffusers; CMYK is converted by
Pillow's plain formula, and CMYK JPEG files are taken as inverted (Adobe's way), as all browsers do.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError, features
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

HEIF = (".heic", ".heif", ".hif")
HEIF_BRANDS = (b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1")
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2")
    + (".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", *HEIF)
)
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenPicture(ValueError):  # noqa: N818
    """A picture that cannot be read, with its path and the reason."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(str(path), reason)
        self.path, self.reason = Path(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Header:
    """What a picture's file says of itself."""

    format: str  # Pillow's name, such as JPEG
    mode: str  # Pillow's, such as RGB, P or CMYK
    size: tuple[int, int]  # height and width as shown
    orientation: int  # EXIF's, 2 to 8 where a viewer turns or mirrors the picture, else 1
    is_transparent: bool  # somewhere
    is_animated: bool  # or has several pages


@dataclass(frozen=True)
class Crop:
    """Pixels cut to the size of training, with what SDXL's time ids tell the model of the cut."""

    pixels: UInt8[np.ndarray, "H W 3"]
    top_left: tuple[int, int]  # pixels, in the resized (and flipped) picture
    original_size: tuple[int, int]  # height and width before the resize


def is_picture(path: str | Path) -> bool:
    """Whether the file's extension is that of a picture; `EXTENSIONS` has the list."""
    return Path(path).suffix.lower() in EXTENSIONS


def read_picture(path: str | Path, data: bytes | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in 8-bit RGB, as a viewer shows it; else BrokenPicture.

    With `data`, the bytes of a file that lies in an archive or a table, `path` is only its name in messages.
    """
    return np.asarray(_shown(path, data))


def read_to_cover(
    path: str | Path, resolution: tuple[int, int], interpolation: str = "bilinear", data: bytes | None = None
) -> tuple[UInt8[np.ndarray, "H W 3"], tuple[int, int]]:
    """The picture as `resize_to_cover` makes it of `read_picture`, and its own height and width; else BrokenPicture.

    Faster than those two: the whole picture never becomes an array, which Pillow makes under Python's lock.
    """
    image = _shown(path, data)
    return np.asarray(_covering(image, resolution, interpolation)), (image.size[1], image.size[0])


def read_small(path: str | Path, shorter: int, data: bytes | None = None) -> tuple[UInt8[np.ndarray, "H W 3"], Header]:
    """The picture made smaller, never larger, until its shorter side is that long, and its header; else BrokenPicture.

    The file is decoded to its end. JPEG becomes smaller while it is decoded, which saves most of the time and gives
    other pixels than `read_picture`, by a few levels.
    """
    with _readable(path, data) as image:
        header = _header(image)
        scale = min(1.0, shorter / min(image.size))
        width, height = (max(1, round(side * scale)) for side in image.size)
        image.draft(None, (width, height))
        shown = _as_shown(image)
    height, width = (max(1, round(side * scale)) for side in header.size)
    return np.asarray(_at_size(shown, (height, width))), header


def _shown(path: str | Path, data: bytes | None) -> Image.Image:
    """The picture as a viewer shows it, in 8-bit RGB; else BrokenPicture."""
    with _readable(path, data) as image:
        return _as_shown(image)


def _as_shown(image: Image.Image) -> Image.Image:
    image.load()
    turn = TURNS.get(_orientation(image))
    shown = _to_rgb(image)
    return shown if turn is None else shown.transpose(turn)


def picture_size(path: str | Path, data: bytes | None = None) -> tuple[int, int]:
    """Height and width as `read_picture` will give them, from the file's header where possible; else BrokenPicture."""
    with _readable(path, data) as image:
        return _shown_size(image)


def _shown_size(image: Image.Image) -> tuple[int, int]:
    height, width = image.size[1], image.size[0]
    # Pillow itself turns TIFF and reports the turned size; for all others the tag is still to be obeyed.
    turned = image.format != "TIFF" and _orientation(image) >= 5
    return (width, height) if turned else (height, width)


def _header(image: Image.Image) -> Header:
    try:
        is_animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # frames that nobody reads may be damaged
        is_animated = False
    return Header(
        image.format or "unknown",
        image.mode,
        _shown_size(image),
        _orientation(image),
        image.has_transparency_data and int(np.asarray(image.convert("RGBA").getchannel("A")).min()) < 255,
        is_animated,
    )


@contextmanager
def _readable(path: str | Path, data: bytes | None) -> Iterator[Image.Image]:
    """The opened picture; whatever goes wrong with it, also while it is decoded, becomes BrokenPicture."""
    try:
        with _opened(Path(path), data) as image:
            yield image
    except (MemoryError, BrokenPicture):
        raise
    except Exception as error:  # a decoder of a broken file may raise anything
        raise BrokenPicture(path, _reason(Path(path), data, error)) from error


@contextmanager
def _opened(path: Path, data: bytes | None) -> Iterator[Image.Image]:
    if path.suffix.lower() in HEIF or (data is not None and data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS):
        if importlib.util.find_spec("pillow_heif") is None:
            raise BrokenPicture(
                path, "HEIC needs one more package: pip install pillow-heif (or save it as JPEG or PNG)"
            )
        import pillow_heif

        pillow_heif.register_heif_opener()
    if path.suffix.lower() == ".avif" and not features.check("avif"):
        raise BrokenPicture(path, "this Pillow reads no AVIF: pip install 'Pillow>=11.3' (or save it as JPEG or PNG)")
    opened = path.open("rb") if data is None else io.BytesIO(data)
    with opened as file, Image.open(file) as image:  # the file is ours to close, whatever a plugin does
        yield image


def _reason(path: Path, data: bytes | None, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file does not exist; was it moved or deleted after the start?"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too many pixels ({error}); scale it down"
    if isinstance(error, UnidentifiedImageError):
        empty = (os.path.getsize(path) if data is None else len(data)) == 0
        return "the file is empty" if empty else "the content is not that of a picture that Pillow reads"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be opened: {error.strerror}"
    return f"cannot be decoded: {error or type(error).__name__}"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_deep_grey(image)
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        white = Image.new("RGB", shown.size, "white")
        white.paste(shown, mask=shown.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """More than 8 bits a pixel, scaled; Pillow's own conversion clips at 255 and gives white pictures."""
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    top = 1.0 if image.mode == "F" else 65535.0
    if not (low >= 0 and high <= top):  # so written, NaN is refused too
        raise ValueError(f"its values lie in {low:g}..{high:g} and not in 0..{top:g}; save it with 8 or 16 bits")
    grey = np.rint(values * (255.0 / top)).astype(np.uint8)
    transparent = image.info.get("transparency")  # of a PNG: the one value that is not there
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 if there is none or the EXIF block is damaged, as viewers do."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # the picture itself may be fine
        return 1
    return value if isinstance(value, int) else 1


def resized_size(size: tuple[int, int], resolution: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the smallest picture of the same shape that covers the resolution.

    For a square it is torchvision's `Resize(side)`: the shorter side exactly, the longer one rounded down.
    """
    (height, width), (h, w) = size, resolution
    if h * width >= w * height:  # the height decides
        return h, max(w, int(h * width / height))
    return max(h, int(w * height / width)), w


def crop_position(
    size: tuple[int, int], resolution: tuple[int, int], draw: tuple[float, float] | None
) -> tuple[int, int]:
    """Top and left of the crop: in the middle if `draw` is None, else at two numbers in 0..1.

    The middle is rounded to even halves as in torchvision's CenterCrop; a draw gives each position the same chance, as
    RandomCrop does.
    """
    room = (size[0] - resolution[0], size[1] - resolution[1])
    if draw is None:
        return round(room[0] / 2), round(room[1] / 2)
    return math.floor(draw[0] * (room[0] + 1)), math.floor(draw[1] * (room[1] + 1))


def resize_to_cover(
    picture: UInt8[np.ndarray, "H W 3"], resolution: tuple[int, int], interpolation: str = "bilinear"
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture at `resized_size`, by Pillow's antialiased filter of that name."""
    return np.asarray(_covering(Image.fromarray(picture), resolution, interpolation))


def _covering(image: Image.Image, resolution: tuple[int, int], interpolation: str) -> Image.Image:
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"--image_interpolation_mode {interpolation!r} is not one of {', '.join(INTERPOLATIONS)}.")
    width, height = image.size
    height, width = resized_size((height, width), resolution)
    return image if (width, height) == image.size else image.resize((width, height), INTERPOLATIONS[interpolation])


def scaled(picture: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture at that height and width, by Pillow's antialiased bilinear filter."""
    return np.asarray(_at_size(Image.fromarray(picture), size))


def _at_size(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def crop(
    resized: UInt8[np.ndarray, "H W 3"],
    resolution: tuple[int, int],
    original_size: tuple[int, int],
    *,
    center_crop: bool = False,
    crop_draw: tuple[float, float] = (0.5, 0.5),
    flip: bool = False,
) -> Crop:
    """The crop of a picture that covers the resolution; it is flipped first, as the SDXL scripts do."""
    shown = resized[:, ::-1] if flip else resized
    top, left = crop_position(shown.shape[:2], resolution, None if center_crop else crop_draw)
    h, w = resolution
    return Crop(np.ascontiguousarray(shown[top : top + h, left : left + w]), (top, left), original_size)


def resize_and_crop(
    picture: UInt8[np.ndarray, "H W 3"],
    resolution: tuple[int, int],
    *,
    center_crop: bool = False,
    crop_draw: tuple[float, float] = (0.5, 0.5),
    flip: bool = False,
    interpolation: str = "bilinear",
) -> Crop:
    """The diffusers scripts' transforms: Resize, RandomHorizontalFlip, then CenterCrop or RandomCrop.

    `crop_draw` are two numbers in 0..1 for top and left; `flip` is a decision, not a chance.
    """
    resized = resize_to_cover(picture, resolution, interpolation)
    size = picture.shape[:2]
    return crop(resized, resolution, size, center_crop=center_crop, crop_draw=crop_draw, flip=flip)


def to_model_range(pixels: UInt8[np.ndarray, "*b H W c"]) -> Float[np.ndarray, "*b H W c"]:
    """0..255 as float32 in -1..1, bit for bit torchvision's ToTensor and Normalize([0.5], [0.5])."""
    half = np.float32(0.5)
    return (pixels.astype(np.float32) / np.float32(255) - half) / half


def lettered(
    text: str, width: int, size: int = 13, ink: str = "black", paper: str = "white"
) -> UInt8[np.ndarray, "H W 3"]:
    """A line of text, `width` pixels wide; a text that is too long loses its middle."""
    font = ImageFont.load_default(size=size)
    shown = text = " ".join(text.split())
    kept = len(text)
    while kept and font.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    image = Image.new("RGB", (width, round(size * 1.4)), paper)
    ImageDraw.Draw(image).text((0, 0), shown, fill=ink, font=font)
    return np.asarray(image)


def write_png(path: Path, pixels: UInt8[np.ndarray, "H W 3"], settings: dict[str, str]) -> None:
    """Writes the picture whole or not at all, each setting as a text chunk."""
    info = PngInfo()
    for name, value in settings.items():
        info.add_itxt(name, value)
    partial = path.with_name(f".{path.name}.partial")
    try:
        Image.fromarray(pixels).save(partial, format="PNG", pnginfo=info)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_png_settings(path: Path) -> dict[str, str]:
    """The text chunks of a PNG; nothing for other files and for those that cannot be read."""
    try:
        with Image.open(path) as image:
            return {str(name): str(value) for name, value in getattr(image, "text", {}).items()}
    except OSError:
        return {}
