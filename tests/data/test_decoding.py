"""Pictures decoded by other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flaxdream.data import decoding
from flaxdream.data.decoding import Decoders
from flaxdream.data.images import BrokenPicture, read_to_cover


@pytest.fixture
def files(tmp_path):
    """Six pictures of several shapes."""
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (20 + number, 33, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    return sorted(tmp_path.iterdir())


def same(first, second):
    np.testing.assert_array_equal(first[0], second[0])
    return first[1] == second[1]


def started(decoders, count, path):
    """The workers, which have all read the picture."""
    workers = []
    for _ in range(count):
        decoders.read_to_cover(path, (8, 8))
        workers.append(decoders._idle.get())
    for worker in workers:
        decoders._idle.put(worker)
    return workers


def test_what_comes_back_is_what_would_have_been_made_here(files):
    with Decoders(2) as decoders, ThreadPoolExecutor(4) as pool:
        asked = [(path, (8 + number, 9), "lanczos") for number, path in enumerate(files * 3)]
        made = list(pool.map(lambda task: decoders.read_to_cover(*task), asked))
        assert all(same(found, read_to_cover(*task)) for found, task in zip(made, asked, strict=True))
        data = files[0].read_bytes()
        assert same(decoders.read_to_cover("key", (8, 8), "bilinear", data), read_to_cover(files[0], (8, 8)))
        made[0][0][:] = 7  # it is the caller's own
        assert same(decoders.read_to_cover(*asked[0]), read_to_cover(*asked[0]))


def test_a_picture_that_does_not_fit_the_shared_memory_comes_too(files, monkeypatch):
    monkeypatch.setattr(decoding, "SHARED", 4096)
    program = (
        "import sys; sys.path[:] = {path!r}; from flaxdream.data import decoding; decoding.SHARED = 4096; "
        "decoding.serve({pipe}, {memory})"
    )
    monkeypatch.setattr(decoding, "PROGRAM", program)
    with Decoders(1) as decoders:
        for resolution in ((8, 8), (60, 60), (8, 8)):
            assert same(decoders.read_to_cover(files[0], resolution), read_to_cover(files[0], resolution))


def test_errors_come_back_as_they_are_and_the_worker_goes_on(files, tmp_path):
    (tmp_path / "broken.png").write_bytes(files[0].read_bytes()[:60])
    with Decoders(1) as decoders:
        with pytest.raises(BrokenPicture, match="broken.png: cannot be decoded"):
            decoders.read_to_cover(tmp_path / "broken.png", (8, 8))
        with pytest.raises(BrokenPicture, match="gone.png: the file does not exist"):
            decoders.read_to_cover(tmp_path / "gone.png", (8, 8))
        with pytest.raises(ValueError, match="'cubic' is not one of"):
            decoders.read_to_cover(files[0], (8, 8), "cubic")
        assert same(decoders.read_to_cover(files[0], (8, 8)), read_to_cover(files[0], (8, 8)))


def test_a_decoder_that_crashes_is_a_broken_picture_and_another_takes_its_place(files):
    with Decoders(1) as decoders:
        (worker,) = started(decoders, 1, files[0])
        os.kill(worker._process.pid, signal.SIGSEGV)
        with pytest.raises(BrokenPicture, match=r"0.png: its decoder ended the process that ran it \(exit code -11\)"):
            decoders.read_to_cover(files[0], (8, 8))
        assert same(decoders.read_to_cover(files[0], (8, 8)), read_to_cover(files[0], (8, 8)))


def test_workers_end_with_the_with_and_ignore_ctrl_c(files):
    with Decoders(2) as decoders:
        workers = started(decoders, 2, files[0])
        for worker in workers:
            os.kill(worker._process.pid, signal.SIGINT)
        assert same(decoders.read_to_cover(files[1], (8, 8)), read_to_cover(files[1], (8, 8)))
    assert [worker._process.returncode for worker in workers] == [0, 0]


def test_workers_start_when_they_are_needed(files, monkeypatch):
    def start():
        raise OSError("no more processes")

    with Decoders(2) as decoders:
        decoders.read_to_cover(files[0], (8, 8))
        monkeypatch.setattr(decoding, "_Worker", start)
        assert same(decoders.read_to_cover(files[1], (8, 8)), read_to_cover(files[1], (8, 8)))  # by the same one
        held = decoders._idle.get()
        with pytest.raises(OSError, match="no more processes"):  # which says nothing of the picture
            decoders.read_to_cover(files[1], (8, 8))
        decoders._idle.put(held)


@pytest.mark.slow
def test_no_worker_outlives_a_parent_that_is_killed(files):
    program = (
        "import time\n"
        "from flaxdream.data.decoding import Decoders\n"
        "from tests.data.test_decoding import started\n"
        "with Decoders(2) as decoders:\n"
        f"    workers = started(decoders, 2, {str(files[0])!r})\n"
        "    print(*[worker._process.pid for worker in workers], flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2 and all(alive(pid) for pid in workers)
        parent.kill()
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_workers_import_neither_jax_nor_torch():
    program = (
        "import sys, flaxdream.data.decoding\n"
        "sys.exit(repr(sorted({'jax', 'flax', 'torch', 'datasets', 'tensorflow_datasets'} & set(sys.modules))))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr.strip() == "[]"
