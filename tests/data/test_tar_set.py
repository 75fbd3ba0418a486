"""Tar files of pictures and captions."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from flaxdream.data import tar_index
from flaxdream.data.images import BrokenPicture, read_picture
from flaxdream.data.tar_index import expanded
from flaxdream.data.tar_set import TarSet


def encoded(number, kind="JPEG", size=(6, 8), **options):
    stream = io.BytesIO()
    Image.fromarray(np.full((*size, 3), number, np.uint8)).save(stream, kind, **options)
    return stream.getvalue()


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(number, key=None):
    key = key or f"{number:04d}"
    return [(f"{key}.jpg", encoded(number)), (f"{key}.txt", f" photo  {number}\n".encode())]


@pytest.fixture
def tars(tmp_path):
    """Two tars with three and two samples."""
    write_tar(tmp_path / "shards/00000.tar", [*sample(0), *sample(1), *sample(2)])
    write_tar(tmp_path / "shards/00001.tar", [*sample(3, "deep/a"), *sample(4, "deep/b")])
    return tmp_path / "shards"


def test_samples_of_all_tars_are_read_at_random(tars):
    found = TarSet(tars)
    assert len(found) == 5 and found.notes == ()
    for number in (4, 0, 2, 3, 1):
        assert found.captions(number) == (f"photo {number}",)
        np.testing.assert_array_equal(found.read(number), read_picture("x", encoded(number)))
        assert found.size(number) == (6, 8)
    assert found.path(4) == tars / "00001.tar/deep/b.jpg"


def test_patterns_stand_for_tars(tars, monkeypatch):
    assert list(expanded("a{00..02}b{x,y}")) == ["a00bx", "a00by", "a01bx", "a01by", "a02bx", "a02by"]
    assert list(expanded("plain.tar")) == ["plain.tar"]
    for pattern in (f"{tars}/{{00000..00001}}.tar", f"{tars}/*.tar"):
        assert len(TarSet(pattern)) == 5
    monkeypatch.chdir(tars)
    assert len(TarSet("0000*.tar")) == 5 and len(TarSet("00001.tar")) == 2
    with pytest.raises(ValueError, match="00002.tar: there is no such tar file"):
        TarSet(f"{tars}/{{00000..00002}}.tar")
    with pytest.raises(ValueError, match="download them, or use --streaming"):
        TarSet("https://example.com/{000..010}.tar")


def test_captions_come_from_text_or_json(tmp_path):
    members = []
    for key, files in {
        "a": {"txt": b"from text", "json": b'{"caption": "from json"}'},
        "b": {"json": b'{"caption": "from json", "text": "other"}', "txt": b" "},
        "c": {"json": json.dumps({"prompt": ["one", "two"], "caption": "x"}).encode()},
        "d": {"cls": b"7", "caption": "caf\u00e9".encode()},
    }.items():
        members += [(f"{key}.{kind}", content) for kind, content in files.items()]
        members += [(f"{key}.png", encoded(1, "PNG")), (f"{key}.seg.png", encoded(2, "PNG"))]
    path = write_tar(tmp_path / "x.tar", members)
    found = TarSet(path, caption_column="prompt")
    assert [found.captions(index) for index in range(4)] == [("from text",), ("from json",), ("one", "two"), ("café",)]
    assert all((found.read(index) == 1).all() for index in range(4))  # not the .seg.png


def test_members_of_a_sample_need_not_lie_together(tmp_path):
    members = [*sample(0), *sample(1)]
    found = TarSet(write_tar(tmp_path / "x.tar", [members[0], members[2], members[3], members[1]]))
    assert [found.captions(index) for index in range(2)] == [("photo 0",), ("photo 1",)]


def test_what_is_left_out_is_counted_and_named(tmp_path):
    path = write_tar(tmp_path / "x.tar", [*sample(0), sample(1)[0], sample(2)[1], ("README", b"hello")])
    found = TarSet(path)
    assert len(found) == 1
    assert set(found.notes) == {
        f"{path}: left out 1 pictures without caption: x.tar/0001",
        f"{path}: left out 1 samples without picture: x.tar/0002",
    }
    assert TarSet(path, missing_caption="empty").captions(1) == ("",)
    with pytest.raises(ValueError, match="x.tar: sample 0001 has no caption"):
        TarSet(path, missing_caption="error")
    with pytest.raises(ValueError, match="there is no picture with a caption"):
        TarSet(write_tar(tmp_path / "y.tar", [sample(2)[1]]))


def test_splits_are_folders_or_in_the_names(tars):
    write_tar(tars / "val-0000.tar", sample(9))
    assert len(TarSet(tars)) == 5
    assert TarSet(tars, "validation").captions(0) == ("photo 9",)
    with pytest.raises(ValueError, match="there is no tar file of the test split"):
        TarSet(tars, "test")
    write_tar(tars / "test/0000.tar", sample(8))
    assert TarSet(tars, "test").captions(0) == ("photo 8",)


def test_the_index_is_kept_and_follows_the_tar(tars, tmp_path, monkeypatch):
    folder = tmp_path / "index"
    first = TarSet(tars, index_folder=folder)
    assert len(list(folder.iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(tar_index, "_indexed", None)
        again = TarSet(tars, index_folder=folder)
    assert again.fingerprint == first.fingerprint == TarSet(tars).fingerprint
    np.testing.assert_array_equal(again.read(4), first.read(4))
    write_tar(tars / "00001.tar", sample(5))
    changed = TarSet(tars, index_folder=folder)
    assert changed.captions(3) == ("photo 5",) and changed.fingerprint != first.fingerprint
    for file in folder.iterdir():
        file.write_text('[["broken')
    assert TarSet(tars, index_folder=folder).fingerprint == changed.fingerprint


def test_sizes_are_read_from_the_head_of_a_jpeg_and_turned_with_it(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    members = []
    for key, kind, options in [("a", "JPEG", {"quality": 95}), ("b", "JPEG", {"exif": turned()}), ("c", "PNG", {})]:
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, kind, **options)
        members += [(f"{key}.{'png' if kind == 'PNG' else 'jpg'}", stream.getvalue()), (f"{key}.txt", b"x")]
    far = io.BytesIO()
    Image.fromarray(noise).save(far, "JPEG", icc_profile=bytes(70_000))  # the size stands behind the profile
    members += [("d.jpg", far.getvalue()), ("d.txt", b"x")]
    found = TarSet(write_tar(tmp_path / "x.tar", members))
    assert [found.size(index) for index in range(4)] == [(300, 400), (400, 300), (300, 400), (300, 400)]
    assert [found.read(index).shape[:2] for index in range(4)] == [found.size(index) for index in range(4)]


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_a_compressed_or_damaged_tar_says_what_to_do(tars):
    plain = (tars / "00000.tar").read_bytes()
    (tars / "00001.tar").write_bytes(gzip.compress(plain))
    with pytest.raises(ValueError, match=r"00001.tar cannot be read as a tar file; it is compressed.*gunzip it"):
        TarSet(tars)
    (tars / "00001.tar").write_bytes(b"nonsense" * 200)
    with pytest.raises(ValueError, match=r"00001.tar cannot be read as a tar file; it is damaged"):
        TarSet(tars)
    (tars / "00001.tar").write_bytes(plain[:1300])
    with pytest.raises(ValueError, match="00001.tar"):
        TarSet(tars)


def test_a_broken_picture_is_named_with_its_tar(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"nonsense"), ("a.txt", b"x"), *sample(1)])
    found = TarSet(path)
    for ask in (found.read, found.size):
        with pytest.raises(BrokenPicture, match="x.tar/a.jpg: the content is not that of a picture"):
            ask(0)
    path.unlink()
    with pytest.raises(BrokenPicture, match="x.tar/0001.jpg: the tar cannot be read: No such file"):
        found.read(1)


def test_a_damaged_caption_is_an_error_with_its_member(tmp_path):
    for content, kind in [(b"\xff\xfe", "txt"), (b"{", "json"), (b'{"caption": 5}', "json")]:
        with pytest.raises(ValueError, match=rf"x.tar, a.{kind}"):
            TarSet(write_tar(tmp_path / "x.tar", [("a.jpg", encoded(0)), (f"a.{kind}", content)]))
