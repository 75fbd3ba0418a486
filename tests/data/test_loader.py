"""Batches of arrays for each process, from any step."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from PIL import Image

from flaxdream.data.concept_pictures import Picture
from flaxdream.data.dreambooth import DreamBoothRows
from flaxdream.data.images import BrokenPicture, read_picture, resize_and_crop, to_model_range
from flaxdream.data.loader import Loader, LoaderSettings


@pytest.fixture
def rows(tmp_path):
    """5 instance and 3 class pictures of several sizes."""
    found = []
    for number in range(8):
        path = tmp_path / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (9 + number, 12, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        found.append(Picture(path, f"picture {number % 3}", 0, number >= 5))
    return DreamBoothRows(found, 4, 7, prior_loss_weight=0.5)


SETTINGS = LoaderSettings((8, 8), random_flip=True)


def equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
        assert first[name].dtype == second[name].dtype


def test_a_batch_holds_the_crops_that_its_rows_describe(rows):
    batch = Loader(rows, SETTINGS).batch(3)
    assert batch["pixels"].shape == (8, 8, 8, 3) and batch["pixels"].dtype == np.float32
    for place, row in enumerate(rows.rows(3)):
        cut = resize_and_crop(read_picture(row.path), (8, 8), crop_draw=row.crop_draw, flip=row.flip_draw < 0.5)
        np.testing.assert_array_equal(batch["pixels"][place], to_model_range(cut.pixels))
        assert tuple(batch["top_left"][place]) == cut.top_left
        assert tuple(batch["original_size"][place]) == cut.original_size
        assert rows.captions[batch["caption_index"][place]] == row.caption
        assert (batch["row"][place], batch["index"][place]) == (place, row.index)
        assert (batch["weight"][place], batch["is_class"][place]) == (row.weight, row.is_class)


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_the_processes_share_a_batch_whatever_their_number(rows, process_count):
    whole = Loader(rows, SETTINGS).batch(2)
    parts = [
        Loader(rows, SETTINGS, process_index=i, process_count=process_count).batch(2) for i in range(process_count)
    ]
    equal({name: np.concatenate([part[name] for part in parts]) for name in whole}, whole)


def test_a_mesh_may_ask_for_other_rows(rows):
    whole = Loader(rows, SETTINGS).batch(2)
    equal(Loader(rows, SETTINGS, local_rows=[1, 6]).batch(2), {name: value[[1, 6]] for name, value in whole.items()})


@pytest.mark.parametrize("means", [{"num_workers": 2}, {"num_workers": 3, "prefetch": 0}, {"cache_bytes": 0}])
def test_workers_and_cache_change_no_number_and_a_resumed_run_goes_on_the_same(rows, means):
    unbroken = list(Loader(rows, SETTINGS).batches(0, 5))
    resumed = Loader(rows, LoaderSettings((8, 8), random_flip=True, **means)).batches(2)
    for expected, batch in zip(unbroken[2:], itertools.islice(resumed, 3), strict=True):
        equal(batch, expected)
    resumed.close()


def test_batches_end_where_they_are_told_to(rows):
    for num_workers in (0, 2):
        loader = Loader(rows, LoaderSettings((8, 8), num_workers=num_workers))
        assert len(list(loader.batches(3, 5))) == 2
        assert list(loader.batches(5, 5)) == []


def test_pixels_may_stay_bytes(rows):
    batch = Loader(rows, LoaderSettings((8, 8), float_pixels=False)).batch(0)
    assert batch["pixels"].dtype == np.uint8
    np.testing.assert_array_equal(
        to_model_range(batch["pixels"]), Loader(rows, LoaderSettings((8, 8))).batch(0)["pixels"]
    )


def test_a_picture_looks_different_at_another_step_and_the_same_with_center_crop(rows):
    def distinct(settings):
        loader = Loader(rows, settings)
        seen = [batch["pixels"][batch["index"] == 0] for batch in loader.batches(0, 20)]
        return len(np.unique(np.concatenate(seen), axis=0))

    assert distinct(SETTINGS) > 2
    assert distinct(LoaderSettings((8, 8), center_crop=True)) == 1


def test_only_crops_and_flips_that_can_differ_count_as_augmentation(rows, tmp_path):
    assert Loader(rows, LoaderSettings((8, 8))).augments
    assert not Loader(rows, LoaderSettings((8, 8), center_crop=True)).augments
    assert Loader(rows, LoaderSettings((8, 8), center_crop=True, random_flip=True)).augments
    Image.new("RGB", (20, 20)).save(tmp_path / "square.png")
    square = DreamBoothRows([Picture(tmp_path / "square.png", "a", 0, False)], 1, 0)
    assert not Loader(square, LoaderSettings((8, 8))).augments
    assert Loader(square, LoaderSettings((8, 6))).augments


def test_the_picture_of_an_index_is_what_every_step_sees(rows):
    loader = Loader(rows, LoaderSettings((8, 8), center_crop=True, float_pixels=False))
    batch = loader.batch(0)
    for index, pixels in zip(batch["index"], batch["pixels"], strict=True):
        np.testing.assert_array_equal(loader.picture(index).pixels, pixels)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pictures_made_ahead_are_those_made_one_by_one(rows, num_workers):
    loader = Loader(rows, LoaderSettings((8, 8), num_workers=num_workers, cache_bytes=0))
    asked = [[0, 3], [7], [1, 2, 4], [3]]
    made = list(loader.pictures(asked))
    assert [len(crops) for crops in made] == [2, 1, 3, 1]
    for index, cut in zip(itertools.chain(*asked), itertools.chain(*made), strict=True):
        expected = loader.picture(index)
        np.testing.assert_array_equal(cut.pixels, expected.pixels)
        assert (cut.top_left, cut.original_size) == (expected.top_left, expected.original_size)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_few_batches_of_pictures_are_made_ahead_in_threads_that_end_with_them(rows, num_workers):
    def asked():
        for index in range(8):
            taken.append(index)
            yield [index]

    def threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith("flaxdream-loader")]

    taken = []
    loader = Loader(rows, LoaderSettings((8, 8), num_workers=num_workers, cache_bytes=0))
    pictures = loader.pictures(asked())
    next(pictures)
    assert taken == [0, 1, 2] and threads()
    pictures.close()
    assert not threads()
    rows.path(4).unlink()
    pictures = loader.pictures(asked())
    assert [len(next(pictures)) for _ in range(4)] == [1] * 4
    with pytest.raises(BrokenPicture, match="the file does not exist"):
        next(pictures)
    assert not threads()


def test_a_full_cache_reads_from_disk_and_a_roomy_one_does_not(rows):
    loader = Loader(rows, LoaderSettings((8, 8), center_crop=True, float_pixels=False, cache_bytes=1300))
    kept = [loader.picture(index).pixels for index in range(8)]
    for path in {picture.path for picture in rows.pictures}:
        path.unlink()
    still = []
    for index in range(8):
        try:
            np.testing.assert_array_equal(loader.picture(index).pixels, kept[index])
            still.append(index)
        except BrokenPicture:
            pass
    assert 4 <= len(still) < 8 and still == list(range(len(still)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_that_vanishes_is_named(rows, num_workers):
    loader = Loader(rows, LoaderSettings((8, 8), num_workers=num_workers, cache_bytes=0))
    batches = loader.batches()
    next(batches)
    for picture in rows.pictures:
        picture.path.unlink(missing_ok=True)
    with pytest.raises(BrokenPicture, match=r"\d.png: the file does not exist; was it moved or deleted"):
        for _ in range(5):
            next(batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_picture_weighs_nothing_where_the_user_goes_on_without_it(rows, num_workers):
    whole = next(Loader(rows, LoaderSettings((8, 8))).batches())
    gone = rows.path(int(whole["index"][0]))
    gone.unlink()
    loader = Loader(rows, LoaderSettings((8, 8), num_workers=num_workers, skip_broken=True))
    batch = next(loader.batches())
    lost = whole["index"] == whole["index"][0]
    assert set(loader.broken) == {gone} and "does not exist" in loader.broken[gone]
    np.testing.assert_array_equal(batch["weight"], np.where(lost, 0, whole["weight"]))
    np.testing.assert_array_equal(batch["pixels"][~lost], whole["pixels"][~lost])
    assert np.isfinite(batch["pixels"]).all()
    assert loader.augments


def test_shares_that_are_not_equal_are_refused(rows):
    with pytest.raises(ValueError, match="a batch of 8 rows cannot be cut into 3 equal parts"):
        Loader(rows, SETTINGS, process_count=3)
    with pytest.raises(ValueError, match="process 2 of 2 processes"):
        Loader(rows, SETTINGS, process_index=2, process_count=2)
