"""A module without its weights: names, checks, random parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxdream.models import build
from flaxdream.models.architectures import ARCHITECTURES
from flaxdream.models.network import network
from flaxdream.weights.names import leaves
from tests.models.test_unet import SD1

UNET = {"_class_name": "UNet2DConditionModel", **SD1}


class Many(nnx.Module):
    """A list with more than ten entries; says the numbers of its entries in their order."""

    def __init__(self):
        self.entries = nnx.List(nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0)) for _ in range(12))

    def __call__(self):
        return jnp.stack([entry.kernel[...][0, 0] for entry in self.entries])


def test_the_eleventh_entry_of_a_list_is_not_taken_for_the_third():
    many = network(Many, None)
    params = {"entries": {str(i): {"kernel": jnp.full((1, 1), float(i))} for i in range(12)}}
    np.testing.assert_array_equal(many(params), np.arange(12))


def test_paths_are_the_names_of_the_state_dict():
    found = {path for path, _ in leaves(build(UNET).shapes)}
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.kernel" in found
    assert "up_blocks.1.attentions.1.transformer_blocks.0.ff.net.2.bias" in found
    assert all(isinstance(shape, jax.ShapeDtypeStruct) for _, shape in leaves(build(UNET).shapes))


@pytest.mark.parametrize(("name", "component", "size"), [
    ("sd15", "unet", 859_520_964), ("sd15", "vae", 83_653_863), ("sd15", "text_encoder", 123_060_480),
    ("sd21", "unet", 865_910_724), ("sd21", "text_encoder", 340_387_840),
])  # fmt: skip
def test_true_networks_have_the_published_number_of_parameters(name, component, size):
    assert sum(shape.size for _, shape in leaves(build(ARCHITECTURES[name][component]).shapes)) == size


def test_params_of_another_network_are_an_error_that_names_them():
    ours = build(UNET)
    params = ours.init(jax.random.key(0))
    params["conv_in"]["extra"] = params["conv_in"].pop("bias")
    params["conv_out"]["kernel"] = jnp.zeros((1, 1))
    with pytest.raises(ValueError) as error:
        ours(params, 0, 0, 0)
    for part in ("missing: conv_in.bias (8,)", "not known: conv_in.extra (8,)", "conv_out.kernel has shape (1, 1)"):
        assert part in str(error.value)


def test_random_parameters_depend_on_key_and_path_and_are_repeatable():
    ours, other = build(UNET), build(UNET | {"in_channels": 9})
    a, b, c = (n.init(jax.random.key(seed)) for n, seed in ((ours, 0), (other, 0), (ours, 1)))
    for path in ("conv_out", "time_embedding"):
        assert jax.tree.all(jax.tree.map(lambda x, y: (x == y).all(), a[path], b[path]))
    assert (a["conv_out"]["kernel"] != c["conv_out"]["kernel"]).all()
    kernel = np.asarray(a["conv_out"]["kernel"])
    assert 0.9 / 72**0.5 < np.abs(kernel).max() <= 1 / 72**0.5 and abs(kernel.mean()) < 0.02
    assert (a["conv_norm_out"]["scale"] == 1).all() and (a["conv_norm_out"]["bias"] == 0).all()


def test_random_parameters_have_param_dtype():
    params = build(UNET, param_dtype="bfloat16", dtype="float32").init(jax.random.key(0))
    assert {leaf.dtype for _, leaf in leaves(params)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("name", ["UNet2DConditionModel", "FlaxUNet2DConditionModel"])
def test_a_network_is_built_by_the_name_of_its_class(name):
    assert build({**SD1, "_class_name": name}).config.block_out_channels == (8, 16)


@pytest.mark.parametrize("config", [{}, {"_class_name": "UNet3D"}, {"architectures": ["T5EncoderModel"]}])
def test_an_unknown_class_is_an_error_that_lists_the_known_ones(config):
    with pytest.raises(ValueError, match="not supported. Supported: UNet2DConditionModel, AutoencoderKL, CLIPText"):
        build(config)
