"""Learning rates against diffusers' get_scheduler stepped by torch's LambdaLR."""

from __future__ import annotations

import diffusers.optimization
import jax
import numpy as np
import pytest
import torch

from flaxdream.training.learning_rate import LR_SCHEDULERS, make_schedule, scaled_learning_rate, stop_step

LEARNING_RATE = 3e-5
RULES = "1:7,0.1:20,0.3:12,0.05"


def diffusers_rates(name, steps, warmup, total, cycles=1, power=1.0, learning_rates=(LEARNING_RATE,)):
    """The rate of each optimizer step, one column a parameter group."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in learning_rates]
    optimizer = torch.optim.SGD(groups, lr=learning_rates[0])
    scheduler = diffusers.optimization.get_scheduler(
        name,
        optimizer,
        step_rules=RULES,
        num_warmup_steps=warmup,
        num_training_steps=total,
        num_cycles=cycles,
        power=power,
    )
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr())
        optimizer.step()
        scheduler.step()
    return np.array(rates)


def our_rates(name, steps, warmup, total, cycles=1, power=1.0, learning_rate=LEARNING_RATE, base=None):
    schedule = make_schedule(
        name,
        learning_rate,
        lr_warmup_steps=warmup,
        max_train_steps=total,
        lr_num_cycles=cycles,
        lr_power=power,
        lr_step_rules=RULES if name == "piecewise_constant" else None,
        base_learning_rate=base,
    )
    rates = jax.jit(schedule)(np.arange(steps))
    assert rates.dtype == np.float32
    return np.asarray(rates)


@pytest.mark.parametrize("name", LR_SCHEDULERS)
@pytest.mark.parametrize(("warmup", "total"), [(0, 100), (13, 100), (1, 57), (99, 100), (120, 90), (0, 1)])
def test_every_rate_equals_that_of_diffusers_also_after_the_end(name, warmup, total):
    expected = diffusers_rates(name, 250, warmup, total)
    np.testing.assert_allclose(our_rates(name, 250, warmup, total), expected[:, 0], rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("name", ["linear", "cosine", "cosine_with_restarts", "polynomial"])
def test_the_last_rates_of_a_long_run_keep_their_digits(name):
    expected = diffusers_rates(name, 5010, 500, 5000)[-200:, 0]
    np.testing.assert_allclose(our_rates(name, 5010, 500, 5000)[-200:], expected, rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("cycles", [2, 3, 7, 13])
def test_restarts_fall_on_the_steps_of_diffusers(cycles):
    expected = diffusers_rates("cosine_with_restarts", 240, 10, 210, cycles)
    found = our_rates("cosine_with_restarts", 240, 10, 210, cycles)
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("power", [0.5, 2.0, 2.7, 4.0])
def test_polynomial_powers_equal_those_of_diffusers(power):
    expected = diffusers_rates("polynomial", 130, 10, 120, power=power)
    np.testing.assert_allclose(our_rates("polynomial", 130, 10, 120, power=power), expected[:, 0], rtol=1e-6)


@pytest.mark.parametrize("name", LR_SCHEDULERS)
def test_a_group_with_its_own_rate_keeps_its_proportion(name):
    expected = diffusers_rates(name, 80, 10, 60, learning_rates=(LEARNING_RATE, 5e-6))
    found = our_rates(name, 80, 10, 60, learning_rate=5e-6, base=LEARNING_RATE)
    np.testing.assert_allclose(found, expected[:, 1], rtol=1e-6, atol=1e-20)


def test_a_polynomial_that_is_all_warm_up_goes_to_its_end_where_diffusers_divides_by_zero():
    rates = our_rates("polynomial", 20, 10, 10)
    np.testing.assert_allclose(rates[9:12], [LEARNING_RATE * 0.9, 1e-7, 1e-7], rtol=1e-6)


def test_a_schedule_takes_one_step_as_well_as_many():
    schedule = make_schedule("cosine", 1e-4, lr_warmup_steps=2, max_train_steps=9)
    rates = schedule(np.arange(9))
    np.testing.assert_allclose([schedule(i) for i in range(9)], rates, rtol=1e-7)
    assert schedule(3).shape == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_scheduler": "cosin"}, "'cosin' is not supported. Supported: linear, cosine, cosine_with_restarts"),
        ({"lr_scheduler": "linear", "max_train_steps": None}, "needs max_train_steps"),
        ({"lr_scheduler": "linear", "lr_warmup_steps": -1}, "lr_warmup_steps -1"),
        ({"lr_scheduler": "cosine_with_restarts", "lr_num_cycles": 0}, "lr_num_cycles 0"),
        ({"lr_scheduler": "polynomial", "learning_rate": 1e-8}, "learning_rate 1e-08 must be above"),
        ({"lr_scheduler": "piecewise_constant"}, "lr_step_rules None"),
        ({"lr_scheduler": "piecewise_constant", "lr_step_rules": "1:a,2"}, "'1:a,2' is not a list"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_with_its_value(options, message):
    with pytest.raises(ValueError) as error:
        make_schedule(**{"learning_rate": 1e-4, "max_train_steps": 10} | options)
    assert message in str(error.value)


def test_scale_lr_multiplies_by_all_that_makes_a_step_larger():
    assert scaled_learning_rate(5e-6, 2, 4, 8) == 5e-6 * 2 * 4 * 8


@pytest.mark.parametrize(
    ("value", "steps"),
    [(None, None), (0, 0), (-1, 0), (0.5, 100), (0.333, 67), (1, None), (1.0, None), (2, 2), (150.0, 150), (200, None)],
)
def test_the_text_encoder_stops_at_a_step_or_a_fraction(value, steps):
    assert stop_step(value, 200) == steps


@pytest.mark.parametrize("value", [-2, -0.5, 1.5, float("nan"), float("inf")])
def test_a_stop_that_is_neither_step_nor_fraction_is_refused(value):
    with pytest.raises(ValueError, match="must be a whole number of steps"):
        stop_step(value, 200)
