from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from flaxdream.weights import safetensors as ours
from flaxdream.weights.tensors import contiguous, host_copy

BF16 = jnp.dtype(jnp.bfloat16)
TENSORS = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.weight": np.arange(4, dtype=np.float16),
    "c": np.array(1.5, BF16),
    "é": np.ones((0, 3), np.float32),
    "d": np.arange(5, dtype=np.float16),
}


def entries(tensors):
    return {name: ours.Entry(array.dtype, array.shape, lambda array=array: array) for name, array in tensors.items()}


def test_written_files_have_the_bytes_of_the_safetensors_library(tmp_path):
    ours.write_entries(tmp_path / "ours", entries(TENSORS))
    safetensors.numpy.save_file(TENSORS, tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_metadata_is_written_and_read(tmp_path):
    ours.write_entries(tmp_path / "f", {}, {"note": "ä"})
    assert ours.read_metadata(tmp_path / "f") == {"format": "pt", "note": "ä"}


def test_every_type_is_read_as_the_library_wrote_it(tmp_path):
    safetensors.numpy.save_file(TENSORS, tmp_path / "file")
    found = ours.open_safetensors(tmp_path / "file")
    assert found.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        view = found[name].view()
        assert view.dtype == array.dtype and view.shape == array.shape and view.tobytes() == array.tobytes()


def test_released_pages_are_read_again(tmp_path):
    array = np.arange(2**20, dtype=np.float32)
    safetensors.numpy.save_file({"x": array}, tmp_path / "file")
    tensor = ours.open_safetensors(tmp_path / "file")["x"]
    for _ in range(2):
        np.testing.assert_array_equal(contiguous(tensor.view(), np.float32), array)
        tensor.release()


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1, -1000])
def test_a_file_that_was_cut_off_is_named(tmp_path, keep):
    safetensors.numpy.save_file({"x": np.zeros(1000, np.float32)}, tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:keep])
    with pytest.raises(ValueError, match=r"cut\.safetensors .* is not a whole safetensors file.*download or copy it"):
        ours.open_safetensors(tmp_path / "cut.safetensors")


def test_headers_that_lie_about_offsets_or_sizes_are_refused(tmp_path):
    for start, stop, shape in ((0, 8, [1]), (4, 8, [1]), (0, 4, [-1]), (0, 2**60, [2**58])):
        header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}}).encode()
        (tmp_path / "f.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            ours.open_safetensors(tmp_path / "f.safetensors")


def test_a_git_lfs_pointer_is_recognised(tmp_path):
    (tmp_path / "f.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        ours.open_safetensors(tmp_path / "f.safetensors")


def test_params_are_written_in_torch_layout_and_in_the_type_asked_for(tmp_path):
    params = {"conv": {"kernel": jnp.arange(24.0).reshape(1, 2, 3, 4)}, "norm": {"scale": jnp.ones(3)}}
    ours.write_safetensors(tmp_path / "f", params, dtype=jnp.float16)
    found = safetensors.numpy.load_file(tmp_path / "f")
    assert found["conv.weight"].dtype == np.float16
    np.testing.assert_array_equal(found["conv.weight"], np.arange(24).reshape(1, 2, 3, 4).transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(found["norm.weight"], np.ones(3))


def test_values_too_large_for_float16_are_an_error_and_leave_the_old_file(tmp_path):
    (tmp_path / "f").write_text("old")
    params = {"fine": {"bias": jnp.ones(3)}, "norm": {"scale": jnp.array([1.0, 1e5])}}
    with pytest.raises(ValueError, match=r"'norm\.weight' has values beyond float16's largest .*bfloat16"):
        ours.write_safetensors(tmp_path / "f", params, dtype=jnp.float16)
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text() == "old"


def test_types_that_files_cannot_hold_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"float32, float16 and bfloat16 only, not: 'step' \(int32\)"):
        ours.write_safetensors(tmp_path / "f", {"step": jnp.int32(1)})


def test_a_host_copy_of_a_sharded_array_is_not_kept_on_it(tmp_path):
    """np.asarray would keep it there: after a whole tree was written, a second model in host memory."""
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    kernel = jax.device_put(jnp.arange(64.0).reshape(8, 8), NamedSharding(mesh, PartitionSpec("fsdp")))
    ours.write_safetensors(tmp_path / "f", {"kernel": kernel})
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "f")["weight"], np.arange(64).reshape(8, 8).T)
    first, second = host_copy(kernel), host_copy(kernel)
    assert not np.shares_memory(first, second)
    assert np.shares_memory(np.asarray(kernel), np.asarray(kernel))  # what it is held against
