"""One look at every picture of a set."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flaxdream.data.examined import examine
from flaxdream.data.prompted_folder import PromptedFolder
from tests.data.photos import photo


@pytest.fixture
def folder(tmp_path):
    photo(0).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    photo(1).save(tmp_path / "c.jpg")
    (tmp_path / "d.jpg").write_bytes((tmp_path / "c.jpg").read_bytes()[:-1500])
    (tmp_path / "e.jpg").write_text("no picture")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(2).save(tmp_path / "f.jpg", exif=exif)
    return tmp_path


@pytest.mark.parametrize("workers", [1, 3])
def test_each_picture_has_its_place_and_broken_ones_their_reason(folder, workers):
    done = []
    seen = examine(PromptedFolder(folder, "a dog"), 128, num_workers=workers, progress=done.append)
    assert sum(done) == 6
    assert seen.readable.tolist() == [0, 1, 2, 5]
    assert seen.sizes.tolist() == [[256, 320], [256, 320], [256, 320], [0, 0], [0, 0], [320, 256]]
    assert "cannot be decoded" in seen.broken[3] and "not that of a picture" in seen.broken[4]
    assert seen.digests[0] == seen.digests[1] != seen.digests[2]
    assert np.array_equal(seen.hashes[0], seen.hashes[1]) and not np.array_equal(seen.hashes[0], seen.hashes[2])
    assert np.array_equal(seen.thumbs[0], seen.thumbs[1]) and not seen.thumbs[3].any()
    assert np.isnan(seen.sharpness[[3, 4]]).all() and (seen.sharpness[seen.readable] > 3).all()
    assert seen.headers[5].orientation == 6


def test_sharpness_is_that_at_the_size_of_training(folder):
    pictures = PromptedFolder(folder, "a dog")
    photo(0).resize((1280, 1024), Image.Resampling.BICUBIC).save(folder / "a.png")
    at_full_size, at_a_quarter = (examine(pictures, side).sharpness[0] for side in (1024, 256))
    assert at_a_quarter > 4 * at_full_size


def test_a_file_that_went_away_is_broken(folder):
    pictures = PromptedFolder(folder, "a dog")
    (folder / "a.png").unlink()
    assert "does not exist" in examine(pictures, 64).broken[0]


def test_an_interrupt_is_not_swallowed(folder):
    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(PromptedFolder(folder, "a dog"), 64, num_workers=2, progress=stop)
