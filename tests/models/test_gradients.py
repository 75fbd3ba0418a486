"""Gradients with respect to every parameter equal torch's within 1e-4, whatever is recomputed for them."""

from __future__ import annotations

import diffusers
import jax
import pytest
import torch

from flaxdream.models import build, remat
from flaxdream.weights.names import leaves
from tests.models.test_clip import texts, torch_clip
from tests.models.test_unet import SD1, SD2, VARIANTS, inputs
from tests.models.test_vae import TINY
from tests.models.twins import assert_gradients_close, carried_over, draw, gradients, nchw, twin_of
from tests.twins import randomize

SLOW_POLICIES = [pytest.param(policy, marks=pytest.mark.slow) for policy in ("dots", "full", "offload")]


@pytest.mark.parametrize("config", [VARIANTS["one level"], pytest.param(SD2, marks=pytest.mark.slow)])
def test_gradients_of_the_unet_are_torchs(config):
    theirs = randomize(diffusers.UNet2DConditionModel(**config), 0)
    ours, params = twin_of(theirs)
    x_bhwc, t_b, context_bsd = inputs(config)
    weight_bhwc = draw(*x_bhwc.shape, seed=5)
    out = theirs(nchw(x_bhwc), torch.from_numpy(t_b), torch.from_numpy(context_bsd)).sample
    (out * nchw(weight_bhwc)).sum().backward()
    found = jax.jit(jax.grad(lambda p: (ours(p, x_bhwc, t_b, context_bsd) * weight_bhwc).sum()))(params)
    assert_gradients_close(found, carried_over(gradients(theirs), ours), 1e-4)


@pytest.mark.slow
def test_gradients_of_the_vae_are_torchs():
    theirs = randomize(diffusers.AutoencoderKL(**TINY), 0)
    ours, params = twin_of(theirs)
    pixels, weight = draw(2, 12, 8, 3), draw(2, 12, 8, 3, seed=5)
    (theirs(nchw(pixels)).sample * nchw(weight)).sum().backward()
    theirs.encode(nchw(pixels)).latent_dist.logvar.sum().backward()

    def loss(p):
        return (ours(p, pixels) * weight).sum() + ours(p, pixels, method="moments")[1].sum()

    assert_gradients_close(jax.jit(jax.grad(loss))(params), carried_over(gradients(theirs), ours), 1e-4)


def test_gradients_of_the_text_encoder_are_torchs():
    theirs = torch_clip(num_hidden_layers=2)
    ours, params = twin_of(theirs)
    states_weight, pooled_weight = draw(4, 10, 16), draw(4, 16, seed=5)
    out = theirs(torch.from_numpy(texts()))
    (out.last_hidden_state * torch.from_numpy(states_weight)).sum().backward(retain_graph=True)
    (out.pooler_output * torch.from_numpy(pooled_weight)).sum().backward()

    def loss(p):
        found = ours(p, texts())
        return (found.states_bsd * states_weight).sum() + (found.pooled_bd * pooled_weight).sum()

    assert_gradients_close(jax.jit(jax.grad(loss))(params), carried_over(gradients(theirs), ours), 1e-4)


CASES = {
    "unet": ({"_class_name": "UNet2DConditionModel", **SD1, "transformer_layers_per_block": 2}, inputs(SD1)),
    "vae": ({"_class_name": "AutoencoderKL", **TINY}, (draw(1, 16, 16, 3),)),
    "clip": (
        {"architectures": ["CLIPTextModel"], "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2},
        (texts(),),
    ),
}  # fmt: skip


def summed(network, args):
    return lambda params: jax.tree.leaves(network(params, *args))[0].sum()


def kept_bytes(network, args):
    """What the forward pass hands to the backward pass; only traced."""
    kept = jax.eval_shape(lambda params: jax.vjp(summed(network, args), params)[1], network.shapes)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


@pytest.mark.parametrize("case", CASES)
def test_a_checkpointing_policy_keeps_less_than_the_one_before(case):
    config, args = CASES[case]
    kept = {policy: kept_bytes(build(config, remat=policy), args) for policy in remat.POLICIES}
    parameters = sum(shape.size * 4 for _, shape in leaves(build(config).shapes))
    assert kept["none"] > kept["dots"] > kept["blocks"] >= kept["full"]
    assert kept["blocks"] - parameters < 0.5 * (kept["none"] - parameters)
    assert kept["offload"] == kept["blocks"]


@pytest.mark.parametrize("policy", ["blocks", *SLOW_POLICIES])
@pytest.mark.parametrize("case", ["clip", *(pytest.param(c, marks=pytest.mark.slow) for c in ("unet", "vae"))])
def test_a_checkpointing_policy_changes_no_gradient(case, policy):
    config, args = CASES[case]
    plain, recomputed = build(config), build(config, remat=policy)
    params = plain.init(jax.random.key(0))
    found, expected = (jax.jit(jax.grad(summed(network, args)))(params) for network in (recomputed, plain))
    # not bitwise: what is recomputed is fused with other neighbours
    assert_gradients_close(found, expected, 1e-5)


def test_levels_of_the_unet_are_recomputed_as_a_whole_under_the_policy_full():
    config, args = CASES["unet"]
    network, blocks = (build(config, remat=policy) for policy in ("full", "blocks"))
    assert kept_bytes(network, args) < kept_bytes(blocks, args)


def test_inputs_of_blocks_go_to_the_hosts_memory_under_the_policy_offload():
    config, args = CASES["unet"]
    network = build(config, remat="offload")
    traced = jax.make_jaxpr(jax.grad(summed(network, args)))(network.shapes)
    assert "<host>" in str(traced)


def test_an_unknown_policy_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="'some' is not known.*none .*dots .*blocks .*full .*offload "):
        build(CASES["unet"][0], remat="some")
