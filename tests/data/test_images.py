"""Picture files of every kind to RGB, and the cut to the size of training."""

from __future__ import annotations

import importlib.util
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from flaxdream.data.images import (
    BrokenPicture,
    crop_position,
    is_picture,
    lettered,
    picture_size,
    read_picture,
    read_png_settings,
    read_small,
    read_to_cover,
    resize_and_crop,
    resize_to_cover,
    resized_size,
    scaled,
    to_model_range,
    write_png,
)

STORED = (np.arange(4 * 6 * 3).reshape(4, 6, 3) * 3).astype(np.uint8)  # no symmetry
# What EXIF's orientation asks of a viewer, by its definition of where row 0 and column 0 belong.
UPRIGHT = {
    1: lambda s: s,
    2: lambda s: s[:, ::-1],
    3: lambda s: s[::-1, ::-1],
    4: lambda s: s[::-1],
    5: lambda s: s.transpose(1, 0, 2),
    6: lambda s: np.rot90(s, -1),
    7: lambda s: s[::-1, ::-1].transpose(1, 0, 2),
    8: lambda s: np.rot90(s, 1),
}


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, color_type, data, extra=b""):
    """A PNG by hand, for kinds that Pillow reads and does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(data)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_every_exif_orientation_is_shown_upright(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(STORED).save(path, exif=exif(orientation), **options)
    picture = read_picture(path)
    np.testing.assert_array_equal(picture, UPRIGHT[orientation](STORED))
    assert picture_size(path) == picture.shape[:2]


def test_a_turned_jpeg_has_the_turned_size(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(STORED).save(path, exif=exif(6))
    assert picture_size(path) == read_picture(path).shape[:2] == (6, 4)


def test_a_turned_picture_with_transparency_is_turned_too(tmp_path):
    stored = np.dstack([STORED, np.full((4, 6), 255, np.uint8)])
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif(6))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), np.rot90(STORED, -1))


def test_a_damaged_exif_block_leaves_the_picture_as_it_is(tmp_path):
    Image.fromarray(STORED).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01\x12")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), STORED)


def test_transparency_lies_on_white(tmp_path):
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0, 0] = 200, 10, 10, 255
    rgba[0, 1] = 200, 10, 10, 0
    rgba[0, 2] = 0, 0, 0, 128
    Image.fromarray(rgba).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture[0].tolist() == [[200, 10, 10], [255, 255, 255], [127, 127, 127]]


def test_grey_pictures_have_three_equal_channels(tmp_path):
    grey = np.array([[0, 100, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "l.png")
    Image.fromarray(np.dstack([grey, np.array([[255, 255, 0]], np.uint8)])).save(tmp_path / "la.png")
    assert read_picture(tmp_path / "l.png")[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]
    assert read_picture(tmp_path / "la.png")[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]


def test_one_bit_pictures_are_black_and_white(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png")[0].tolist() == [[0] * 3, [255] * 3]


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk_pictures_have_their_colours(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
        assert suffix != "jpg" or "adobe" in image.info  # the file holds inverted inks
    np.testing.assert_allclose(read_picture(path)[8, 8], [255, 0, 0], atol=3)


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 257, 30000, 65535]], np.uint16)
    for suffix in ("png", "tiff"):
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
        assert read_picture(tmp_path / f"a.{suffix}")[0, :, 0].tolist() == [0, 1, 117, 255]


def test_the_transparent_value_of_sixteen_bit_grey_is_white(tmp_path):
    Image.fromarray(np.array([[0, 257]], np.uint16)).save(tmp_path / "a.png", transparency=257)
    assert read_picture(tmp_path / "a.png")[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (6, 4)])
def test_sixteen_bit_colour_is_scaled_and_not_clipped(tmp_path, color_type, channels):
    values = np.array([[[0, 30000, 65535, 65535][:channels]]], ">u2")
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, color_type, b"\0" + values.tobytes()))
    np.testing.assert_allclose(read_picture(tmp_path / "a.png")[0, 0], [0, 30000 / 257, 255], atol=1)


def test_float_pictures_are_read_in_0_to_1_and_refused_elsewhere(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "a.tiff")
    assert read_picture(tmp_path / "a.tiff")[0, :, 0].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0.0, 300.0]], np.float32)).save(tmp_path / "b.tiff")
    with pytest.raises(BrokenPicture, match=r"0\.\.300 and not in 0\.\.1; save it with 8 or 16 bits"):
        read_picture(tmp_path / "b.tiff")


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_palettes_with_transparency_lie_on_white(tmp_path, transparency):
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=transparency)
    assert read_picture(tmp_path / "a.png")[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_a_transparent_colour_of_an_rgb_png_is_white(tmp_path):
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)).save(tmp_path / "a.png", transparency=(1, 2, 3))
    assert read_picture(tmp_path / "a.png")[0].tolist() == [[255, 255, 255], [4, 5, 6]]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_animated_files_give_their_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert read_picture(tmp_path / f"a.{suffix}")[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["webp", "bmp", "tga", "ppm", "jp2", "avif"])
def test_other_formats_are_read(tmp_path, suffix):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    Image.new("RGB", (16, 16), (250, 128, 4)).save(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(read_picture(tmp_path / f"a.{suffix}")[8, 8].astype(int), [250, 128, 4], atol=6)


@pytest.mark.parametrize("suffix", ["heic", "HEIF", "hif"])
def test_heic_is_read_and_shown_upright(tmp_path, suffix):
    pillow_heif = pytest.importorskip("pillow_heif")
    path = tmp_path / f"a.{suffix}"
    picture = np.full((32, 64, 3), (250, 128, 4), np.uint8)
    picture[:, 32:] = 0, 0, 250
    heif = pillow_heif.from_pillow(Image.fromarray(picture))
    heif.save(path, quality=-1, chroma=444, exif=exif(6).tobytes())
    shown = read_picture(path)
    assert shown.shape == (64, 32, 3) == (*picture_size(path), 3)
    np.testing.assert_allclose(shown.astype(int), np.rot90(picture, -1), atol=6)


def test_a_truncated_heic_is_broken(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    pillow_heif.from_pillow(Image.fromarray(noise)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BrokenPicture, match="a.heic: "):
        read_picture(path)


def test_heic_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BrokenPicture, match="pip install pillow-heif"):
        read_picture(tmp_path / "a.HEIC")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif"])
def test_a_truncated_file_is_broken(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BrokenPicture, match=f"a.{suffix}: "):
        read_picture(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"not a picture", "not that of a picture"),
        (png(60000, 60000, 8, 2, b""), "too many pixels"),
        (png(2, 2, 8, 2, b"\0" * 14).replace(b"IDAT", b"IDAT\0", 1), "cannot be decoded"),
    ],
)
def test_a_broken_file_says_why(tmp_path, content, reason):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BrokenPicture, match=reason) as error:
        read_picture(tmp_path / "a.png")
    assert error.value.path == tmp_path / "a.png"


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    for read in (read_picture, picture_size):
        with pytest.raises(BrokenPicture, match="gone.png: the file does not exist"):
            read(tmp_path / "gone.png")


def test_pictures_are_known_by_extension_in_any_case():
    assert all(map(is_picture, ["a.JPG", "b.jpeg", "c.Png", "d.webp", "e.heic", "f.avif", "g.tif"]))
    assert not any(map(is_picture, ["a.txt", ".DS_Store", "Thumbs.db", "jpg", "a.json", "b.svg"]))


@pytest.mark.parametrize(
    ("size", "expected"),
    # torchvision: the shorter side is the size asked for, the longer int(size * long / short)
    [
        ((100, 100), (64, 64)),
        ((100, 150), (64, 96)),
        ((301, 200), (96, 64)),
        ((33, 77), (64, 149)),
        ((64, 65), (64, 65)),
    ],
)
def test_square_sizes_are_those_of_torchvision(size, expected):
    assert resized_size(size, (64, 64)) == expected


@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 128), st.integers(1, 128))
def test_the_resized_picture_covers_the_resolution_and_touches_it(height, width, h, w):
    new_height, new_width = resized_size((height, width), (h, w))
    assert new_height >= h and new_width >= w and (new_height == h or new_width == w)


def test_the_middle_is_rounded_to_even_halves():
    assert [crop_position((64 + room, 64), (64, 64), None)[0] for room in range(8)] == [0, 0, 1, 2, 2, 2, 3, 4]


def test_random_crops_reach_every_place_and_no_further():
    tops = {crop_position((67, 64), (64, 64), (draw, draw))[0] for draw in np.linspace(0, 1, 100, endpoint=False)}
    assert tops == {0, 1, 2, 3}
    assert crop_position((67, 64), (64, 64), (1 - 2**-53, 0.99)) == (3, 0)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"])
def test_a_crop_is_cut_from_the_resized_and_flipped_picture(interpolation):
    picture = np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)
    filter = Image.Resampling[interpolation.upper()]
    resized = np.asarray(Image.fromarray(picture).resize((13, 8), filter))
    cut = resize_and_crop(picture, (8, 8), crop_draw=(0.0, 0.4), flip=True, interpolation=interpolation)
    assert cut.top_left == (0, 2) and cut.original_size == (20, 33)
    np.testing.assert_array_equal(cut.pixels, resized[:, ::-1][:, 2:10])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_picture_read_to_cover_is_the_one_read_and_then_resized(tmp_path, mode, orientation):
    path = tmp_path / "a.tiff"
    noise = np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path, exif=exif(orientation))
    for resolution in ((8, 8), (40, 16)):
        resized, size = read_to_cover(path, resolution, "lanczos")
        whole = read_picture(path)
        assert size == whole.shape[:2]
        np.testing.assert_array_equal(resized, resize_to_cover(whole, resolution, "lanczos"))
    with pytest.raises(ValueError, match="'cubic' is not one of"):
        read_to_cover(path, (8, 8), "cubic")


def test_bytes_are_read_as_the_file_that_they_were(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(STORED).save(path, exif=exif(6))
    data = path.read_bytes()
    np.testing.assert_array_equal(read_picture("row 7", data), read_picture(path))
    assert picture_size("row 7", data) == picture_size(path)
    np.testing.assert_array_equal(read_to_cover("row 7", (3, 3), data=data)[0], read_to_cover(path, (3, 3))[0])
    for broken, reason in (
        (b"", "the file is empty"),
        (b"nonsense", "not that of a picture"),
        (data[:60], "cannot be"),
    ):
        with pytest.raises(BrokenPicture, match=f"row 7: .*{reason}"):
            read_picture("row 7", broken)


def test_an_unknown_interpolation_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"'cubic' is not one of nearest, bilinear, bicubic, box, hamming, lanczos"):
        resize_to_cover(np.zeros((4, 4, 3), np.uint8), (2, 2), "cubic")


def test_the_model_range_is_bitwise_that_of_torch():
    torch = pytest.importorskip("torch")
    pixels = np.arange(256, dtype=np.uint8)
    twin = torch.from_numpy(pixels).to(torch.float32).div(255).sub(0.5).div(0.5)  # ToTensor, Normalize([0.5], [0.5])
    assert to_model_range(pixels).dtype == np.float32
    np.testing.assert_array_equal(to_model_range(pixels), twin.numpy())


def test_bilinear_is_the_antialiased_filter_of_torch():
    torch = pytest.importorskip("torch")
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    twin = torch.nn.functional.interpolate(planes, (16, 16), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    ours = resize_and_crop(picture, (16, 16), center_crop=True).pixels
    np.testing.assert_allclose(ours, twin.numpy(), atol=1)  # Pillow rounds to 8 bits after each of its two passes


def test_settings_of_a_png_can_be_read_back(tmp_path):
    write_png(tmp_path / "a.png", STORED, {"prompt": "ein größerer Hund", "seed": "3"})
    assert read_png_settings(tmp_path / "a.png") == {"prompt": "ein größerer Hund", "seed": "3"}
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), STORED)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
def test_a_small_picture_is_the_upright_one_made_smaller(tmp_path, suffix, orientation):
    y, x = np.mgrid[0:240, 0:400]
    stored = np.stack([x * 255 // 400, y * 255 // 240, (x + y) * 255 // 640], axis=-1).astype(np.uint8)
    path = tmp_path / f"big.{suffix}"
    Image.fromarray(stored).save(path, exif=exif(orientation))
    small, header = read_small(path, 60)
    assert header.size == picture_size(path) == ((240, 400) if orientation == 1 else (400, 240))
    assert small.shape == ((60, 100, 3) if orientation == 1 else (100, 60, 3)) and header.orientation == orientation
    expected = scaled(read_picture(path), small.shape[:2])
    assert np.abs(small.astype(int) - expected).max() <= 4
    assert np.array_equal(read_small(path, 9999)[0], read_picture(path))


def test_the_header_says_what_kind_of_file_it_is(tmp_path):
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (6, 4)).save(tmp_path / "b.png")
    Image.new("CMYK", (6, 4)).save(tmp_path / "c.jpg")
    Image.new("RGBA", (6, 4), "red").save(tmp_path / "opaque.png")
    gif, png, jpeg = (read_small(tmp_path / name, 4)[1] for name in ("a.gif", "b.png", "c.jpg"))
    assert not read_small(tmp_path / "opaque.png", 4)[1].is_transparent
    assert (gif.format, gif.is_animated, gif.is_transparent) == ("GIF", True, False)
    assert (png.format, png.is_animated, png.is_transparent, png.orientation) == ("PNG", False, True, 1)
    assert (jpeg.format, jpeg.mode, jpeg.size) == ("JPEG", "CMYK", (4, 6))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_file_is_broken_however_small_it_is_read(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(BrokenPicture, match="cannot be decoded"):
        read_small(path, 8)


def test_letters_fill_their_width_and_a_long_text_loses_its_middle():
    short, long = lettered("abc", 120), lettered("abc" * 40 + "xyz", 120)
    assert short.shape == long.shape == (18, 120, 3)
    dark = (short < 128).any(axis=(0, 2))
    assert dark[:40].any() and not dark[40:].any()
    assert (long < 128).any(axis=(0, 2))[100:].any()
    assert np.array_equal(lettered("a\nb", 60), lettered("a b", 60))
