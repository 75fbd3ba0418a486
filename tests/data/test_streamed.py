"""Streams: every picture once an epoch, each host its share, and the place found again exactly."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flaxdream.data.hub_loading import load_split
from flaxdream.data.images import BrokenPicture
from flaxdream.data.loader import Loader, LoaderSettings
from flaxdream.data.stream_blocks import BlockStream
from flaxdream.data.streamed import StreamedRows
from flaxdream.data.tags import TagRules
from tests.data.test_hub_set import cache, encoded, table  # noqa: F401

FILES, PER_FILE = 4, 5
COUNT = FILES * PER_FILE


@pytest.fixture
def folder(tmp_path):
    """Twenty captioned pictures in four files; captions are "photo 0" to "photo 19"."""
    (tmp_path / "set/data").mkdir(parents=True)
    for number in range(FILES):
        path = tmp_path / f"set/data/train-{number:05d}-of-{FILES:05d}.parquet"
        pq.write_table(table(PER_FILE, start=number * PER_FILE), path, row_group_size=2)
    return str(tmp_path / "set")


def opened(folder, batch_size=4, seed=0, **options):
    return StreamedRows(load_split(folder, streaming=True), "set", batch_size, seed, **{"buffer_size": 7, **options})


def numbers(rows, steps):
    return [int(row.caption.removeprefix("photo ")) for step in steps for row in rows.rows(step)]


@pytest.mark.parametrize("buffer_size", [1, 6, 7, 20, 100])
def test_an_epoch_shows_each_picture_once_in_an_order_of_its_own(folder, buffer_size, capfd):
    rows = opened(folder, buffer_size=buffer_size)
    epochs = [numbers(rows, range(5 * epoch, 5 * epoch + 5)) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    rows.close()
    assert capfd.readouterr() == ("", "")


def test_seeds_have_orders_of_their_own_and_the_same_seed_has_the_same(folder):
    orders = [tuple(numbers(opened(folder, seed=seed), range(5))) for seed in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("hosts", [2, 3, 4])
def test_the_hosts_together_read_each_picture_once(folder, hosts):
    """Whole files where their number divides, else every n-th row."""
    parts = [opened(folder, hosts, process_index=host, process_count=hosts) for host in range(hosts)]
    first = [numbers(part, range(COUNT // hosts)) for part in parts]
    assert all(len(set(part)) == COUNT // hosts for part in first)
    if COUNT % hosts == 0:
        assert Counter(number for part in first for number in part) == dict.fromkeys(range(COUNT), 1)
    places = [row.row for part in parts for row in part.rows(COUNT // hosts)]
    assert places == list(range(hosts))


@pytest.mark.parametrize("hosts", [1, 2, 3])
@pytest.mark.parametrize("buffer_size", [3, 7, 20])
def test_a_stored_place_is_found_again_exactly(folder, hosts, buffer_size):
    options = {"batch_size": 4 * hosts, "process_index": hosts - 1, "process_count": hosts, "buffer_size": buffer_size}
    rows = opened(folder, proportion_empty_prompts=0.1, tags=TagRules(shuffle=True), **options)
    unbroken, states = [], []
    for step in range(14):
        states.append(json.loads(json.dumps(rows.state(step))))
        unbroken.append(rows.rows(step))
    for stop in range(0, 14, 3):
        resumed = opened(folder, proportion_empty_prompts=0.1, tags=TagRules(shuffle=True), **options)
        resumed.restore(states[stop])
        assert [resumed.rows(step) for step in range(stop, 14)] == unbroken[stop:]
        resumed.close()


def test_the_place_of_an_earlier_step_can_be_stored_while_later_rows_are_made_ahead(folder):
    rows = opened(folder, buffer_size=3)
    made = [rows.rows(step) for step in range(6)]
    state = rows.state(2)
    resumed = opened(folder, buffer_size=3)
    resumed.restore(state)
    assert [resumed.rows(step) for step in range(2, 6)] == made[2:]


def test_places_are_told_right_while_another_thread_reads(folder, monkeypatch):
    """With blocks of one row each row begins a block; where the place is told slowly the reader goes on meanwhile."""

    def slow(stream):
        if threading.current_thread() is threading.main_thread():
            time.sleep(0.005)
        return next_block(stream)

    alone, steps = opened(folder, batch_size=1, buffer_size=1), 12
    places = []
    for step in range(steps):
        places.append(alone.state(step))
        alone.rows(step)
    rows, next_block = opened(folder, batch_size=1, buffer_size=1), BlockStream._next_block
    monkeypatch.setattr(BlockStream, "_next_block", slow)
    with ThreadPoolExecutor(1) as reader:
        for step in range(steps):
            read = reader.submit(lambda step=step: (time.sleep(0.002), rows.rows(step)))
            assert rows.state(step) == places[step]
            read.result()
    rows.close()


def test_a_loader_gives_the_pictures_of_a_stream(folder):
    rows = opened(folder)
    loader = Loader(rows, LoaderSettings((6, 6), num_workers=2, float_pixels=False))
    assert loader.augments
    batches = list(loader.batches(0, 5))
    seen = {int(text.split()[1]): size[1] for b in batches for text, size in zip(b["caption"], b["original_size"])}
    assert seen == {number: 4 + number for number in range(COUNT)}
    assert all((batch["caption_index"] == -1).all() for batch in batches)
    resumed = opened(folder)
    resumed.restore(rows.state(3))
    later = next(Loader(resumed, LoaderSettings((6, 6), float_pixels=False)).batches(3))
    np.testing.assert_array_equal(later["pixels"], batches[3]["pixels"])


def test_rows_without_caption_are_passed_over_and_counted(tmp_path):
    part = pa.concat_tables([table(3, captions=["photo 0", " ", "photo 2"]), table(1, captions=["photo 3"])])
    dataset = datasets.Dataset(part).to_iterable_dataset()
    rows = StreamedRows(dataset, "set", 3, 0)
    assert sorted(numbers(rows, range(2))) == [0, 0, 2, 2, 3, 3]
    assert rows.notes[0].startswith("set: left out ") and "rows without caption: row 2 read" in rows.notes[0]
    with pytest.raises(ValueError, match="row 2 read: column 'text' holds no caption"):
        StreamedRows(dataset, "set", 3, 0, missing_caption="error").rows(0)
    empty = StreamedRows(dataset, "set", 4, 0, missing_caption="empty").rows(0)
    assert sorted(row.caption for row in empty) == ["", "photo 0", "photo 2", "photo 3"]
    nothing = datasets.Dataset(table(2, captions=["", ""])).to_iterable_dataset()
    with pytest.raises(ValueError, match="there is no row with a caption in the whole stream"):
        StreamedRows(nothing, "set", 1, 0).rows(0)


def test_a_broken_cell_is_a_broken_picture(tmp_path):
    cells = [{"bytes": b"nonsense", "path": None}, {"bytes": encoded(1), "path": None}]
    dataset = datasets.Dataset.from_dict({"image": cells, "text": ["a", "b"]}).to_iterable_dataset()
    loader = Loader(StreamedRows(dataset, "set", 2, 0), LoaderSettings((4, 4), skip_broken=True))
    batch = loader.batch(0)
    assert sorted(batch["weight"]) == [0, 1] and len(loader.broken) == 1
    with pytest.raises(BrokenPicture, match=r"set/row \d+ of the stream: the content is not"):
        Loader(StreamedRows(dataset, "set", 2, 0), LoaderSettings((4, 4))).batch(0)


def test_samples_are_the_first_of_the_stream_and_the_length_is_known_then(folder):
    rows = opened(folder, max_train_samples=8)
    assert len(rows) == 8 and rows.steps_per_epoch == 2
    assert sorted(numbers(rows, range(2))) == list(range(8)) == sorted(numbers(rows, range(2, 4)))
    parts = [opened(folder, 2, max_train_samples=8, process_index=i, process_count=2) for i in range(2)]
    shares = [sorted(numbers(part, range(4))) for part in parts]
    assert all(shares[number] == sorted(numbers(part, range(4, 8))) for number, part in enumerate(parts))
    assert len({*shares[0], *shares[1]}) == 8
    with pytest.raises(ValueError, match="stream of unknown length: give --max_train_steps"):
        len(opened(folder))


def test_a_stream_goes_forward_only_and_by_its_own_rows(folder):
    rows = opened(folder)
    rows.rows(0)
    with pytest.raises(ValueError, match="step 1 comes next, not 0"):
        rows.rows(0)
    with pytest.raises(ValueError, match=r"this host reads rows \(0, 1, 2, 3\), not \(2, 3\)"):
        rows.rows(1, [2, 3])


def test_wrong_settings_are_refused(folder):
    with pytest.raises(ValueError, match="a batch of 4 rows cannot be cut into 3 equal parts"):
        opened(folder, 4, process_count=3)
    with pytest.raises(ValueError, match="shuffle buffer 0"):
        opened(folder, buffer_size=0)
    with pytest.raises(ValueError, match=r"has no column 'img' \(--image_column\); it has id, image, text"):
        opened(folder, image_column="img")
    state = opened(folder, 4, process_count=2).state(0)
    with pytest.raises(ValueError, match="stored by 2 hosts with 2 rows each; here are 1 with 4"):
        opened(folder).restore(state)
