"""The learning rate of each optimizer step, by the names of diffusers' `--lr_scheduler`.

A schedule is a function of the number of optimizer steps already taken, so neither the device count nor
gradient accumulation changes it. It can be traced, takes an array of steps as well, and is an optax schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

Schedule = Callable[[ArrayLike], Array]
Factor = Callable[[Array], Array]  # what multiplies the learning rate

LR_SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "piecewise_constant",
)
WITHOUT_END = ("constant", "constant_with_warmup", "piecewise_constant")  # they need no max_train_steps
POLYNOMIAL_END = 1e-7  # the learning rate at the end of `polynomial`


def make_schedule(
    lr_scheduler: str,
    learning_rate: float,
    *,
    lr_warmup_steps: int = 0,
    max_train_steps: int | None = None,
    lr_num_cycles: int = 1,
    lr_power: float = 1.0,
    lr_step_rules: str | None = None,
    base_learning_rate: float | None = None,
) -> Schedule:
    """Learning rate by optimizer step, the first step being 0. Twin: diffusers' `get_scheduler` with LambdaLR.

    Warm-up is linear from 0 and lies inside max_train_steps; `constant` and `piecewise_constant` have none.
    `lr_step_rules` is for piecewise_constant: "1:10,0.1:20,0.05" multiplies learning_rate by 1 before step
    10, by 0.1 before step 20 and by 0.05 after. For a group of parameters with its own rate (the text
    encoder), give the main one as `base_learning_rate`: all groups then keep the same proportion throughout,
    which matters to `polynomial` alone, since its end is an absolute 1e-7.

    After the end `linear` and `cosine_with_restarts` stay at 0 and `polynomial` at 1e-7, but `cosine` rises
    again. diffusers restarts late, with one step at 0, where 22 or more cycles meet its rounding; ours do not.
    """
    if lr_scheduler not in LR_SCHEDULERS:
        raise ValueError(f"lr_scheduler {lr_scheduler!r} is not supported. Supported: {', '.join(LR_SCHEDULERS)}.")
    if lr_warmup_steps < 0:
        raise ValueError(f"lr_warmup_steps {lr_warmup_steps} must be 0 or more.")
    if lr_scheduler in WITHOUT_END:
        total = 0
    elif max_train_steps is None or max_train_steps < 1:
        raise ValueError(f"lr_scheduler {lr_scheduler!r} needs max_train_steps of 1 or more, not {max_train_steps}.")
    else:
        total = max_train_steps
    base = learning_rate if base_learning_rate is None else base_learning_rate
    factor = _factor(lr_scheduler, base, lr_warmup_steps, total, lr_num_cycles, lr_power, lr_step_rules)
    return lambda step: jnp.float32(learning_rate) * factor(jnp.asarray(step))


def scaled_learning_rate(
    learning_rate: float, gradient_accumulation_steps: int, train_batch_size: int, device_count: int
) -> float:
    """The learning rate of `--scale_lr`: times accumulation, rows per device and devices, as diffusers does."""
    return learning_rate * gradient_accumulation_steps * train_batch_size * device_count


def stop_step(stop_text_encoder_training: float | None, max_train_steps: int) -> int | None:
    """The number of optimizer steps that move the text encoder; None if it trains to the end.

    Above 1 the value is a count of steps; from 0 to 1 it is a fraction of max_train_steps (so 1 is all of
    them). 0, and kohya's -1, never move it.
    """
    value = stop_text_encoder_training
    if value is None:
        return None
    if not math.isfinite(value) or (value < 0 and value != -1) or (value > 1 and value != int(value)):
        raise ValueError(
            f"stop_text_encoder_training {value} must be a whole number of steps above 1, a fraction from 0 to 1 "
            "of all steps, or -1 to leave the text encoder as it is."
        )
    steps = round(value * max_train_steps) if value <= 1 else int(value)
    return None if steps >= max_train_steps else max(steps, 0)


def _factor(name: str, base: float, warmup: int, total: int, cycles: int, power: float, rules: str | None) -> Factor:
    if name == "constant":
        return _constant
    if name == "piecewise_constant":
        return _piecewise(rules)
    if name == "constant_with_warmup":
        after: Factor = _constant
    elif name == "linear":
        after = _linear(warmup, total)
    elif name == "cosine":
        after = _cosine(warmup, total)
    elif name == "cosine_with_restarts":
        after = _cosine_with_restarts(warmup, total, cycles)
    else:
        after = _polynomial(warmup, total, base, power)
    return lambda step: jnp.where(step < warmup, _quotient(step, max(1, warmup)), after(step))


def _constant(step: Array) -> Array:
    return jnp.ones(step.shape, jnp.float32)


# Quotients are taken of whole numbers, so that what is left near the end of a schedule keeps all its digits;
# 1 - progress in float32 would lose them.


def _linear(warmup: int, total: int) -> Factor:
    length = max(1, total - warmup)
    return lambda step: _quotient(jnp.maximum(total - step, 0), length)


def _cosine(warmup: int, total: int) -> Factor:
    length = max(1, total - warmup)

    def factor(step: Array) -> Array:
        left = (warmup + length - step) % (2 * length)  # periodic: after the end the rate rises again
        left = jnp.minimum(left, 2 * length - left)
        return jnp.square(jnp.sin(jnp.float32(math.pi / 2) * _quotient(left, length)))

    return factor


def _cosine_with_restarts(warmup: int, total: int, cycles: int) -> Factor:
    length = max(1, total - warmup)
    if cycles < 1 or cycles != int(cycles) or cycles * length >= 2**31:
        raise ValueError(f"lr_num_cycles {cycles} must be a whole number, 1 or more, at most 2**31 / {length} steps.")

    def factor(step: Array) -> Array:
        done = jnp.clip(step - warmup, 0, length)
        left = length - (int(cycles) * done) % length
        half_cosine = jnp.square(jnp.sin(jnp.float32(math.pi / 2) * _quotient(left, length)))
        return jnp.where(done >= length, 0.0, half_cosine)

    return factor


def _polynomial(warmup: int, total: int, base: float, power: float) -> Factor:
    if not base > POLYNOMIAL_END:
        raise ValueError(f"lr_scheduler 'polynomial' ends at {POLYNOMIAL_END}; learning_rate {base} must be above it.")
    if not power >= 0:
        raise ValueError(f"lr_power {power} must be 0 or more.")
    length, end = max(1, total - warmup), POLYNOMIAL_END / base
    exponent = int(power) if power == int(power) else power  # whole powers are multiplied out, with less rounding

    def factor(step: Array) -> Array:
        left = jnp.clip(_quotient(total - step, length), 0, 1)
        return jnp.where(step > total, 0.0, (1 - end) * left**exponent) + jnp.float32(end)

    return factor


def _piecewise(rules: str | None) -> Factor:
    bounds, factors = _parse_rules(rules)
    return lambda step: jnp.asarray(factors)[jnp.searchsorted(jnp.asarray(bounds), step, side="right")]


def _parse_rules(rules: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Sorted steps [r] and the factors [r + 1] before, between and after them."""
    try:
        *pairs, last = (rules or "").split(",")
        by_step = {int(step): float(factor) for factor, step in (pair.split(":") for pair in pairs)}
        factors = [by_step[step] for step in sorted(by_step)] + [float(last)]
    except ValueError:
        raise ValueError(
            f"lr_step_rules {rules!r} is not a list of factor:step and a last factor. lr_scheduler "
            "'piecewise_constant' needs one, for example '1:10,0.1:20,0.05'."
        ) from None
    return np.asarray(sorted(by_step), np.int32), np.asarray(factors, np.float32)


def _quotient(numerator: Array, denominator: int) -> Array:
    return numerator.astype(jnp.float32) / denominator
