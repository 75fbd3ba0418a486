"""Host memory does not grow with the set."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

SIDE = 64  # pixels: 18,000 pictures more, kept as arrays, would be 210 MiB
ALLOWED = 24 * 2**20  # names, captions, offsets and the caption table of 18,000 pictures, and noise
PROGRAM = """
import json, resource, sys
from flaxdream.data.captioned import CaptionedRows
from flaxdream.data.loader import Loader, LoaderSettings
from flaxdream.data.sources import open_pictures

pictures = open_pictures(sys.argv[1], cache_dir=sys.argv[2])
rows = CaptionedRows(pictures, 50, 0)
loader = Loader(rows, LoaderSettings((48, 48), num_workers=2, cache_bytes=2**20))
seen = sum(len(set(batch["index"].tolist())) for batch in loader.batches(0, rows.steps_per_epoch))
print(json.dumps([seen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def encoded(number):
    stream = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE, 3), number % 256, np.uint8)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def write_folder(folder, count):
    for number in range(count):
        (folder / f"{number}.png").write_bytes(encoded(number))
    lines = (json.dumps({"file_name": f"{n}.png", "text": f"a photo of thing number {n}"}) for n in range(count))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def write_tar(folder, count):
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number in range(count):
            for name, content in ((f"{number}.png", encoded(number)), (f"{number}.txt", b"a photo of %d" % number)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def write_parquet(folder, count):
    cells = [{"bytes": encoded(number), "path": None} for number in range(count)]
    texts = [f"a photo of thing number {number}" for number in range(count)]
    pq.write_table(pa.table({"image": cells, "text": texts}), folder / "train-0.parquet", row_group_size=100)


@pytest.mark.parametrize("write", [write_folder, write_tar, write_parquet])
def test_an_epoch_of_ten_times_the_pictures_takes_no_more_memory(tmp_path, write):
    peaks = {}
    for count in (2_000, 20_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        write(folder, count)
        command = [sys.executable, "-c", PROGRAM, str(folder), str(tmp_path / "cache")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seen, peaks[count] = json.loads(done.stdout)
        assert seen == count
    print(f"{write.__name__}: {peaks[2_000] / 2**20:.1f} and {peaks[20_000] / 2**20:.1f} MiB")
    assert peaks[20_000] - peaks[2_000] < ALLOWED, peaks
