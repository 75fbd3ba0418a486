"""Linear layers, added vectors and sums over rows: plain values, and gradients equal to torch's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flaxdream.models.products import add_vector, linear, product_over_rows, sum_over_rows
from tests.models.twins import assert_close, draw


def value_and_gradients(function, arrays, weight):
    y, pull = jax.vjp(function, *arrays)
    return (y, *pull(jnp.asarray(weight, y.dtype)))


def torchs(function, arrays, weight):
    tensors = [torch.from_numpy(a).requires_grad_() for a in arrays]
    y = function(*tensors)
    (y * torch.from_numpy(weight)).sum().backward()
    return [tensor.detach().numpy() for tensor in (y, *(tensor.grad for tensor in tensors))]


def assert_all_close(found, expected, tolerance=1e-5):
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, tolerance)


def spread_row(vector, x):
    return vector if vector.ndim == 1 else vector.reshape(vector.shape[0], *(1,) * (x.ndim - 2), -1)


# function, its twin, shape of x, shape of the other array
FUNCTIONS = {
    "linear": (linear, torch.matmul, (8, 7, 12), (12, 5)),
    "add vector": (add_vector, lambda x, v: x + spread_row(v, x), (8, 7, 12), (12,)),
    "add vector to each picture": (add_vector, lambda x, v: x + spread_row(v, x), (8, 3, 5, 12), (8, 12)),
}
SHAPES = [
    ("linear", (11,), (11, 13)),
    ("linear", (1, 11), (11, 13)),
    ("linear", (3, 11), (11, 1)),
    ("linear", (3, 7, 11), (11, 13)),
    ("linear", (1, 5, 7, 11), (11, 13)),
    ("linear", (1, 77, 768), (768, 320)),
    ("linear", (1, 1280), (1280, 320)),
    ("linear", (2, 256, 320), (320, 640)),
    ("add vector", (11,), (11,)),
    ("add vector", (3, 11), (11,)),
    ("add vector", (1, 5, 7, 11), (11,)),
    ("add vector to each picture", (3, 11), (3, 11)),
    ("add vector to each picture", (3, 7, 11), (3, 11)),
    ("add vector to each picture", (1, 5, 7, 11), (1, 11)),
]


def arrays_of(shape, other):
    arrays = draw(*shape), draw(*other, seed=1) / np.float32(other[0] ** 0.5)
    return arrays


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(("name", "shape", "other"), SHAPES)
def test_results_and_gradients_are_torchs(name, shape, other):
    ours, theirs = FUNCTIONS[name][:2]
    arrays = arrays_of(shape, other)
    weight = draw(*jax.eval_shape(ours, *arrays).shape, seed=2)
    found = jax.jit(lambda *a: value_and_gradients(ours, a, weight))(*arrays)
    assert_all_close(found, torchs(theirs, arrays, weight))


def case(name):
    ours, _, shape, other = FUNCTIONS[name]
    arrays = arrays_of(shape, other)
    return ours, arrays, draw(*jax.eval_shape(ours, *arrays).shape, seed=2)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_stays_half_and_is_the_float32_result_rounded(name):
    ours, arrays, weight = case(name)
    half = [jnp.asarray(a, jnp.bfloat16) for a in arrays]
    weight = np.asarray(jnp.asarray(weight, jnp.bfloat16), np.float32)
    found = jax.jit(lambda *a: value_and_gradients(ours, a, weight))(*half)
    expected = value_and_gradients(ours, [np.asarray(a, np.float32) for a in half], weight)
    for got, exact in zip(found, expected, strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(got, np.float32), exact, rtol=2**-8, atol=2**-8 * float(exact.std()))


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_they_may_be_mapped_over(name):
    ours, arrays, weight = case(name)
    stacked = [np.stack([a, -2 * a]) for a in arrays]
    for axes in [(0, 0), (0, None), (None, 0)]:
        given = [s if axis == 0 else a for s, a, axis in zip(stacked, arrays, axes)]
        together = jax.jit(jax.vmap(lambda *a: value_and_gradients(ours, a, weight), axes))(*given)
        for i in range(2):
            one = [a[i] if axis == 0 else a for a, axis in zip(given, axes)]
            assert_all_close([a[i] for a in together], value_and_gradients(ours, one, weight), 1e-6)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_recomputing_for_the_backward_pass_changes_no_gradient(name):
    ours, arrays, weight = case(name)

    def loss(*arrays):
        return (jnp.sin(ours(*arrays)) * weight).sum()

    found, expected = (jax.jit(jax.grad(f, argnums=(0, 1)))(*arrays) for f in (jax.checkpoint(loss), loss))
    assert_all_close(found, expected, 1e-6)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_spread_over_eight_devices_give_the_same(name, spread):
    ours, (x, other), weight = case(name)
    run = jax.jit(lambda *a: value_and_gradients(ours, a[:2], a[2]))
    found = run(spread(x), spread(other) if other.shape[0] == 8 else other, spread(weight))
    assert len(found[0].sharding.device_set) == 8
    assert_all_close(found, run(x, other, weight), 1e-6)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("shape", [(3,), (4, 3), (5, 4, 3), (2, 5, 4, 3), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sums_over_rows_are_those_of_numpy(shape, dtype):
    x = jnp.asarray(draw(*shape), dtype)
    exact = np.asarray(x, np.float64)
    tolerance = {"rtol": 2**-8, "atol": 1e-6} if dtype == jnp.bfloat16 else {"rtol": 1e-6, "atol": 1e-6}
    total = sum_over_rows(x)
    assert total.dtype == dtype
    np.testing.assert_allclose(np.asarray(total, np.float64), exact.reshape(-1, 3).sum(0), **tolerance)
    if len(shape) > 1:
        by_picture = np.asarray(sum_over_rows(x, by_first_axis=True), np.float64)
        np.testing.assert_allclose(by_picture, exact.reshape(shape[0], -1, 3).sum(1), **tolerance)


def test_a_half_precision_sum_of_many_rows_does_not_stop_growing():
    x = jnp.ones((4, 500, 2), jnp.bfloat16)  # ones added in bfloat16 end at 256
    np.testing.assert_array_equal(np.asarray(sum_over_rows(x), np.float32), 2000)


def test_the_product_over_rows_counts_all_axes_but_the_last_as_rows():
    x, y = draw(3, 4, 5), draw(3, 4, 6, seed=1)
    assert_close(product_over_rows(x, y), np.einsum("abi,abo->io", x, y), 1e-5)
