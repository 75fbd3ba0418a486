from __future__ import annotations

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from flaxdream.weights.names import leaves
from flaxdream.weights.params import placement, read_params
from flaxdream.weights.safetensors import write_safetensors
from tests.weights.conftest import NETWORKS, assert_equal, random_params

SHAPES = {
    "conv": {
        "kernel": jax.ShapeDtypeStruct((3, 3, 4, 8), jnp.float32),
        "bias": jax.ShapeDtypeStruct((8,), jnp.float32),
    },
    "blocks": {str(i): {"norm": {"scale": jax.ShapeDtypeStruct((4,), jnp.float32)}} for i in range(12)},
}


def mesh(*sizes: int):
    return jax.make_mesh(sizes, ("data", "fsdp")[: len(sizes)], axis_types=(AxisType.Auto,) * len(sizes))


@pytest.fixture
def file(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", random_params(SHAPES))
    return tmp_path / "model.safetensors"


def rewritten(file, change):
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_what_was_written_is_read_bit_for_bit(tmp_path, networks, name, dtype):
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), networks[name].shapes)
    written = random_params(shapes, dtype=dtype)
    write_safetensors(tmp_path / "model.safetensors", written)
    assert_equal(read_params(tmp_path, shapes), written)


def test_types_are_those_of_the_shapes_or_the_one_asked_for(file):
    full = read_params(file, SHAPES)
    assert {leaf.dtype for leaf in jax.tree.leaves(full)} == {jnp.dtype("float32")}
    half = read_params(file, SHAPES, dtype=jnp.bfloat16)
    assert_equal(half, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), full))


def test_values_too_large_for_the_type_asked_for_are_an_error(file):
    rewritten(file, lambda tensors: tensors["conv.bias"].fill(1e6))
    with pytest.raises(ValueError, match=r"conv\.bias has values too large for float16"):
        read_params(file, SHAPES, dtype=jnp.float16)


def test_without_sharding_arrays_are_free_to_move(file):
    assert not any(leaf.committed for leaf in jax.tree.leaves(read_params(file, SHAPES)))


def test_the_default_device_of_the_caller_is_used(file):
    with jax.default_device(jax.devices()[5]):
        params = read_params(file, SHAPES)
    assert {leaf.device for leaf in jax.tree.leaves(params)} == {jax.devices()[5]}
    assert {leaf.device for leaf in jax.tree.leaves(read_params(file, SHAPES))} == {jax.devices()[0]}


def shardings():
    replicated = NamedSharding(mesh(8), PartitionSpec())
    yield "one device", SingleDeviceSharding(jax.devices()[3])
    yield "replicated", replicated
    split = NamedSharding(mesh(2, 4), PartitionSpec(None, None, "fsdp"))
    yield "function", lambda path: split if path == "conv.kernel" else replicated
    yield (
        "tree",
        jax.tree.map(lambda leaf: NamedSharding(mesh(4, 2), PartitionSpec(*[None] * (leaf.ndim - 1), "fsdp")), SHAPES),
    )


@pytest.mark.parametrize("sharding", [pytest.param(s, id=name) for name, s in shardings()])
def test_tensors_go_straight_to_their_sharding(file, sharding):
    params = read_params(file, SHAPES, sharding=sharding)
    expected = dict(leaves(read_params(file, SHAPES)))
    for path, leaf in leaves(params):
        wanted = placement(sharding)(path)
        assert leaf.sharding == wanted
        np.testing.assert_array_equal(leaf, expected[path])


def test_several_files_and_shards_are_one_network(tmp_path, file):
    tensors = safetensors.numpy.load_file(file)
    names = sorted(tensors)
    parts = {"a-00001-of-00002.safetensors": names[:5], "b-00002-of-00002.safetensors": names[5:]}
    for part, own in parts.items():
        safetensors.numpy.save_file({name: tensors[name] for name in own}, tmp_path / part)
    index = {"weight_map": {name: part for part, own in parts.items() for name in own}}
    whole = read_params(file, SHAPES)
    assert_equal(read_params([tmp_path / part for part in parts], SHAPES), whole)
    file.unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_equal(read_params(tmp_path, SHAPES), whole)
    assert_equal(read_params(tmp_path / "model.safetensors.index.json", SHAPES), whole)
    with pytest.raises(ValueError, match="repeats tensors of the files before it"):
        read_params([tmp_path / "a-00001-of-00002.safetensors"] * 2, SHAPES)


def test_the_arrays_do_not_depend_on_the_file_any_more(file):
    params = read_params(file, SHAPES)
    before = jax.tree.map(np.array, params)
    file.write_bytes(bytes(file.stat().st_size))
    assert_equal(params, jax.tree.map(jnp.asarray, before))


