"""The whole command with bfloat16 parameters: what lies in memory, what is written, and exact resume."""

from __future__ import annotations

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdream.cli import main
from flaxdream.weights.checkpoint import read_checkpoint
from flaxdream.weights.checkpoint_arrays import read_arrays
from tests.training.whole_runs import arguments, make_inputs, metrics, tensors, weight_files

pytestmark = pytest.mark.slow

SETTINGS = {"params_dtype": "bfloat16", "max_train_steps": 4, "checkpointing_steps": 2, "center_crop": True}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("half"))


@pytest.fixture(scope="module")
def whole(inputs):
    assert main(arguments(inputs, inputs / "whole", **SETTINGS)) == 0
    return inputs / "whole"


def kinds(folder, start):
    """The types of a checkpoint's arrays whose names begin so, counters left out."""
    arrays = read_checkpoint(folder / "checkpoint-4").arrays
    return {kind for name, (shape, kind) in arrays.items() if name.startswith(start) and shape}


def params(folder):
    """The parameters of the last checkpoint by name, as they were saved."""
    saved = read_checkpoint(folder / "checkpoint-4")
    wanted = {
        name: jax.ShapeDtypeStruct(shape, kind)
        for name, (shape, kind) in saved.arrays.items()
        if name.startswith("params.")
    }
    return read_arrays(saved, wanted)


def test_parameters_are_bfloat16_moments_float32_and_the_model_has_the_parameters_bits(inputs, whole):
    assert kinds(whole, "params.") == {"bfloat16"}
    assert kinds(whole, "opt_state.") == {"float32"}
    before, after = tensors(inputs / "model"), tensors(whole)
    unet = {name: array for name, array in after.items() if name.startswith("unet.")}
    assert {array.dtype for array in unet.values()} == {jnp.dtype(jnp.bfloat16)}
    assert all(np.array_equal(after[name], before[name]) for name in after.keys() - unet.keys())
    found, written = params(whole), 0
    for name in ("conv_in", "conv_out"):
        kernel = np.transpose(found[f"params.unet.{name}.kernel"], (3, 2, 0, 1))
        np.testing.assert_array_equal(kernel.view(np.uint16), unet[f"unet.{name}.weight"].view(np.uint16))
        written += int((unet[f"unet.{name}.weight"] != before[f"unet.{name}.weight"].astype(jnp.bfloat16)).sum())
    assert written > 0


def test_a_stopped_run_goes_on_to_the_same_bits(inputs, whole, tmp_path):
    shutil.copytree(whole / "checkpoint-2", tmp_path / "checkpoint-2")
    assert main(arguments(inputs, tmp_path, resume_from_checkpoint="latest", **SETTINGS)) == 0
    assert [row["loss"] for row in metrics(tmp_path)] == [row["loss"] for row in metrics(whole)][2:]
    assert weight_files(tmp_path) == weight_files(whole)


def test_another_type_on_resume_is_said_and_what_was_saved_is_converted(inputs, whole, tmp_path, capsys):
    shutil.copytree(whole / "checkpoint-4", tmp_path / "checkpoint-4")
    settings = SETTINGS | {"params_dtype": "float32", "resume_from_checkpoint": "latest"}
    assert main(arguments(inputs, tmp_path, **settings)) == 0
    assert "--params_dtype was bfloat16 and is float32. The numbers differ" in capsys.readouterr().out
    ours, theirs = tensors(tmp_path), tensors(whole)
    assert {array.dtype for name, array in ours.items() if name.startswith("unet.")} == {np.dtype(np.float32)}
    assert all(np.array_equal(ours[name], theirs[name].astype(np.float32)) for name in ours)


@pytest.mark.parametrize("changes", [{"use_ema": True}, {"optimizer": "schedule_free"}], ids=["ema", "schedule_free"])
def test_an_average_of_bfloat16_parameters_is_float32_and_exported_as_the_run_writes_it(inputs, tmp_path, changes):
    assert main(arguments(inputs, tmp_path / "run", **SETTINGS | changes)) == 0
    assert kinds(tmp_path / "run", "params.") == {"bfloat16"}
    written = tensors(tmp_path / "run")
    assert {array.dtype for array in written.values()} == {np.dtype(np.float32)}
    exact = [name for name, a in written.items() if "unet" in name and not np.array_equal(a, a.astype(jnp.bfloat16))]
    assert exact  # it is finer than the parameters
    assert main(["export", f"--run={tmp_path / 'run'}", f"--output_dir={tmp_path / 'new'}"]) == 0
    assert weight_files(tmp_path / "new") == weight_files(tmp_path / "run")
