"""Losses and weights against torch autograd, diffusers' scripts and kohya's formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxdream.diffusion import loss, process
from flaxdream.diffusion.schedule import alpha_bar_from_config

CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ALPHA_BAR = alpha_bar_from_config(CONFIG)
T_B = np.array([0, 150, 600, 999])
PREDICTION, TARGET = np.random.default_rng(0).standard_normal((2, 4, 5, 3, 2)).astype(np.float32)


def torch_loss(prediction, loss_type, c_b):
    """The scripts' formulas, one loss per row."""
    target = torch.tensor(TARGET)
    if loss_type == "l2":
        each = torch.nn.functional.mse_loss(prediction, target, reduction="none")
    elif loss_type == "l1":
        each = torch.nn.functional.l1_loss(prediction, target, reduction="none")
    else:
        c = c_b.view(-1, 1, 1, 1)
        each = 2 * (torch.sqrt((prediction - target) ** 2 + c**2) - c)
        each = each * c if loss_type == "huber" else each
    return each.mean(dim=(1, 2, 3))


def torch_snr_weight(alpha_bar_b, gamma, prediction_type):
    snr = torch.tensor(alpha_bar_b) / (1 - torch.tensor(alpha_bar_b))
    capped = torch.clamp(snr, max=gamma)
    return capped / {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[prediction_type]


@pytest.mark.parametrize("loss_type", loss.LOSS_TYPES)
@pytest.mark.parametrize("prediction_type", process.PREDICTION_TYPES)
def test_the_weighted_loss_and_its_gradient_equal_torch_autograd(loss_type, prediction_type):
    c_b, weight_b = np.float32([0.1, 0.3, 1, 2]), np.float32([2, 0, 1, 0.5])
    prediction = torch.tensor(PREDICTION, requires_grad=True)
    snr_weight = torch_snr_weight(ALPHA_BAR[T_B], 5.0, prediction_type)
    expected = (torch_loss(prediction, loss_type, torch.tensor(c_b)) * snr_weight * torch.tensor(weight_b)).mean()
    expected.backward()

    def total(prediction):
        loss_b = loss.loss_per_row(prediction, jnp.asarray(TARGET), loss_type, jnp.asarray(c_b))
        weight = loss.min_snr_weight(ALPHA_BAR[T_B], 5.0, prediction_type) * weight_b
        return loss.weighted_mean(loss_b, weight)

    found, gradient = jax.value_and_grad(total)(jnp.asarray(PREDICTION))
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(gradient, prediction.grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss_type", ["huber", "smooth_l1"])
def test_huber_losses_have_a_zero_gradient_where_the_error_is_zero(loss_type):
    def total(x):
        return loss.loss_per_row(x, jnp.ones((1, 4)), loss_type, jnp.array([0.1])).sum()

    assert jnp.array_equal(jax.grad(total)(jnp.ones((1, 4))), jnp.zeros((1, 4)))


def test_huber_tends_to_squared_error_and_smooth_l1_to_twice_the_absolute_error():
    huber = loss.loss_per_row(PREDICTION, TARGET, "huber", jnp.float32(1e3))
    np.testing.assert_allclose(huber, loss.loss_per_row(PREDICTION, TARGET), rtol=1e-5)
    smooth = loss.loss_per_row(PREDICTION, TARGET, "smooth_l1", jnp.float32(1e-7))
    np.testing.assert_allclose(smooth, 2 * loss.loss_per_row(PREDICTION, TARGET, "l1"), rtol=1e-5)


def test_losses_of_bfloat16_predictions_are_float32():
    prediction = jnp.asarray(PREDICTION, jnp.bfloat16)
    found = loss.loss_per_row(prediction, TARGET)
    assert found.dtype == jnp.float32
    assert jnp.array_equal(found, loss.loss_per_row(prediction.astype(jnp.float32), TARGET))


@pytest.mark.parametrize("schedule", loss.HUBER_SCHEDULES)
def test_huber_thresholds_equal_kohyas_formulas(schedule):
    alpha_bar = torch.tensor(ALPHA_BAR[T_B])
    sigma = ((1 - alpha_bar) / alpha_bar) ** 0.5
    scale = 1.0 if schedule == "snr" else 1.5
    expected = {
        "constant": torch.full((4,), 0.1 * scale),
        "exponential": torch.exp(np.log(0.1) / 1000 * torch.tensor(T_B)) * scale,
        "snr": (1 - 0.1) / (1 + sigma) ** 2 + 0.1,
    }[schedule]
    found = loss.huber_threshold(schedule, 0.1, ALPHA_BAR[T_B], jnp.asarray(T_B), 1000, scale)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)


def test_the_snr_threshold_at_zero_terminal_snr_is_huber_c():
    found = loss.huber_threshold("snr", 0.1, jnp.array([0.0, 1.0]), jnp.array([999, 0]), 1000)
    np.testing.assert_allclose(found, [0.1, 1], rtol=1e-6)


@settings(deadline=None)
@given(st.floats(1e-4, 0.9999), st.floats(0.1, 20), st.sampled_from(process.PREDICTION_TYPES))
def test_min_snr_weight_is_the_capped_snr_over_that_of_the_target(alpha_bar, gamma, prediction_type):
    alpha_bar = float(np.float32(alpha_bar))
    snr = alpha_bar / (1 - alpha_bar)
    expected = min(snr, gamma) / {"epsilon": snr, "v_prediction": snr + 1, "sample": 1}[prediction_type]
    found = loss.min_snr_weight(jnp.float32([alpha_bar]), gamma, prediction_type)
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


@pytest.mark.parametrize(
    ("prediction_type", "expected"),
    [("epsilon", [1, 0]), ("v_prediction", [0, 0]), ("sample", [0, 5])],
)
def test_min_snr_weights_are_finite_where_all_is_noise_and_where_none_is(prediction_type, expected):
    with jax.debug_nans(True), jax.debug_infs(True):
        assert loss.min_snr_weight(jnp.array([0.0, 1.0]), 5.0, prediction_type).tolist() == expected


def test_min_snr_weights_make_the_three_targets_one_loss():
    x0, eps = PREDICTION, TARGET
    alpha_bar_b = ALPHA_BAR[T_B]
    x_t = process.add_noise(x0, eps, alpha_bar_b)
    guess_b = {
        kind: loss.loss_per_row(
            process.target(kind, x0 + 1, process.eps_from_x0(x_t, x0 + 1, alpha_bar_b), alpha_bar_b),
            process.target(kind, x0, eps, alpha_bar_b),
        ) * loss.min_snr_weight(alpha_bar_b, 5.0, kind)
        for kind in process.PREDICTION_TYPES
    }  # fmt: skip
    np.testing.assert_allclose(guess_b["epsilon"], guess_b["sample"], rtol=1e-4)
    np.testing.assert_allclose(guess_b["v_prediction"], guess_b["sample"], rtol=1e-4)


def test_debiased_weights_equal_kohyas_and_make_one_loss_of_eps_and_x0():
    snr = ALPHA_BAR[T_B] / (1 - ALPHA_BAR[T_B])
    capped = np.minimum(snr, 1000)
    assert snr[0] > 1000
    found = {kind: loss.debiased_weight(ALPHA_BAR[T_B], kind) for kind in process.PREDICTION_TYPES}
    np.testing.assert_allclose(found["epsilon"], 1 / np.sqrt(capped), rtol=1e-6)
    np.testing.assert_allclose(found["v_prediction"], 1 / (capped + 1), rtol=1e-6)
    np.testing.assert_allclose(found["sample"][1:], (found["epsilon"] * snr)[1:], rtol=1e-6)


@pytest.mark.parametrize("prediction_type", process.PREDICTION_TYPES)
def test_debiased_weights_at_zero_terminal_snr_are_finite(prediction_type):
    with jax.debug_nans(True), jax.debug_infs(True):
        weight = loss.debiased_weight(jnp.array([0.0]), prediction_type)
    assert weight.tolist() == [1.0 if prediction_type == "v_prediction" else 0.0]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.floats(0, 3, width=32), st.integers(0, 2**31), st.booleans())
