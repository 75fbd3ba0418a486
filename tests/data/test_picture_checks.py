"""What is wrong with pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from flaxdream.data.crop_checks import square_cuts
from flaxdream.data.examined import examine
from flaxdream.data.left_out import LeftOut
from flaxdream.data.picture_checks import (
    blurred_pictures,
    broken_pictures,
    copies,
    cropped_pictures,
    handled_pictures,
    left_out_findings,
    small_pictures,
)
from flaxdream.data.prompted_folder import PromptedFolder
from tests.data.photos import photo


@pytest.fixture
def look(tmp_path):
    """Saves pictures by name and looks at them; a number is a seed."""

    def looked(resolution=128, **images):
        for name, image in images.items():
            (photo(image) if isinstance(image, int) else image).save(tmp_path / f"{name}.png")
        pictures = PromptedFolder(tmp_path, "a dog")
        return pictures, examine(pictures, resolution)

    return looked


def names(finding):
    return [case.names for case in finding.cases]


def test_nothing_is_found_in_a_good_set(look):
    pictures, seen = look(**{name: seed for seed, name in enumerate("abcde")})
    cuts = square_cuts(seen.sizes, 128)
    assert not list(broken_pictures(pictures, seen)) and not list(copies(pictures, seen))
    assert not list(small_pictures(pictures, seen, cuts.scales, 128))
    assert not list(blurred_pictures(pictures, seen, 1.0)) and not list(handled_pictures(pictures, seen))
    assert not list(cropped_pictures(pictures, cuts.cropped, "to make a square", ""))


def test_broken_pictures_are_errors_with_their_reason(look, tmp_path):
    (tmp_path / "bad.png").write_text("x")
    pictures, seen = look(good=1)
    (finding,) = broken_pictures(pictures, seen)
    assert (finding.level, finding.title) == ("error", "1 picture that cannot be read")
    assert names(finding) == [("bad.png",)] and "not that of a picture" in finding.cases[0].detail


def test_a_copy_is_exact_or_alike_but_not_both(look):
    pictures, seen = look(a=0, b=0, c=photo(0).resize((200, 160)), d=1, e=0)
    exact, near = copies(pictures, seen)
    assert (exact.kind, exact.title, exact.level) == ("copies", "2 exact copies of other pictures", "warning")
    assert names(exact) == [("a.png", "b.png", "e.png")]
    assert (near.kind, near.title) == ("alike", "2 pictures that look alike, in 1 group")
    assert names(near) == [("a.png", "c.png")] and near.cases[0].pictures == (0, 2)


def test_small_pictures_come_the_smallest_first_with_their_scale(look):
    pictures, seen = look(a=photo(0, 100, 200), b=photo(1, 40, 64), c=photo(2, 128, 128))
    (finding,) = small_pictures(pictures, seen, square_cuts(seen.sizes, 128).scales, 128)
    assert finding.title == "2 pictures too small for --resolution 128"
    assert [(case.names[0], case.detail) for case in finding.cases] == [
        ("b.png", "64 x 40, enlarged 3.2 times"), ("a.png", "200 x 100, enlarged 1.3 times"),
    ]  # fmt: skip


def test_blurred_pictures_come_the_worst_first_and_blank_ones_apart(look):
    soft, softer = (photo(0).filter(ImageFilter.GaussianBlur(radius)) for radius in (4, 6))
    pictures, seen = look(a=soft, b=softer, c=0, d=Image.new("RGB", (200, 200), "red"), resolution=256)
    blurred, blank = blurred_pictures(pictures, seen, 1.0)
    assert names(blurred) == [("b.png",), ("a.png",)] and blurred.cases[0].detail.startswith("sharpness 0.")
    assert (blank.kind, names(blank)) == ("blank", [("d.png",)])
    assert [finding.kind for finding in blurred_pictures(pictures, seen, 0.0)] == ["blank"]


def test_a_picture_that_loses_more_than_half_is_named(look):
    pictures, seen = look(wide=photo(0, 128, 280), half=photo(1, 128, 256))
    (finding,) = cropped_pictures(pictures, square_cuts(seen.sizes, 128).cropped, "to make a square", "Cut it.")
    assert names(finding) == [("wide.png",)] and finding.cases[0].detail == "54% cut away"
    assert finding.title == "1 picture of which more than 50% is cut away to make a square"


def test_what_is_done_with_odd_files_is_a_note(look, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    photo(0).save(tmp_path / "turned.jpg", exif=exif)
    photo(1).convert("CMYK").save(tmp_path / "print.jpg")
    photo(2).save(tmp_path / "frames.gif", save_all=True, append_images=[photo(3)])
    glass = photo(4).convert("RGBA")
    glass.putalpha(Image.fromarray(np.full((256, 320), 128, np.uint8)))
    pictures, seen = look(glass=glass, plain=5)
    found = {finding.kind: finding for finding in handled_pictures(pictures, seen)}
    assert {kind: names(finding)[0][0] for kind, finding in found.items()} == {
        "turned": "turned.jpg", "cmyk": "print.jpg", "animated": "frames.gif", "transparent": "glass.png",
    }  # fmt: skip
    assert {finding.level for finding in found.values()} == {"note"}


def test_empty_files_and_broken_links_are_errors_and_other_files_a_note():
    left_out = LeftOut()
    for reason, name in (("other files", "a.doc"), ("empty files", "b.png"), ("empty files", "c.png")):
        left_out.add(reason, name)
    left_out.add("broken links", "d.png")
    found = {finding.title: (finding.level, names(finding)) for finding in left_out_findings(left_out)}
    assert found == {
        "1 other file": ("note", [("a.doc",)]),
        "2 empty files": ("error", [("b.png",), ("c.png",)]),
        "1 broken link": ("error", [("d.png",)]),
    }