def test_one_error_names_all_that_does_not_fit(file):
    def change(tensors):
        del tensors["blocks.3.norm.weight"]
        tensors["blocks.12.norm.weight"] = np.zeros(4, np.float32)
        tensors["conv.weight"] = np.zeros((8, 9, 3, 3), np.float32)
        tensors["conv.bias"] = np.zeros(8, np.float64)

    rewritten(file, change)
    with pytest.raises(ValueError) as raised:
        read_params(file, SHAPES)
    assert str(raised.value) == (
        f"{file} does not hold exactly the 14 parameters of the network that its config describes:\n"
        "- 1 parameter(s) of the network are not in the file: blocks.3.norm.weight [4].\n"
        "- 1 tensor(s) of the file have no place in the network: blocks.12.norm.weight [4].\n"
        "- 1 tensor(s) have another shape: conv.weight [8, 9, 3, 3], expected [8, 4, 3, 3].\n"
        "- 1 tensor(s) have a type that is not read (F32, BF16, F16 are): conv.bias F64.\n"
        "Shapes are those of PyTorch's layout. Check that config.json and weights belong to the same model, "
        "and that the weights are of this component."
    )


def test_long_lists_are_cut_and_counted(file, networks):
    count = len(dict(leaves(networks["unet"].shapes)))
    message = rf"- {count} parameter\(s\) .*; [^;]* and {count - 20} more\.\n- 14 tensor\(s\)"
    with pytest.raises(ValueError, match=message):
        read_params(file, networks["unet"].shapes)


def test_a_tensor_under_two_names_is_an_error(file):
    shapes = {"attentions": {"0": {"to_q": {"bias": jax.ShapeDtypeStruct((3,), jnp.float32)}}}}
    tensors = {"attentions.0.query.bias": np.zeros(3, np.float32), "attentions.0.to_q.bias": np.ones(3, np.float32)}
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(ValueError, match=r"under two names: attentions\.0\.to_q\.bias \[3\], as attentions\.0\.query"):
        read_params(file, shapes)


def test_old_vae_attention_is_read_also_as_1x1_convolution(tmp_path, networks):
    shapes = networks["vae"].shapes
    params = random_params(shapes)
    write_safetensors(tmp_path / "diffusion_pytorch_model.safetensors", params)

    def change(tensors):
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            for at in ("encoder", "decoder"):
                parent = f"{at}.mid_block.attentions.0"
                tensors[f"{parent}.{old}.weight"] = tensors.pop(f"{parent}.{new}.weight")[:, :, None, None]
                tensors[f"{parent}.{old}.bias"] = tensors.pop(f"{parent}.{new}.bias")

    rewritten(tmp_path / "diffusion_pytorch_model.safetensors", change)
    assert_equal(read_params(tmp_path, shapes), params)


@pytest.mark.parametrize("prefix", ["", "text_model."])
@pytest.mark.parametrize("position_ids", [False, True])
def test_both_spellings_of_clip_are_read(tmp_path, networks, prefix, position_ids):
    shapes = networks["text_encoder"].shapes
    params = random_params(shapes)
    write_safetensors(tmp_path / "model.safetensors", params)

    def change(tensors):
        for name in list(tensors):
            tensors[prefix + name.removeprefix("text_model.")] = tensors.pop(name)
        if position_ids:
            tensors[f"{prefix}embeddings.position_ids"] = np.arange(77)[None]

    rewritten(tmp_path / "model.safetensors", change)
    assert_equal(read_params(tmp_path, shapes), params)


@pytest.mark.parametrize("code", ["F8_E4M3", "F8_E5M2"])
def test_8_bit_floats_are_refused_by_name(tmp_path, code):
    header = json.dumps({"bias": {"dtype": code, "shape": [8], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "f.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match=rf"type that is not read \(F32, BF16, F16 are\): bias {code}"):
        read_params(tmp_path / "f.safetensors", {"bias": jax.ShapeDtypeStruct((8,), jnp.float32)})


@pytest.mark.parametrize("name", ["model.ckpt", "pytorch_model.bin", "model.gguf"])
def test_other_formats_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"has the ending .*; \.safetensors and \.msgpack are read here"):
        read_params(tmp_path / name, SHAPES)


def test_a_file_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_params(tmp_path / "model.safetensors", SHAPES)


MEASURED = """
import resource, sys, jax
from flaxdream.weights.params import placement, read_params
jax.config.update("jax_platforms", "cpu")
shapes = {str(i): {"kernel": jax.ShapeDtypeStruct((3, 3, 640, 1280), sys.argv[2])} for i in range(int(sys.argv[3]))}
jax.devices()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
params = read_params(sys.argv[1], shapes)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_loading_takes_little_more_host_memory_than_the_parameters(tmp_path, dtype):
    """On CPU devices the parameters themselves are in host memory: twice the size would be a second copy."""
    count = 28 if dtype == "float32" else 56  # 0.8 GB
    kernel = np.ones((1280, 640, 3, 3), dtype)
    safetensors.numpy.save_file({f"{i}.weight": kernel for i in range(count)}, tmp_path / "model.safetensors")
    command = [sys.executable, "-c", MEASURED, str(tmp_path), dtype, str(count)]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken < 1.3 * count * kernel.nbytes
