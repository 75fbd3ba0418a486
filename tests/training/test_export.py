"""`flaxdream export`: a checkpoint becomes a model folder, whole or not at all, and nothing else is overwritten."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from flaxdream.cli import main
from flaxdream.models import build
from flaxdream.weights.model_dir import read_model_dir, write_model_dir
from flaxdream.weights.random_model import write_random_model
from flaxdream.weights.safetensors import open_safetensors
from tests.weights.run_folders import result, trained_state, write_run

NETWORKS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    write_random_model(folder, "tiny", dtype="float16")
    (folder / "LICENSE.md").write_text("all mine")
    return folder


@pytest.fixture(scope="module")
def states(model):
    opened = read_model_dir(model)
    params = {name: opened.read_params(name, build(opened.configs[name]).shapes) for name in NETWORKS}
    return {
        "plain": trained_state(params, ["unet"]),
        "ema": trained_state(params, ["text_encoder", "unet"], jnp.float32),
    }


@pytest.fixture(scope="module")
def shared_run(model, states):
    return write_run(model.parent / "out", model, {1: states["ema"], 5: states["plain"]})


@pytest.fixture
def run(tmp_path, shared_run):
    """A run folder whose newest checkpoint is that of step 5."""
    return Path(shutil.copytree(shared_run, tmp_path / "out", copy_function=os.link))


def export(*arguments):
    return main(["export", *map(str, arguments)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def written(folder: Path, component: str) -> dict[str, np.ndarray]:
    file = folder / component / f"{NETWORKS[component]}.safetensors"
    return {name: np.array(tensor.view()) for name, tensor in open_safetensors(file).items()}


def test_the_newest_checkpoint_of_a_run_is_what_the_run_would_write(tmp_path, run, model, states, capsys):
    assert export("--run", run, "--output_dir", tmp_path / "new") == 0
    assert f"new: the model of step 5 (weights as trained), from {run}/checkpoint-5" in capsys.readouterr().out
    write_model_dir(tmp_path / "expected", params=result(states["plain"]), source=model)
    got = contents(tmp_path / "new")
    assert json.loads(got.pop("export.json")) == {
        "checkpoint": f"{run}/checkpoint-5", "step": 5, "weights": "weights as trained",
    }  # fmt: skip
    assert got == contents(tmp_path / "expected")
    assert got["LICENSE.md"] == b"all mine"


@pytest.mark.parametrize(
    ("flags", "tree"), [(["--ema"], lambda s: s["ema"].params), ([], lambda s: s["ema"].params),
                        (["--no_ema"], lambda s: s["params"])]
)  # fmt: skip
def test_the_average_is_written_if_there_is_one_and_it_is_not_declined(tmp_path, run, model, states, flags, tree):
    arguments = ["--run", run, "--checkpoint", "checkpoint-1", "--output_dir", tmp_path / "new", *flags]
    assert export(*arguments) == 0
    write_model_dir(tmp_path / "expected", params=tree(states["ema"]), source=model)
    for component in ("unet", "text_encoder", "vae"):
        ours, theirs = (contents(folder / component) for folder in (tmp_path / "new", tmp_path / "expected"))
        assert ours == theirs
    about = json.loads((tmp_path / "new/export.json").read_text())
    assert about["weights"] == ("weights as trained" if "--no_ema" in flags else "moving average")


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_a_type_is_that_of_all_networks(tmp_path, run, states, name):
    arguments = ["--run", run, "--output_dir", tmp_path / "new", "--weights_dtype", name]
    assert export(*arguments) == 0
    for component in NETWORKS:
        assert {array.dtype for array in written(tmp_path / "new", component).values()} == {jnp.dtype(name)}
    kept = states["plain"]["params"]["unet"]["conv_in"]["bias"].astype(name)
    np.testing.assert_array_equal(written(tmp_path / "new", "unet")["conv_in.bias"], np.asarray(kept))


def test_torch_loads_it(tmp_path, run):
    import diffusers

    assert export("--run", run, "--output_dir", tmp_path / "new", "--weights_dtype", "float16") == 0
    diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "new")


def test_a_text_encoder_that_was_to_be_left_out_is_the_models_own(tmp_path, model, states):
    run = write_run(tmp_path / "out", model, {1: states["ema"]}, skip_save_text_encoder=True)
    assert export("--run", run, "--output_dir", tmp_path / "new") == 0
    assert contents(tmp_path / "new/text_encoder") == contents(model / "text_encoder")


def test_an_earlier_export_is_replaced_and_what_else_lies_there_stays(tmp_path, run):
    assert export("--run", run, "--checkpoint", "checkpoint-1", "--output_dir", tmp_path / "new") == 0
    before = contents(tmp_path / "new")
    (tmp_path / "new/notes.txt").write_text("mine")
    assert export("--run", run, "--output_dir", tmp_path / "new") == 0
    after = contents(tmp_path / "new")
    assert after.pop("notes.txt") == b"mine" and after.keys() == before.keys()
    assert json.loads(after["export.json"])["step"] == 5


def test_a_folder_that_is_something_else_is_not_touched(tmp_path, run, model, capsys):
    base = Path(shutil.copytree(model, tmp_path / "copy"))
    (tmp_path / "file").write_text("mine")
    for target in (base, run, tmp_path / "file"):
        before = contents(target)
        assert export("--run", run, "--output_dir", target) == 2
        assert contents(target) == before
        message = capsys.readouterr().err
        assert f"--output_dir {target} " in message and "give a new folder" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--checkpoint is missing: a checkpoint such as my-dog/checkpoint-500; or --run"),
        (["--run", "out"], "--output_dir is missing"),
        (["--run", "nowhere", "--output_dir", "new"], "--run nowhere: there is no such folder"),
        (["--run", "empty", "--output_dir", "new"], "--run empty: it holds no finished checkpoint"),
        (["--checkpoint", "out/checkpoint-4", "--output_dir", "new"], "out holds checkpoint-5, checkpoint-1."),
        (["--checkpoint", "out", "--output_dir", "new"], "--checkpoint out is a whole run: --run out takes"),
        (["--checkpoint", "model", "--output_dir", "new"], "is a model folder, and nothing is left to export"),
        (["--checkpoint", "empty", "--output_dir", "new"], "--checkpoint empty is no checkpoint."),
        (["--checkpoint", "out/checkpoint-6", "--output_dir", "new"], "checkpoint-6 is no checkpoint of flaxdream"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(tmp_path, run, model, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "empty").mkdir()
    (run / "checkpoint-6").mkdir()
    assert export(*arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()


def test_a_starting_model_in_another_place_is_taken_from_there(tmp_path, model, states, capsys):
    base = Path(shutil.copytree(model, tmp_path / "base"))
    run = write_run(tmp_path / "out", base, {1: states["plain"]})
    base.rename(tmp_path / "elsewhere")
    assert export("--run", run, "--output_dir", tmp_path / "new") == 2
    assert "--pretrained_model_name_or_path PLACE" in capsys.readouterr().err
    moved = ["--pretrained_model_name_or_path", tmp_path / "elsewhere"]
    assert export("--run", run, "--output_dir", tmp_path / "new", *moved) == 0
    assert contents(tmp_path / "new/vae") == contents(tmp_path / "elsewhere/vae")


def test_a_full_disk_leaves_the_earlier_export_as_it_was(tmp_path, run, monkeypatch, capsys):
    assert export("--run", run, "--checkpoint", "checkpoint-1", "--output_dir", tmp_path / "new") == 0
    before, fsync = contents(tmp_path), os.fsync
    capsys.readouterr()

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    assert export("--run", run, "--output_dir", tmp_path / "new") == 1
    message = capsys.readouterr().err
    assert f"flaxdream export: {tmp_path}/new could not be written: No space left on device (" in message
    assert contents(tmp_path) == before
    monkeypatch.setattr(os, "fsync", fsync)
    assert export("--run", run, "--output_dir", tmp_path / "new") == 0
