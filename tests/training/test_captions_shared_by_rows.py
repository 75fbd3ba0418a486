"""A caption that many rows share is encoded once a step, with the same losses and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdream.models import build
from flaxdream.training.recipes.latent_diffusion import Objective, make_loss_of_rows
from tests.training.smallest_model import CONFIGS, WORDS

ROWS = 8
CAPTIONS = np.random.default_rng(1).integers(1, WORDS, (2, 77))


@pytest.fixture(scope="module")
def networks():
    return {name: build(CONFIGS[name]) for name in ("unet", "vae", "text_encoder")}


@pytest.fixture(scope="module")
def params(networks):
    return {name: network.init(jax.random.key(n)) for n, (name, network) in enumerate(networks.items())}


def losses_and_gradients(networks, params, frozen, texts, rows=ROWS, run=jax.eval_shape):
    """The text encoder's gradients, the loss of each row, and the shapes of what was encoded."""
    seen = []

    def text_encoder(params, ids):
        seen.append(ids.shape)
        return networks["text_encoder"](params, ids)

    loss = make_loss_of_rows(
        networks["unet"], networks["vae"], text_encoder, CONFIGS["scheduler"], Objective(prediction_type="epsilon")
    )
    random = np.random.default_rng(0)
    batch = {"mean": random.standard_normal((rows, 8, 8, 4)).astype(np.float32), "logvar": jnp.zeros((rows, 8, 8, 4))}
    key_b = jax.random.split(jax.random.key(3), rows)

    def total(trained):
        loss_b = loss({"text_encoder": trained}, params | frozen, batch | texts, key_b)
        return loss_b.sum(), loss_b

    return *run(jax.grad(total, has_aux=True), params["text_encoder"]), seen


def compiled(function, *args):
    return jax.jit(function)(*args)


@pytest.mark.slow
def test_two_captions_of_eight_rows_give_what_a_text_for_each_row_gives(networks, params):
    index_b = np.array([0, 1, 1, 0, 1, 1, 1, 0])
    once = losses_and_gradients(networks, params, {"ids": CAPTIONS}, {"caption_index": index_b}, run=compiled)
    by_row = losses_and_gradients(networks, params, {}, {"ids": CAPTIONS[index_b]}, run=compiled)
    assert (once[2], by_row[2]) == ([(2, 77)], [(ROWS, 77)])
    np.testing.assert_allclose(once[1], by_row[1], rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(once[0]), jax.tree.leaves(by_row[0]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6 * float(np.abs(theirs).max() + 1))


def test_two_captions_of_eight_rows_are_encoded_once(networks, params):
    texts = {"caption_index": np.zeros(ROWS, int)}
    assert losses_and_gradients(networks, params, {"ids": CAPTIONS}, texts)[2] == [(2, 77)]


def test_as_many_captions_as_rows_are_encoded_by_row(networks, params):
    texts = {"caption_index": np.array([1, 1])}
    assert losses_and_gradients(networks, params, {"ids": CAPTIONS}, texts, rows=2)[2] == [(2, 77)]


def test_rows_cut_over_devices_count_for_each_device(networks, params):
    texts = {"caption_index": np.zeros(ROWS, int)}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        assert losses_and_gradients(networks, params, {"ids": CAPTIONS}, texts)[2] == [(ROWS, 77)]
    with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
        assert losses_and_gradients(networks, params, {"ids": CAPTIONS}, texts)[2] == [(2, 77)]
