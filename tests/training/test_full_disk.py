"""The whole command on a disk that fills up: an error with advice, and all that was complete stays as it was."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.training.whole_runs import arguments, finish, make_inputs, metrics, start, weight_files

pytestmark = pytest.mark.slow

SETTINGS = {"max_train_steps": 4, "checkpointing_steps": 2}
PAGE = 4096


class Disk:
    """A tmpfs whose size can be changed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.resize(2**26, "")

    def resize(self, size: int, how: str = "remount,") -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"{how}size={size}", "tmpfs", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        small = Disk(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no tmpfs can be mounted here: {error}")
    yield small
    subprocess.run(["umount", str(folder)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def unbroken(inputs):
    finish(arguments(inputs, inputs / "unbroken", **SETTINGS))
    return inputs / "unbroken"


def space(*paths: Path) -> int:
    """What they take on a tmpfs, in bytes."""
    files = [file for path in paths for file in (path, *path.rglob("*"))]
    return sum(-(-file.stat().st_size // PAGE) * PAGE if file.is_file() else PAGE for file in files)


def model_of(folder: Path) -> list[Path]:
    return [folder / name for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")]


def failed(argv: list[str]) -> str:
    """What the command prints that must fail, and not for its settings."""
    with start(argv) as process:
        text, _ = process.communicate(timeout=1800)
    assert process.returncode == 1, text
    assert "Traceback" not in text, text
    return text


def test_a_checkpoint_that_does_not_fit_costs_only_itself(inputs, unbroken, disk):
    out = disk.folder / "out"
    shutil.copytree(unbroken / "checkpoint-2", out / "checkpoint-2")  # one size: what Orbax adds to it varies
    (out / "metrics.jsonl").write_text("".join((unbroken / "metrics.jsonl").read_text().splitlines(True)[:2]))
    rest = [path for path in unbroken.iterdir() if not path.name.startswith("checkpoint-")]
    rest = [path for path in rest if path not in model_of(unbroken)]
    disk.resize(space(disk.folder, *rest) + space(*model_of(unbroken)) // 2)
    text = failed(arguments(inputs, out, resume_from_checkpoint="latest", **SETTINGS))
    assert f"{out}/checkpoint-4 could not be written" in text and "No space left on device" in text
    assert "Earlier checkpoints are as they were: checkpoint-2." in text
    assert [path.name for path in out.glob("*checkpoint-*")] == ["checkpoint-2"]
    assert not (out / "model_index.json").exists()
    disk.resize(2**26)
    finish(arguments(inputs, out, resume_from_checkpoint="latest", **SETTINGS))
    assert weight_files(out) == weight_files(unbroken)
    assert [row["loss"] for row in metrics(out)] == [row["loss"] for row in metrics(unbroken)]


def test_a_result_that_does_not_fit_leaves_the_earlier_one(inputs, unbroken, disk):
    out = disk.folder / "out"
    finish(arguments(inputs, out, **SETTINGS | {"max_train_steps": 2}))
    earlier = weight_files(out)
    shutil.copytree(unbroken / "checkpoint-4", out / "checkpoint-4")  # the training is over, the model is to be written
    disk.resize(space(disk.folder) + space(*model_of(unbroken)) // 2)
    text = failed(arguments(inputs, out, resume_from_checkpoint="latest", **SETTINGS))
    assert f"{out} could not be written: No space left on device" in text
    assert "with --resume_from_checkpoint latest only the model is written" in text
    assert weight_files(out) == earlier and (out / "model_index.json").is_file()
    assert sorted(path.name for path in out.glob("*checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert [path.name for path in disk.folder.iterdir()] == ["out"]
    disk.resize(2**26)
    finish(arguments(inputs, out, resume_from_checkpoint="latest", **SETTINGS))
    assert weight_files(out) == weight_files(unbroken)
