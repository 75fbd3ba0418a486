"""A checkpoint read as a model gives what its run would have written, and says what is missing."""

from __future__ import annotations

import shutil

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from flaxdream.models import build
from flaxdream.models.architectures import ARCHITECTURES
from flaxdream.weights import checkpoint_arrays
from flaxdream.weights.checkpoint import DamagedCheckpointError
from flaxdream.weights.checkpoint_model import checkpoint_model, find_checkpoint
from tests.weights.conftest import assert_equal
from tests.weights.run_folders import result, trained_state, write_run


@pytest.fixture(scope="module")
def states(params):
    return {
        "plain": trained_state(params, ["unet"]),
        "ema": trained_state(params, ["text_encoder", "unet"], jnp.float32),
        "small ema": trained_state(params, ["unet"], jnp.bfloat16),
        "schedule_free": trained_state(params, ["unet"], optimizer="schedule_free"),
        "half": trained_state(halved(params), ["unet"]),
        "half, ema": trained_state(halved(params), ["unet"], jnp.float32),
        "half, schedule_free": trained_state(halved(params), ["unet"], optimizer="schedule_free"),
    }


def halved(params):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)


@pytest.fixture
def opened(tmp_path, model_source, states):
    """The model of a checkpoint with one of the states."""

    def open_(kind, **options):
        run = write_run(tmp_path / "out", model_source, {3: states[kind]})
        return checkpoint_model(find_checkpoint(run / "checkpoint-3"), **options)

    return open_


@pytest.mark.parametrize(
    "kind", ["plain", "ema", "small ema", "schedule_free", "half", "half, ema", "half, schedule_free"]
)
def test_the_parameters_are_bit_for_bit_those_that_the_run_would_write(opened, states, networks, params, kind):
    model = opened(kind)
    expected = params | result(states[kind])
    for name, network in networks.items():
        shapes = model.saved_shapes(name, network.shapes) if name in model.trained else network.shapes
        assert_equal(model.read_params(name, shapes), expected[name])


def test_without_the_average_they_are_those_that_trained(opened, states, networks):
    model = opened("ema", use_ema=False)
    assert_equal(model.read_params("unet", networks["unet"].shapes), states["ema"]["params"]["unet"])


def test_they_take_the_type_and_the_place_that_are_asked_for(opened, states, networks):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    network = build(ARCHITECTURES["tiny"]["unet"], param_dtype=jnp.bfloat16)
    got = opened("plain").read_params("unet", network.shapes, sharding=everywhere)
    want = jax.tree.map(lambda p: p.astype(jnp.bfloat16), states["plain"]["params"]["unet"])
    assert_equal(got, want)
    assert all(leaf.sharding == everywhere for leaf in jax.tree.leaves(got))


def test_what_is_too_large_for_float16_is_named(tmp_path, model_source, states, networks):
    state = jax.tree.map(jnp.copy, states["plain"])
    state["params"]["unet"]["conv_in"]["bias"] = state["params"]["unet"]["conv_in"]["bias"].at[0].set(1e6)
    run = write_run(tmp_path / "out", model_source, {1: state})
    model = checkpoint_model(find_checkpoint(run / "checkpoint-1"))
    with pytest.raises(ValueError, match=r"params\.unet\.conv_in\.bias has values too large for float16"):
        model.read_params("unet", networks["unet"].shapes, dtype=jnp.float16)


def test_nothing_but_the_parameters_is_read(opened, networks, monkeypatch):
    model, read, names = opened("ema"), checkpoint_arrays.read_arrays, []
    monkeypatch.setattr(
        "flaxdream.weights.checkpoint_model.read_arrays",
        lambda saved, wanted: names.extend(wanted) or read(saved, wanted),
    )
    model.read_params("unet", networks["unet"].shapes)
    assert names and all(name.startswith("ema.params.unet.") for name in names)


