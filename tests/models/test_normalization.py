"""Group and layer norm, with their gradients, equal torch's: near zero, far from it, and in half precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flaxdream.models.normalization import group_norm, layer_norm
from tests.models.twins import assert_close, draw


def inputs(*shape):
    """x, scale and bias; what the result is weighted with."""
    scale, bias = 1 + 0.3 * draw(shape[-1], seed=1), draw(shape[-1], seed=2)
    return (draw(*shape), scale, bias), draw(*shape, seed=3)


def value_and_gradients(norm, arrays, weight):
    y, pull = jax.vjp(norm, *arrays)
    return (y, *pull(jnp.asarray(weight, y.dtype)))


def torchs(norm, arrays, weight, dtype=torch.float32):
    """The same from torch; channels are last, as ours."""
    tensors = [torch.from_numpy(np.asarray(a, np.float32)).to(dtype).requires_grad_() for a in arrays]
    y = norm(*tensors)
    (y * torch.from_numpy(weight).to(dtype)).sum().backward()
    return [tensor.detach().numpy() for tensor in (y, *(tensor.grad for tensor in tensors))]


def torch_group_norm(groups, eps):
    def norm(x, scale, bias):
        return torch.nn.functional.group_norm(x.movedim(-1, 1), groups, scale, bias, eps).movedim(1, -1)

    return norm


def torch_layer_norm(eps):
    return lambda x, scale, bias: torch.nn.functional.layer_norm(x, x.shape[-1:], scale, bias, eps)


def assert_all_close(found, expected, tolerance=1e-5):
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(np.asarray(ours, np.float32), theirs, tolerance)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(
    ("shape", "groups", "eps"),
    [
        ((1, 5, 7, 12), 4, 1e-5),
        ((3, 8, 8, 12), 1, 1e-6),
        ((3, 5, 8, 12), 12, 0.1),
        ((2, 9, 24), 3, 1e-6),
        ((3, 36), 4, 1e-5),
        ((1, 1, 1, 21), 7, 0.1),
    ],
)
def test_group_norm_and_its_gradients_are_torchs(shape, groups, eps):
    arrays, weight = inputs(*shape)
    found = jax.jit(lambda *a: value_and_gradients(lambda *b: group_norm(*b, groups, eps), a, weight))(*arrays)
    assert_all_close(found, torchs(torch_group_norm(groups, eps), arrays, weight))


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(("shape", "groups"), [((1, 32, 32, 320), 32), ((3, 4, 4, 1280), 32), ((1, 16, 16, 512), 32)])
def test_group_norm_of_sds_widths_is_torchs(shape, groups):
    arrays, weight = inputs(*shape)
    found = jax.jit(lambda *a: value_and_gradients(lambda *b: group_norm(*b, groups, 1e-5), a, weight))(*arrays)
    assert_all_close(found, torchs(torch_group_norm(groups, 1e-5), arrays, weight))


@pytest.mark.usefixtures("platform")
def test_gradients_of_group_norm_far_from_zero_are_exact():
    (x, scale, bias), weight = inputs(2, 16, 16, 24)
    arrays = (x + 30, scale, bias)
    found = jax.jit(lambda *a: value_and_gradients(lambda *b: group_norm(*b, 4, 1e-5), a, weight))(*arrays)
    # In float64: torch's float32 is off by 8e-5 here, ours by 1e-6.
    assert_all_close(found, torchs(torch_group_norm(4, 1e-5), arrays, weight, torch.float64))


@pytest.mark.usefixtures("platform")
def test_group_norm_of_a_blank_picture_is_its_bias():
    (_, scale, bias), weight = inputs(2, 4, 4, 8)
    x = np.full((2, 4, 4, 8), 7, np.float32)
    y, dx, dscale, _ = jax.jit(lambda *a: value_and_gradients(lambda *b: group_norm(*b, 2, 1e-6), a, weight))(
        x, scale, bias
    )
    np.testing.assert_array_equal(y, np.broadcast_to(bias, y.shape))
    np.testing.assert_array_equal(dscale, 0)
    assert np.isfinite(dx).all()


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize("shape", [(2, 7, 12), (3, 10), (1, 1, 13), (2, 3, 5, 8), (9, 320)])
def test_layer_norm_and_its_gradients_are_torchs(shape, eps):
    arrays, weight = inputs(*shape)
    found = jax.jit(lambda *a: value_and_gradients(lambda *b: layer_norm(*b, eps), a, weight))(*arrays)
    assert_all_close(found, torchs(torch_layer_norm(eps), arrays, weight))


@pytest.mark.usefixtures("platform")
def test_gradients_of_layer_norm_far_from_zero_are_exact():
    (x, scale, bias), weight = inputs(2, 7, 64)
    arrays = (x + 30, scale, bias)
    found = jax.jit(lambda *a: value_and_gradients(lambda *b: layer_norm(*b, 1e-5), a, weight))(*arrays)
    assert_all_close(found, torchs(torch_layer_norm(1e-5), arrays, weight, torch.float64))


NORMS = {
    "group": (lambda *a: group_norm(*a, 4, 1e-5), torch_group_norm(4, 1e-5), (8, 6, 5, 12)),
    "layer": (lambda *a: layer_norm(*a, 1e-5), torch_layer_norm(1e-5), (8, 7, 12)),
}


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", NORMS)
def test_half_precision_is_the_float32_result_rounded(name):
    ours, theirs, shape = NORMS[name]
    (x, *vectors), weight = inputs(*shape)
    arrays = (jnp.asarray(x + 3, jnp.bfloat16), *vectors)  # parameters stay float32
    weight = np.asarray(jnp.asarray(weight, jnp.bfloat16), np.float32)
    found = jax.jit(lambda *a: value_and_gradients(ours, a, weight))(*arrays)
    assert [a.dtype for a in found] == [jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.float32]
    for got, expected in zip(found, torchs(theirs, arrays, weight), strict=True):
        half = 2**-8 if got.dtype == jnp.bfloat16 else 0  # half a unit in the last place
        np.testing.assert_allclose(np.asarray(got, np.float32), expected, rtol=half, atol=3e-5)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", NORMS)
def test_half_precision_parameters_have_half_precision_gradients(name):
    ours, _, shape = NORMS[name]
    arrays, weight = inputs(*shape)
    half = [jnp.asarray(a, jnp.bfloat16) for a in arrays]
    shapes = jax.eval_shape(lambda *a: value_and_gradients(ours, a, weight), *half)
    assert all(a.dtype == jnp.bfloat16 for a in shapes)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", NORMS)
def test_norms_may_be_mapped_over(name):
    ours, _, shape = NORMS[name]
    (x, scale, bias), weight = inputs(*shape)
    x = np.stack([x, -2 * x])

    def run(x):
        return value_and_gradients(ours, (x, scale, bias), weight)

    together = jax.jit(jax.vmap(run))(x)
    for i in range(2):
        assert_all_close([a[i] for a in together], jax.jit(run)(x[i]), 1e-6)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", NORMS)
def test_recomputing_for_the_backward_pass_changes_no_gradient(name):
    ours, _, shape = NORMS[name]
    arrays, weight = inputs(*shape)

    def loss(*arrays):
        return (jnp.sin(ours(*arrays)) * weight).sum()

    found, expected = (jax.jit(jax.grad(f, argnums=(0, 1, 2)))(*arrays) for f in (jax.checkpoint(loss), loss))
    assert_all_close(found, expected, 1e-6)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", NORMS)
def test_rows_spread_over_eight_devices_give_the_same(name, spread):
    ours, _, shape = NORMS[name]
    (x, *vectors), weight = inputs(*shape)
    run = jax.jit(lambda x, weight: value_and_gradients(ours, (x, *vectors), weight))
    found = run(spread(x), spread(weight))
    assert len(found[0].sharding.device_set) == 8
    assert_all_close(found, run(x, weight), 1e-6)


def test_no_array_of_the_inputs_size_is_kept_but_the_input():
    for ours, _, shape in NORMS.values():
        arrays, _ = inputs(*shape)
        kept = jax.eval_shape(lambda *a: jax.vjp(ours, *a)[1], *arrays)  # noqa: B023
        assert sum(leaf.size >= arrays[0].size for leaf in jax.tree.leaves(kept)) == 1


def test_groups_that_do_not_divide_the_channels_are_an_error():
    arrays, _ = inputs(1, 4, 4, 10)
    with pytest.raises(ValueError, match="10 channels cannot be cut into 4 groups"):
        group_norm(*arrays, 4, 1e-5)