def test_prior_weights_give_the_instance_mean_plus_lambda_times_the_prior_mean(n, lam, seed, with_min_snr):
    rng = np.random.default_rng(seed)
    loss_b = rng.uniform(0, 2, 2 * n).astype(np.float32)
    if with_min_snr:
        loss_b = loss_b * np.asarray(loss.min_snr_weight(rng.choice(ALPHA_BAR, 2 * n), 5.0, "v_prediction"))
    weight_b = np.float32([2] * n + [2 * lam] * n)
    expected = loss_b[:n].mean(dtype=np.float64) + lam * loss_b[n:].mean(dtype=np.float64)
    assert float(loss.weighted_mean(jnp.asarray(loss_b), jnp.asarray(weight_b))) == pytest.approx(expected, rel=1e-6)
    order = rng.permutation(2 * n)
    shuffled = loss.weighted_mean(jnp.asarray(loss_b[order]), jnp.asarray(weight_b[order]))
    assert float(shuffled) == pytest.approx(expected, rel=1e-6)


def test_rows_of_noise_do_not_depend_on_their_batch():
    def keys():
        return jax.random.split(jax.random.key(0), 4)

    together = loss.row_noise(keys(), (3, 2, 5))
    for row in range(4):
        assert jnp.array_equal(together[row : row + 1], loss.row_noise(keys()[row : row + 1], (3, 2, 5)))


