from __future__ import annotations

import json

import pytest

from flaxdream.weights import files

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def folder_of(tmp_path, *names, shards=()):
    for name in names:
        index = {"weight_map": {str(i): shard for i, shard in enumerate(shards)}} if name.endswith(".json") else {}
        (tmp_path / name).write_text(json.dumps(index))
    return tmp_path


@pytest.mark.parametrize(
    "present, variant, chosen",
    [
        (["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"], None, 0),
        (["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors"], "fp16", 0),
        (["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"], None, 0),
        (["model.safetensors", "flax_model.msgpack", "pytorch_model.bin"], None, 0),
        (["flax_model.msgpack", "pytorch_model.bin"], None, 0),
        (["diffusion_flax_model.msgpack"], None, 0),
        (["diffusion_pytorch_model.non_ema.safetensors"], "non_ema", 0),
    ],
)
def test_one_file_is_chosen(tmp_path, present, variant, chosen):
    found = files.weight_files(folder_of(tmp_path, *present), variant)
    assert found.files == (present[chosen],) and found.index is None


@pytest.mark.parametrize(
    "index, shards, variant",
    [
        ("model.safetensors.index.json", SHARDS, None),
        ("model.safetensors.index.fp16.json", ["model.fp16-00001-of-00001.safetensors"], "fp16"),
        ("model.safetensors.fp16.index.json", ["model-00001-of-00001.fp16.safetensors"], "fp16"),
        ("model.fp16.safetensors.index.json", ["model.fp16-00001-of-00001.safetensors"], "fp16"),
        (
            "diffusion_pytorch_model.safetensors.index.json",
            ["diffusion_pytorch_model-00001-of-00001.safetensors"],
            None,
        ),
    ],
)
def test_shards_are_found_by_their_index_and_by_their_names(tmp_path, index, shards, variant):
    folder_of(tmp_path, index, *shards, shards=shards)
    found = files.weight_files(tmp_path, variant)
    assert (found.index, found.files) == (index, tuple(shards))
    assert files.find_weights([index, *shards, "config.json"], variant) == found
    assert files.plain_name(index, variant) in (
        "model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.json",
    )


def test_a_missing_shard_is_named(tmp_path):
    folder_of(tmp_path, "model.safetensors.index.json", SHARDS[0], shards=SHARDS)
    with pytest.raises(ValueError, match=r"lacks 1 of the 2 files .*: model-00002-of-00002\.safetensors"):
        files.weight_files(tmp_path, None)


def test_shards_without_index_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no \.index\.json"):
        files.weight_files(folder_of(tmp_path, *SHARDS), None)


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "../../etc/passwd"}}'])
def test_a_broken_index_is_an_error(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json"):
        files.weight_files(tmp_path, None)


@pytest.mark.parametrize(
    "present, variant, message",
    [
        (
            ["model.safetensors"],
            "fp16",
            "no weights of variant 'fp16'.*There is: model.safetensors. Choose: no variant",
        ),
        (["model.fp16.safetensors"], "bf16", "Choose: variant='fp16'"),
        (["model.fp16.safetensors"], None, "Pass variant='fp16'"),
        (["pytorch_model.bin"], None, "only PyTorch's .bin.*not read here. Convert them once"),
        (["diffusion_pytorch_model.fp16.bin"], "fp16", "only PyTorch's .bin"),
        (["config.json"], None, "Expected one of: diffusion_pytorch_model.safetensors, model.safetensors, diff"),
        ([], None, "There is: nothing"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_what_is_there(tmp_path, present, variant, message):
    with pytest.raises(ValueError, match=message):
        files.weight_files(folder_of(tmp_path, *present), variant)


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        files.weight_files(tmp_path / "none", None)


@pytest.mark.parametrize("name", ["model.safetensors", "a.bin", "model.onnx_data", "model.safetensors.index.fp16.json"])
def test_weights_are_known_by_their_endings(name):
    assert files.is_weight_file(name)


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "merges.txt", "special_tokens_map.json"])
def test_other_files_are_not_weights(name):
    assert not files.is_weight_file(name)
