from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxdream.weights import names
from flaxdream.weights.tensors import contiguous
from tests.weights.conftest import NETWORKS


@pytest.mark.parametrize(
    "path, name",
    [
        ("conv_in.kernel", "conv_in.weight"),
        ("down_blocks.0.resnets.1.norm1.scale", "down_blocks.0.resnets.1.norm1.weight"),
        ("embeddings.token_embedding.embedding", "embeddings.token_embedding.weight"),
        ("conv_in.bias", "conv_in.bias"),
        ("lone", "lone"),
    ],
)
def test_only_the_last_word_of_a_path_differs_from_the_state_dict(path, name):
    assert names.file_name(path) == name


@given(rank=st.integers(1, 5), leaf=st.sampled_from(["kernel", "scale", "embedding", "bias"]))
def test_layouts_are_each_others_inverse(rank, leaf):
    array = np.arange(np.prod(range(2, 2 + rank))).reshape(range(2, 2 + rank))
    there = names.to_file_layout(f"a.{leaf}", array)
    assert there.shape == names.file_shape(f"a.{leaf}", array.shape)
    np.testing.assert_array_equal(names.from_file_layout(f"a.{leaf}", there), array)


def test_convolutions_and_linear_layers_are_transposed_and_embeddings_are_not():
    assert names.file_shape("a.kernel", (3, 5, 8, 16)) == (16, 8, 3, 5)
    assert names.file_shape("a.kernel", (8, 16)) == (16, 8)
    assert names.file_shape("a.embedding", (8, 16)) == (8, 16)
    assert names.file_shape("a.scale", (8,)) == (8,)


@pytest.mark.parametrize(
    "old, new",
    [
        ("encoder.mid_block.attentions.0.query.weight", "encoder.mid_block.attentions.0.to_q.weight"),
        ("encoder.mid_block.attentions.0.key.bias", "encoder.mid_block.attentions.0.to_k.bias"),
        ("decoder.mid_block.attentions.0.value.bias", "decoder.mid_block.attentions.0.to_v.bias"),
        ("decoder.mid_block.attentions.0.proj_attn.weight", "decoder.mid_block.attentions.0.to_out.0.weight"),
        ("text_model.final_layer_norm.bias", "final_layer_norm.bias"),
    ],
)
def test_old_and_new_names_match(old, new):
    assert names.matching_name(old) == new == names.matching_name(new)


@pytest.mark.parametrize("name", ["text_model.embeddings.position_ids", "embeddings.position_ids"])
def test_position_ids_have_no_use(name):
    assert names.matching_name(name) is None


def test_clip_files_have_the_prefix_of_the_hub_and_no_other_files():
    clip = ["embeddings.token_embedding.embedding", "encoder.layers.0.mlp.fc1.kernel", "text_projection.kernel"]
    assert names.file_names(clip) == {
        "embeddings.token_embedding.embedding": "text_model.embeddings.token_embedding.weight",
        "encoder.layers.0.mlp.fc1.kernel": "text_model.encoder.layers.0.mlp.fc1.weight",
        "text_projection.kernel": "text_projection.weight",
    }
    assert names.file_names(["encoder.conv_in.kernel"]) == {"encoder.conv_in.kernel": "encoder.conv_in.weight"}


def test_names_of_every_network_are_unique_and_found_again(networks):
    for name in NETWORKS:
        paths = dict(names.leaves(networks[name].shapes))
        written = names.file_names(paths)
        keys = [names.matching_name(entry) for entry in written.values()]
        assert len(set(keys)) == len(paths) and None not in keys
        assert [names.matching_name(names.file_name(path)) for path in paths] == keys


def test_nested_undoes_leaves():
    tree = {"a": {"0": {"kernel": 1}, "10": {"kernel": 2}}, "b": 3}
    assert names.nested(dict(names.leaves(tree))) == tree


@given(
    axes=st.permutations(range(4)),
    shape=st.lists(st.integers(0, 70), min_size=4, max_size=4).filter(lambda shape: np.prod(shape) < 50_000),
    cut=st.booleans(),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_copies_in_memory_order_hold_the_same_values(axes, shape, cut, dtype):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)[: shape[0] // 2 if cut else None]
    view = array.transpose(axes)
    copy = contiguous(view, dtype)
    assert copy.flags.c_contiguous and copy.dtype == dtype and not np.shares_memory(copy, array)
    np.testing.assert_array_equal(copy, view.astype(dtype))


@pytest.mark.parametrize("shape", [(), (1,), (130,), (130, 70), (3, 3, 130, 70), (70, 130, 3, 3), (1, 1, 130, 70)])
def test_copies_of_every_rank_are_right(shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for view in (array, array.T, array.transpose(np.argsort(names._file_axes("kernel", array.ndim)))):
        np.testing.assert_array_equal(contiguous(view, np.float32), view)
