"""Hugging Face data sets on this machine."""

from __future__ import annotations

import io
import os

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flaxdream.data.hub_loading import load_split
from flaxdream.data.hub_set import HubSet
from flaxdream.data.images import BrokenPicture


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def encoded(number, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 4 + number, 3), 10 * number, np.uint8)).save(stream, kind)
    return stream.getvalue()


def table(count, captions=None, start=0):
    cells = [{"bytes": encoded(start + number), "path": f"{start + number}.png"} for number in range(count)]
    texts = [f"photo {start + number}" for number in range(count)] if captions is None else captions
    return pa.table({"id": list(range(count)), "image": cells, "text": texts})


@pytest.fixture
def parquet(tmp_path):
    """A folder as the Hub has them: two files of the train split, one of validation."""
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    pq.write_table(table(3), folder / "data/train-00000-of-00002.parquet")
    pq.write_table(table(2, start=3), folder / "data/train-00001-of-00002.parquet")
    pq.write_table(table(1, start=7), folder / "data/validation-00000-of-00001.parquet")
    return folder


def opened(folder, split="train", **options):
    return HubSet(load_split(str(folder), split=split), "set", **options)


def test_rows_of_a_folder_of_parquet_files_are_pictures_with_captions(parquet, capfd):
    found = opened(parquet)
    assert len(found) == 5 and found.notes == ()
    for number in range(5):
        assert found.captions(number) == (f"photo {number}",)
        assert found.size(number) == (6, 4 + number)
        assert found.read(number).shape == (6, 4 + number, 3) and (found.read(number) == 10 * number).all()
    assert str(found.path(2)) == "set/row 2"
    assert opened(parquet, "validation").captions(0) == ("photo 7",)
    assert capfd.readouterr() == ("", "")  # neither progress bars nor log lines


def test_our_own_reader_decodes(tmp_path):
    """A transparent picture lies on white, as everywhere here; `datasets` would hand out four channels."""
    stream = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(stream, "PNG")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    dataset = datasets.Dataset.from_dict({"image": [stream.getvalue()], "text": ["a"]}, features=features)
    assert (HubSet(dataset, "set").read(0) == 255).all()


def test_cells_may_be_bytes_or_paths(tmp_path):
    (tmp_path / "p.png").write_bytes(encoded(2))
    for cells in ([encoded(2)], [str(tmp_path / "p.png")], [{"bytes": None, "path": str(tmp_path / "p.png")}]):
        found = HubSet(datasets.Dataset.from_dict({"image": cells, "text": ["a"]}), "set")
        assert found.read(0).shape == (6, 6, 3) and found.size(0) == (6, 6)


def test_several_captions_a_row_and_class_labels():
    found = HubSet(datasets.Dataset.from_dict({"image": [encoded(0)], "text": [["one", " ", "two"]]}), "set")
    assert found.captions(0) == ("one", "two")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    labelled = datasets.Dataset.from_dict({"img": [encoded(0)] * 2, "label": [1, 0]}, features=features)
    found = HubSet(labelled, "set", image_column="img", caption_column="label")
    assert [found.captions(index) for index in range(2)] == [("dog",), ("cat",)]


def test_rows_without_caption_are_left_out_counted_and_named():
    dataset = datasets.Dataset(table(4, captions=["a", None, " ", "b"]))
    found = HubSet(dataset, "set")
    assert [found.captions(index) for index in range(len(found))] == [("a",), ("b",)]
    assert found.size(1) == (6, 7) and str(found.path(1)) == "set/row 3"
    assert found.notes == ("set: left out 2 rows without caption: row 1, row 2",)
    assert [HubSet(dataset, "set", missing_caption="empty").captions(index) for index in range(3)] == [
        ("a",),
        ("",),
        ("",),
    ]
    with pytest.raises(ValueError, match="set/row 1: column 'text' holds no caption"):
        HubSet(dataset, "set", missing_caption="error")
    with pytest.raises(ValueError, match="there is no row with a caption; set: left out 1 rows"):
        HubSet(datasets.Dataset(table(1, captions=[""])), "set")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "img"}, r"set has no column 'img' \(--image_column\); it has id, image, text"),
        ({"caption_column": "prompt"}, r"set has no column 'prompt' \(--caption_column\); it has id, image, text"),
        ({"image_column": "id"}, "column 'id' holds .*int64.*; expected pictures, bytes or paths"),
        ({"caption_column": "id"}, "set/row 0: '0' is int; expected a text or a list of texts"),
        ({"missing_caption": "guess"}, "missing caption 'guess' is not one of"),
    ],
)
def test_wrong_columns_are_refused_with_those_that_there_are(options, message):
    with pytest.raises(ValueError, match=message):
        HubSet(datasets.Dataset(table(2)), "set", **options)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ({"bytes": b"no picture", "path": None}, "the content is not that of a picture"),
        ({"bytes": None, "path": None}, "the row holds no picture"),
        ({"bytes": None, "path": "https://example.com/a.png"}, "the row holds the address https://example.com/a.png"),
    ],
)
def test_a_broken_cell_is_a_broken_picture_with_the_name_of_its_row(cell, reason):
    cells = pa.array([cell], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    found = HubSet(datasets.Dataset(pa.table({"image": cells, "text": ["a"]})), "set")
    for ask in (found.read, found.size):
        with pytest.raises(BrokenPicture, match=f"set/row 0: {reason}"):
            ask(0)


def test_a_saved_data_set_is_loaded_from_disk(tmp_path):
    whole = datasets.DatasetDict({"train": datasets.Dataset(table(2)), "valid": datasets.Dataset(table(1))})
    whole.save_to_disk(str(tmp_path / "saved"))
    assert len(opened(tmp_path / "saved")) == 2
    assert len(opened(tmp_path / "saved", "validation")) == 1
    datasets.Dataset(table(3)).save_to_disk(str(tmp_path / "one"))
    assert len(opened(tmp_path / "one")) == 3


def test_a_missing_split_and_a_missing_set_say_what_to_do(parquet):
    with pytest.raises(ValueError, match="has no split 'test'; it has train, validation"):
        load_split(str(parquet), split="test")
    with pytest.raises(ValueError, match="--dataset_name nobody/nothing: the Hub cannot be reached"):
        load_split("nobody/nothing")
    with pytest.raises(ValueError, match="cannot be loaded: BuilderConfig 'other' not found"):
        load_split(str(parquet), "other")


def test_a_damaged_file_is_said_to_be_unreadable(parquet):
    (parquet / "data/train-00000-of-00002.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_split(str(parquet))


def test_the_fingerprint_follows_captions_and_pictures_but_not_how_the_rows_are_cut_into_files(tmp_path):
    first = HubSet(datasets.Dataset(table(4)), "set").fingerprint
    cut = datasets.concatenate_datasets([datasets.Dataset(table(3)), datasets.Dataset(table(1, start=3))])
    assert HubSet(cut, "elsewhere").fingerprint == first
    others = [table(3), table(4, start=1), table(4, captions=["a", "b", "c", "d"])]
    assert len({first, *(HubSet(datasets.Dataset(other), "set").fingerprint for other in others)}) == 4


def test_settings_of_the_library_are_left_as_they_were(parquet):
    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    load_split(str(parquet))
    assert (datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()) == (bars, level)
    assert "HF_DATASETS_DISABLE_PROGRESS_BARS" not in os.environ