def test_a_model_folder_and_a_hub_id_are_no_checkpoints(model_source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in (model_source, "owner/model", "owner/checkpoint-500", "gpt2"):
        assert find_checkpoint(source) is None
    shutil.copytree(model_source, tmp_path / "checkpoint-9")  # of another trainer, say
    assert find_checkpoint("checkpoint-9") is None


def test_what_is_named_like_a_checkpoint_and_is_none_is_answered_with_what_is_there(
    tmp_path, model_source, states, monkeypatch
):
    run = write_run(tmp_path / "out", model_source, {1: states["plain"], 3: states["plain"]})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"out/checkpoint-2: there is no such checkpoint\. .*holds checkpoint-3, checkp"
    ):
        find_checkpoint("out/checkpoint-2")
    (run / "checkpoint-5").mkdir()
    with pytest.raises(ValueError, match=r"checkpoint-5 is no checkpoint of flaxdream.*holds checkpoint-3"):
        find_checkpoint("out/checkpoint-5")
    (run / ".checkpoint-7.writing").mkdir()
    with pytest.raises(ValueError, match=r"writing is not a finished checkpoint\. .*holds checkpoint-3"):
        find_checkpoint("out/.checkpoint-7.writing")


def test_a_damaged_checkpoint_is_named_and_so_is_a_whole_one(tmp_path, model_source, states, networks):
    run = write_run(tmp_path / "out", model_source, {1: states["plain"], 3: states["plain"]})
    model = checkpoint_model(find_checkpoint(run / "checkpoint-3"))
    next((run / "checkpoint-3").rglob("d/*")).unlink()
    with pytest.raises(DamagedCheckpointError, match=r"is missing.*newest but this one, is .*checkpoint-1\."):
        model.read_params("unet", networks["unet"].shapes)


def test_a_starting_model_that_is_gone_is_told_with_its_place_and_what_to_do(tmp_path, model, states, networks):
    run = write_run(tmp_path / "out", model, {1: states["plain"]})
    model.rename(tmp_path / "moved")
    saved = find_checkpoint(run / "checkpoint-1")
    with pytest.raises(ValueError) as error:
        checkpoint_model(saved)
    assert f"{tmp_path}/model is gone" in str(error.value)
    assert f"flaxdream export --checkpoint {run}/checkpoint-1 --pretrained_model_name_or_path PLACE" in str(error.value)
    moved = checkpoint_model(saved, starting_model=str(tmp_path / "moved"))
    assert_equal(moved.read_params("unet", networks["unet"].shapes), states["plain"]["params"]["unet"])


def test_a_hub_model_whose_cache_is_gone_is_told_too(tmp_path, states):
    run = write_run(tmp_path / "out", "owner/model", {1: states["plain"]})
    saved = find_checkpoint(run / "checkpoint-1")
    saved.extra["model_folder"] = str(tmp_path / "hub/models--owner--model/snapshots/0123abc")
    with pytest.raises(
        ValueError, match=r"trained from owner/model, which is no longer in .*0123abc: .*at revision '01"
    ):
        checkpoint_model(saved)


def test_branches_that_did_not_train_are_the_starting_models(tmp_path, model_source, params, networks):
    decoder = {name: tree for name, tree in params["vae"].items() if name not in ("encoder", "quant_conv")}
    state = trained_state({"vae": decoder}, ["vae"])
    run = write_run(tmp_path / "out", model_source, {1: state})
    got = checkpoint_model(find_checkpoint(run / "checkpoint-1")).read_params("vae", networks["vae"].shapes)
    assert_equal(got, params["vae"] | state["params"]["vae"])


def test_a_model_of_another_shape_is_not_taken_for_the_starting_model(tmp_path, model, states):
    run = write_run(tmp_path / "out", model, {1: states["plain"]})
    other = build(ARCHITECTURES["tiny"]["unet"] | {"cross_attention_dim": 24})
    with pytest.raises(
        ValueError, match=r"checkpoint-1 was not trained from the model in .*attn2\.to_k\.kernel \[24, "
    ):
        checkpoint_model(find_checkpoint(run / "checkpoint-1")).read_params("unet", other.shapes)


def test_numbers_do_not_depend_on_how_the_state_lay(tmp_path, model_source, states, networks):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))

    def cut(leaf):
        axis = next((i for i, size in enumerate(leaf.shape) if size % 8 == 0 and size), None)
        spec = [None] * leaf.ndim
        if axis is not None:
            spec[axis] = "fsdp"
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*spec)))

    run = write_run(tmp_path / "out", model_source, {1: jax.tree.map(cut, states["plain"])})
    got = checkpoint_model(find_checkpoint(run / "checkpoint-1")).read_params("unet", networks["unet"].shapes)
    assert_equal(got, states["plain"]["params"]["unet"])
