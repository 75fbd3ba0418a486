"""What the data flags open."""

from __future__ import annotations

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flaxdream.data.folder_set import FolderSet
from flaxdream.data.hub_set import HubSet
from flaxdream.data.sources import open_pictures, open_stream
from flaxdream.data.streamed import StreamedRows
from flaxdream.data.tar_set import TarSet
from tests.data.test_folder_set import picture
from tests.data.test_hub_set import cache, table  # noqa: F401
from tests.data.test_tar_set import sample, write_tar


@pytest.fixture
def folder(tmp_path):
    """Captioned pictures, with a metadata file that may be parquet."""
    picture(tmp_path / "pictures/a.png")
    rows = {"file_name": ["a.png"], "text": ["from the table"]}
    pq.write_table(pa.table(rows), tmp_path / "pictures/metadata.parquet")
    (tmp_path / "pictures/a.txt").write_text("from the text file")
    return str(tmp_path / "pictures")


@pytest.fixture
def parquet(tmp_path):
    (tmp_path / "tables/data").mkdir(parents=True)
    pq.write_table(table(2), tmp_path / "tables/data/train-0.parquet")
    pq.write_table(table(1), tmp_path / "tables/data/validation-0.parquet")
    return str(tmp_path / "tables")


@pytest.fixture
def tars(tmp_path):
    write_tar(tmp_path / "tars/0.tar", sample(0))
    return str(tmp_path / "tars")


def test_a_folder_of_pictures_is_known_by_its_content(folder):
    for found in (
        open_pictures(train_data_dir=folder),
        open_pictures("imagefolder", train_data_dir=folder),
        open_pictures(folder),
    ):
        assert isinstance(found, FolderSet) and found.captions(0) == ("from the table",)
    assert open_pictures(train_data_dir=folder, captions="txt").captions(0) == ("from the text file",)
    assert open_pictures(train_data_dir=folder, captions="filename").captions(0) == ("a",)


def test_tars_are_known_by_their_names(tars, tmp_path):
    for found in (
        open_pictures(train_data_dir=tars, cache_dir=str(tmp_path / "index")),
        open_pictures("webdataset", train_data_dir=tars),
        open_pictures(f"{tars}/{{0..0}}.tar"),
    ):
        assert isinstance(found, TarSet) and found.captions(0) == ("photo 0",)
    assert len(list((tmp_path / "index").iterdir())) == 1


def test_parquet_and_saved_sets_are_read_by_datasets(parquet, tmp_path):
    file = f"{parquet}/data/train-0.parquet"
    for found in (
        open_pictures(parquet),
        open_pictures(train_data_dir=parquet),
        open_pictures("parquet", train_data_dir=parquet),
        open_pictures("parquet", train_data_dir=file),
        open_pictures(file, cache_dir=str(tmp_path / "elsewhere")),
    ):
        assert isinstance(found, HubSet) and len(found) == 2 and found.captions(1) == ("photo 1",)
    assert len(open_pictures(parquet, split="validation")) == 1
    assert (tmp_path / "elsewhere").is_dir()
    datasets.Dataset(table(3)).save_to_disk(str(tmp_path / "saved"))
    assert len(open_pictures(train_data_dir=str(tmp_path / "saved"))) == 3


def test_columns_are_passed_on(parquet, folder):
    with pytest.raises(ValueError, match=r"has no column 'img' \(--image_column\); it has id, image, text"):
        open_pictures(parquet, image_column="img")
    for where in (parquet, folder):
        with pytest.raises(ValueError, match=r"has no column 'prompt' \(--caption_column\); it has"):
            open_pictures(where, caption_column="prompt")
        with pytest.raises(ValueError, match="missing caption 'maybe' is not one of"):
            open_pictures(where, missing_caption="maybe")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "there is no data: give --train_data_dir FOLDER or --dataset_name NAME"),
        ({"dataset_name": "imagefolder"}, "--dataset_name imagefolder is a kind of data; --train_data_dir says where"),
        ({"train_data_dir": "nowhere"}, "--train_data_dir nowhere: there is no such folder"),
        ({"dataset_name": "no/where"}, "--dataset_name no/where: the Hub cannot be reached"),
        ({"dataset_name": "tfds:no_such_set"}, "TensorFlow Datasets knows no set of this name"),
        ({"train_data_dir": "nowhere/{0..3}.tar"}, "nowhere/0.tar: there is no such tar file"),
    ],
)
def test_flags_that_name_no_data_are_refused(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_pictures(**flags)


def test_an_empty_folder_and_a_strange_file_say_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match="there is no picture with a caption; expected pictures with text files"):
        open_pictures(train_data_dir=str(tmp_path))
    (tmp_path / "notes.doc").touch()
    with pytest.raises(ValueError, match=r"notes.doc is a file; expected a folder, \*.tar, \*.parquet or \*.arrow"):
        open_pictures(train_data_dir=str(tmp_path / "notes.doc"))


def test_streams_are_opened_by_the_same_flags(parquet, tars):
    for flags in (
        {"dataset_name": parquet},
        {"train_data_dir": parquet},
        {"train_data_dir": f"{parquet}/data/train-0.parquet"},
    ):
        dataset, name = open_stream(**flags)
        rows = StreamedRows(dataset, name, 2, 0)
        assert sorted(row.caption for row in rows.rows(0)) == ["photo 0", "photo 1"]
    dataset, name = open_stream(train_data_dir=parquet, split="validation")
    assert StreamedRows(dataset, name, 1, 0).rows(0)[0].caption == "photo 0"
    for where in (tars, f"{tars}/{{0..0}}.tar"):
        dataset, name = open_stream(train_data_dir=where)
        rows = StreamedRows(dataset, name, 1, 0, image_column="jpg", caption_column="txt")
        assert rows.rows(0)[0].caption == "photo 0" and rows.size(0) == (6, 8)
    with pytest.raises(ValueError, match=r"no column 'image' \(--image_column\); it has .*jpg.*txt"):
        StreamedRows(dataset, name, 1, 0)


def test_what_is_read_at_random_is_no_stream(folder):
    with pytest.raises(ValueError, match="is a folder of pictures, which is read at random; leave --streaming out"):
        open_stream(train_data_dir=folder)
    with pytest.raises(ValueError, match="tfds:mnist is read at random"):
        open_stream("tfds:mnist")
