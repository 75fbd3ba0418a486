from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flaxdream.weights import replace
from flaxdream.weights.replace import finish_interrupted, replacing


def index(*components: str) -> str:
    return json.dumps({"_class_name": "X"} | {name: ["diffusers", "Y"] for name in components})


def fill(folder: Path, content: str, *components: str) -> None:
    for name in components:
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text(content)
    (folder / "model_index.json").write_text(index(*components))


def snapshot(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_a_new_folder_appears_when_it_is_whole(tmp_path):
    with replacing(tmp_path / "a" / "model") as new:
        fill(new, "1", "unet")
        assert not (tmp_path / "a" / "model").exists()
    assert snapshot(tmp_path) == {"a/model/model_index.json": index("unet"), "a/model/unet/file": "1"}


def test_a_failed_write_leaves_the_old_folder_and_nothing_else(tmp_path):
    fill(tmp_path / "model", "old", "unet", "vae")
    before = snapshot(tmp_path)
    with pytest.raises(RuntimeError), replacing(tmp_path / "model") as new:
        fill(new, "new", "unet")
        raise RuntimeError
    assert snapshot(tmp_path) == before and [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_second_write_replaces_the_model_and_keeps_what_is_not_the_models(tmp_path):
    target = tmp_path / "model"
    fill(target, "old", "unet", "safety_checker")
    (target / "checkpoint-500").mkdir()
    (target / "checkpoint-500" / "state").write_text("mine")
    with replacing(target) as new:
        fill(new, "new", "unet", "vae")
    assert snapshot(target) == {
        "checkpoint-500/state": "mine",
        "model_index.json": index("unet", "vae"),
        "unet/file": "new",
        "vae/file": "new",
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("stop", range(8))
def test_a_move_that_was_interrupted_is_finished_by_the_next_run(tmp_path, monkeypatch, stop):
    """Every rename but the first is made to fail in turn, as a kill would stop there."""
    target = tmp_path / "model"
    fill(target, "old", "unet", "vae", "extra")
    done = 0

    def counted(original):
        def call(*args):
            nonlocal done
            done += 1
            if done > stop:
                raise KeyboardInterrupt
            return original(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(replace, "_remove", counted(replace._remove))
        try:
            with replacing(target) as new:
                fill(new, "new", "unet", "vae")
        except KeyboardInterrupt:
            pass
    old = {
        "extra/file": "old",
        "model_index.json": index("unet", "vae", "extra"),
        "unet/file": "old",
        "vae/file": "old",
    }
    new_content = {"model_index.json": index("unet", "vae"), "unet/file": "new", "vae/file": "new"}
    if (target / "model_index.json").exists():  # what is there is a model: the old one or the new one
        assert snapshot(target) in (old, new_content)
    finish_interrupted(target)
    assert snapshot(target) == (old if stop == 0 else new_content)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_the_unfinished_copy_of_a_killed_process_is_removed_by_the_next_run(tmp_path):
    code = (
        "import sys, os, signal; from pathlib import Path; from flaxdream.weights.replace import replacing\n"
        "with replacing(Path(sys.argv[1])) as new: (new / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".model.writing-")
    with replacing(tmp_path / "model") as new:
        fill(new, "1", "unet")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_the_copy_of_a_process_that_still_runs_is_left_alone(tmp_path):
    other = tmp_path / f".model.writing-{os.getppid()}"
    other.mkdir()
    with replacing(tmp_path / "model") as new:
        fill(new, "1", "unet")
    assert other.is_dir()


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "model").write_text("x")
    with pytest.raises(ValueError, match="is a file"), replacing(tmp_path / "model"):
        pass


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with replacing(tmp_path / "link") as new:
        fill(new, "1", "unet")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "unet" / "file").read_text() == "1"


def test_an_index_cannot_have_anything_outside_removed(tmp_path):
    (tmp_path / "precious").mkdir()
    fill(tmp_path / "model", "old", "vae")
    (tmp_path / "model" / "model_index.json").write_text(index("../precious", ".", ""))
    with replacing(tmp_path / "model") as new:
        fill(new, "new", "unet")
    assert (tmp_path / "precious").is_dir() and (tmp_path / "model" / "unet").is_dir()