def test_noise_offset_adds_one_number_per_row_and_channel():
    eps = loss.row_noise(jax.random.split(jax.random.key(1), 64), (4, 4, 8))
    shift = loss.offset_noise(eps, jax.random.split(jax.random.key(2), 64), 0.1) - eps
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1], shift.shape), atol=1e-6)
    assert np.std(shift[:, 0, 0]) == pytest.approx(0.1, rel=0.15)
    assert len(np.unique(np.round(shift[:, 0, 0], 5))) > 500


def test_input_perturbation_adds_fresh_noise_of_its_strength():
    eps = loss.row_noise(jax.random.split(jax.random.key(3), 64), (4, 4, 8))
    fresh = loss.perturbed_noise(eps, jax.random.split(jax.random.key(4), 64), 0.1) - eps
    assert np.std(fresh) == pytest.approx(0.1, rel=0.05)
    assert abs(np.corrcoef(fresh.ravel(), eps.ravel())[0, 1]) < 0.05


def test_no_offset_and_no_perturbation_leave_the_noise_as_it_was():
    eps = jnp.asarray(PREDICTION)
    key_b = jax.random.split(jax.random.key(5), 4)
    assert loss.offset_noise(eps, key_b, 0) is eps and loss.perturbed_noise(eps, key_b, 0.0) is eps


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss.loss_per_row(jnp.ones((2, 8)), jnp.ones((2, 4))), r"\(2, 8\) but its target \(2, 4\)"),
        (lambda: loss.loss_per_row(jnp.ones((2, 3)), jnp.ones((2, 3)), "l3"), "'l3'.*l2, l1, huber, smooth_l1"),
        (lambda: loss.loss_per_row(jnp.ones((2, 3)), jnp.ones((2, 3)), "huber"), "needs huber_c_b"),
        (lambda: loss.huber_threshold("cosine", 0.1, jnp.ones(2), jnp.ones(2), 10), "'cosine'.*constant, exponential"),
        (lambda: loss.huber_threshold("snr", 0.0, jnp.ones(2), jnp.ones(2), 10), "must be above 0"),
        (lambda: loss.huber_threshold("snr", 0.1, jnp.ones(2), jnp.ones(2), 10, 2.0), "has no effect"),
        (lambda: loss.min_snr_weight(jnp.ones(2), 5.0, "flow"), "'flow'.*epsilon, v_prediction, sample"),
        (lambda: loss.min_snr_weight(jnp.ones(2), 0.0, "epsilon"), "snr_gamma 0.0 must be above 0"),
        (lambda: loss.debiased_weight(jnp.ones(2), "flow"), "'flow'"),
        (lambda: loss.weighted_mean(jnp.ones(2), jnp.ones(4)), r"shapes \(2,\) and \(4,\)"),
        (lambda: loss.weighted_mean(jnp.ones((2, 3)), jnp.ones((2, 3))), "a loss and a weight per row"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused_with_its_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
