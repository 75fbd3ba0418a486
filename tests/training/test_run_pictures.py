"""Validation pictures and thumbnails on disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from flaxdream.sampling.prompts import Request
from flaxdream.training import run_pictures
from flaxdream.training.run_pictures import remove_validations_after, write_thumbs, write_validation

REQUESTS = [Request(prompt, "blurry", 16, 8, seed, 7.5, 25) for prompt in ("a fox", "größer") for seed in (7, 8, 9)]
DRAWN = [Image.new("RGB", (16, 8), colour) for colour in ("red", "green", "blue", "white", "black", "grey")]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_validation_has_a_row_a_prompt_a_grid_and_its_settings(tmp_path):
    grid = write_validation(tmp_path, 400, DRAWN, REQUESTS)
    folder = tmp_path / "validation/step-000400"
    pictures = [f"{prompt:02d}-{image:02d}.png" for prompt in range(2) for image in range(3)]
    assert grid == folder / "grid.png" and names(folder) == [*pictures, "grid.png", "prompts.json"]
    assert names(tmp_path / "validation") == ["step-000400"]
    entries = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    assert [entry["prompt"] for entry in entries] == ["a fox", "größer"]
    assert entries[1]["negative_prompt"] == "blurry" and entries[1]["seed"] == 7
    assert entries[1]["images"][2] == {"file": "01-02.png", "seed": 9}
    with Image.open(folder / "01-02.png") as picture:
        assert picture.getpixel((0, 0)) == (128, 128, 128)
        assert (picture.text["prompt"], picture.text["seed"], picture.text["step"]) == ("größer", "9", "400")
    with Image.open(grid) as sheet:
        assert sheet.width > sheet.height  # three columns, two rows


def test_a_validation_that_is_drawn_again_replaces_the_first(tmp_path):
    write_validation(tmp_path, 1, DRAWN, REQUESTS)
    write_validation(tmp_path, 1, DRAWN[:1], REQUESTS[:1])
    assert names(tmp_path / "validation/step-000001") == ["00-00.png", "grid.png", "prompts.json"]
    assert names(tmp_path / "validation") == ["step-000001"]


def test_a_validation_that_fails_halfway_leaves_no_folder_of_that_step(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_pictures, "contact_sheet", fail)
        with pytest.raises(OSError, match="No space"):
            write_validation(tmp_path, 1, DRAWN, REQUESTS)
    assert not (tmp_path / "validation/step-000001").exists()
    write_validation(tmp_path, 1, DRAWN, REQUESTS)
    assert names(tmp_path / "validation") == ["step-000001"]


def test_every_picture_needs_its_request(tmp_path):
    with pytest.raises(ValueError, match="1 pictures and 6 requests"):
        write_validation(tmp_path, 1, DRAWN[:1], REQUESTS)


def test_validations_of_later_steps_are_removed_and_nothing_else(tmp_path):
    remove_validations_after(tmp_path, 0)  # nothing there yet
    for step in (0, 100, 1_000_000):
        write_validation(tmp_path, step, DRAWN[:1], REQUESTS[:1])
    for name in (".step-000300.partial", "mine", "step-000200-copy"):
        (tmp_path / "validation" / name).mkdir()
    remove_validations_after(tmp_path, 100)
    assert names(tmp_path / "validation") == ["mine", "step-000000", "step-000100", "step-000200-copy"]
    remove_validations_after(tmp_path, -1)
    assert names(tmp_path / "validation") == ["mine", "step-000200-copy"]


def test_thumbnails_are_small_jpeg_files_and_replace_earlier_ones(tmp_path):
    write_thumbs(tmp_path, "class", [np.zeros((8, 8, 3), np.uint8)])
    write_thumbs(tmp_path, "instance", [np.zeros((8, 8, 3), np.uint8)] * 3)
    write_thumbs(tmp_path, "instance", [np.full((800, 400, 3), 200, np.uint8)])
    assert names(tmp_path / "thumbs") == ["class-00.jpg", "instance-00.jpg"]
    with Image.open(tmp_path / "thumbs/instance-00.jpg") as thumb:
        assert thumb.format == "JPEG" and thumb.size == (192, 384)
