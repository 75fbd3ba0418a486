"""Files of the Flax models that diffusers and transformers had: flax packs them, we read them without it."""

from __future__ import annotations

from pathlib import Path

import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdream.models import build
from flaxdream.weights import names
from flaxdream.weights.msgpack import open_msgpack, path_of_flax_keys
from flaxdream.weights.params import read_params
from tests.weights.conftest import assert_equal, random_params

CONFIGS = {
    "unet": {
        "_class_name": "FlaxUNet2DConditionModel",
        "sample_size": 8,
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
    },
    "vae": {
        "_class_name": "FlaxAutoencoderKL",
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    },
    "text_encoder": {
        "architectures": ["CLIPTextModel"],
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 32,
    },
}


def flax_keys(component: str) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The real Flax model's parameters and their shapes."""
    section = (Path(__file__).parent / "flax_keys.txt").read_text().split(f"[{component}]\n")[1].split("\n[")[0]
    rows = (line.split(" ", 1) for line in section.splitlines())
    return {tuple(path.split("/")): tuple(map(int, filter(None, shape[1:-1].split(",")))) for path, shape in rows}


def flax_tree(component: str, dtype=np.float32) -> dict:
    generator = np.random.default_rng(0)
    flat = {keys: jnp.asarray(generator.normal(size=shape), dtype) for keys, shape in flax_keys(component).items()}
    return flax.traverse_util.unflatten_dict(flat)


@pytest.mark.parametrize("component", CONFIGS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_every_parameter_of_the_flax_models_finds_its_place(tmp_path, component, dtype):
    tree = flax_tree(component, dtype)
    (tmp_path / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    params = read_params(tmp_path, build(CONFIGS[component], param_dtype=dtype).shapes)
    flat = {path_of_flax_keys(keys): leaf for keys, leaf in flax.traverse_util.flatten_dict(tree).items()}
    ours = {names.matching_name(names.file_name(path)): leaf for path, leaf in names.leaves(params)}
    theirs = {names.matching_name(names.file_name(path)): leaf for path, leaf in flat.items()}
    assert_equal(ours, theirs)


def test_a_wrapper_named_params_is_taken_off(tmp_path):
    tree = flax_tree("text_encoder")
    for name, content in (("plain", tree), ("wrapped", {"params": tree})):
        (tmp_path / name).write_bytes(flax.serialization.to_bytes(content))
    assert open_msgpack(tmp_path / "plain").keys() == open_msgpack(tmp_path / "wrapped").keys()


def test_arrays_in_chunks_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 100)
    array = np.arange(210, dtype=np.float32).reshape(7, 30)
    (tmp_path / "f.msgpack").write_bytes(flax.serialization.msgpack_serialize({"a": {"kernel": array}}))
    assert b"__msgpack_chunked_array__" in (tmp_path / "f.msgpack").read_bytes()
    np.testing.assert_array_equal(open_msgpack(tmp_path / "f.msgpack")["a.weight"].view(), array)
    params = read_params(tmp_path / "f.msgpack", {"a": {"kernel": jax.ShapeDtypeStruct((7, 30), jnp.float32)}})
    np.testing.assert_array_equal(params["a"]["kernel"], array)


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (300,), (200, 200)])
def test_arrays_of_every_size_are_found(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.float16).reshape(shape)
    (tmp_path / "f").write_bytes(flax.serialization.msgpack_serialize({str(i): {"bias": array} for i in range(20)}))
    found = open_msgpack(tmp_path / "f")
    assert found.keys() == {f"{i}.bias" for i in range(20)}
    for tensor in found.values():
        np.testing.assert_array_equal(tensor.view(), array)


@pytest.mark.parametrize("keep", [0, 1, 30, -1, -500])
def test_a_file_that_was_cut_off_is_named(tmp_path, keep):
    whole = flax.serialization.to_bytes({"a": {"kernel": np.zeros((30, 30), np.float32)}})
    (tmp_path / "cut.msgpack").write_bytes(whole[:keep])
    with pytest.raises(ValueError, match=r"cut\.msgpack .* is not a whole Flax msgpack file"):
        open_msgpack(tmp_path / "cut.msgpack")


@pytest.mark.parametrize("content", [b"\xc1", b"\x01", b"\x81\xa1a\x01", b"\x81\xa1a\xc0", b"\x80\x00", b"\x91" * 9000])
def test_files_of_other_things_are_refused(tmp_path, content):
    (tmp_path / "f.msgpack").write_bytes(content)
    with pytest.raises(ValueError, match="is not a whole Flax msgpack file of parameters"):
        open_msgpack(tmp_path / "f.msgpack")


def test_a_file_with_other_keys_is_an_error_that_names_them(tmp_path, networks):
    tree = {"encoder": {"block_0": {"kernel": np.zeros((3, 4), np.float32)}}}
    (tmp_path / "diffusion_flax_model.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    with pytest.raises(ValueError) as raised:
        read_params(tmp_path, networks["vae"].shapes)
    assert "1 tensor(s) of the file have no place in the network: encoder.block_0.weight [4, 3]" in str(raised.value)
    assert "parameter(s) of the network are not in the file: " in str(raised.value)


def test_types_other_than_floats_are_named(tmp_path):
    (tmp_path / "f.msgpack").write_bytes(flax.serialization.to_bytes({"a": {"kernel": np.zeros((3, 4), np.int8)}}))
    with pytest.raises(ValueError, match=r"type that is not read \(F32, BF16, F16 are\): a\.weight int8"):
        read_params(tmp_path / "f.msgpack", {"a": {"kernel": jax.ShapeDtypeStruct((3, 4), jnp.float32)}})


def test_safetensors_are_read_before_msgpack(tmp_path, networks):
    from flaxdream.weights.safetensors import write_safetensors

    params = random_params(networks["text_encoder"].shapes)
    write_safetensors(tmp_path / "model.safetensors", params)
    (tmp_path / "flax_model.msgpack").write_bytes(b"not read")
    assert_equal(read_params(tmp_path, networks["text_encoder"].shapes), params)
