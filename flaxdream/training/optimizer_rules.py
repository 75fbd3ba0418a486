"""The optimizers that have a name, each without clipping, groups or a schedule.

A rule is a function of the learning rate that gives an optax transformation whose state does not depend on
that rate. So one counter of steps serves every schedule, and all rules take the rate in the same way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax

from flaxdream.arrays import Array, Float, Params
from flaxdream.training.adafactor import adafactor
from flaxdream.training.adam import scale_by_adam, scale_by_second_moment
from flaxdream.training.adam_8bit import scale_by_adam_8bit
from flaxdream.training.prodigy import prodigy

Rule = Callable[[Float[Array, ""]], optax.GradientTransformation]


def canonical_name(optimizer: str, use_8bit_adam: bool = False) -> str:
    """The name in OPTIMIZERS of what diffusers or kohya users write; --use_8bit_adam makes adamw 8-bit."""
    name = optimizer.lower().replace("-", "_")
    name = ALIASES.get(name, name)
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer {optimizer!r} is not supported. Supported: {', '.join(OPTIMIZERS)}.")
    if not use_8bit_adam:
        return name
    if name not in ("adamw", "adamw8bit"):
        raise ValueError(f"use_8bit_adam goes with optimizer adamw, not with {optimizer!r}. Leave one of them out.")
    return "adamw8bit"


def make_rule(name: str, **options: Any) -> Rule:
    """The named optimizer without clipping, groups or a schedule; options that are None keep its defaults."""
    builder = OPTIMIZERS[canonical_name(name)]
    given = {option: value for option, value in options.items() if value is not None}
    known = tuple(inspect.signature(builder).parameters)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"optimizer {name!r} has no {', '.join(unknown)}. Its options are {', '.join(known)}.")
    return builder(**given)


def adamw(*, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01) -> Rule:
    """torch.optim.AdamW: decay apart from the moments, of every parameter, biases and norms too."""
    return _decoupled(scale_by_adam(beta1, beta2, eps), weight_decay)


def adam(*, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0) -> Rule:
    """torch.optim.Adam: decay is added to the gradient."""
    return _in_gradient(scale_by_adam(beta1, beta2, eps), weight_decay)


def adamw8bit(*, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01) -> Rule:
    """adamw with moments of 8 bits."""
    return _decoupled(scale_by_adam_8bit(beta1, beta2, eps), weight_decay)


def lion(*, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.01) -> Rule:
    """Lion (Chen et al. 2023): the sign of a momentum. Its learning rate is a third to a tenth of Adam's."""
    return _decoupled(optax.scale_by_lion(beta1, beta2), weight_decay)


def sgd(*, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Rule:
    """torch.optim.SGD."""
    if nesterov and not momentum:
        raise ValueError("nesterov needs a momentum above 0.")
    return _in_gradient(optax.trace(momentum, nesterov) if momentum else optax.identity(), weight_decay)


def schedule_free(
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_lr_power: float = 2.0,
) -> Rule:
    """Schedule-free AdamW (Defazio et al. 2024): an average takes the place of a decaying learning rate.

    Meant for lr_scheduler constant or constant_with_warmup. What trains are not the parameters to use: those
    come from `evaluation_params`. Twin: schedulefree.AdamWScheduleFree, whose warm-up starts one step further.
    """
    base = _decoupled(scale_by_second_moment(beta2, eps), weight_decay)
    return lambda rate: optax.contrib.schedule_free(base(rate), rate, b1=beta1, weight_lr_power=weight_lr_power)


OPTIMIZERS: dict[str, Callable[..., Rule]] = {
    "adamw": adamw,
    "adamw8bit": adamw8bit,
    "adam": adam,
    "adafactor": adafactor,
    "lion": lion,
    "prodigy": prodigy,
    "schedule_free": schedule_free,
    "sgd": sgd,
}
ALIASES = {"adamw_8bit": "adamw8bit", "adamwschedulefree": "schedule_free", "schedulefree": "schedule_free"}


def _decoupled(direction: optax.GradientTransformation, weight_decay: float) -> Rule:
    """The rule p - rate * (direction + weight_decay * p)."""

    def at(rate: Float[Array, ""]) -> optax.GradientTransformation:
        def update(grads: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
            steps, state = direction.update(grads, state, params)
            if not weight_decay:
                return jax.tree.map(lambda d: -rate * d, steps), state
            return jax.tree.map(lambda d, p: -rate * (d + weight_decay * p), steps, params), state

        return optax.GradientTransformation(direction.init, update)

    return at


def _in_gradient(direction: optax.GradientTransformation, weight_decay: float) -> Rule:
    """The rule p - rate * direction, where weight_decay * p is part of the gradient."""

    def at(rate: Float[Array, ""]) -> optax.GradientTransformation:
        def update(grads: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
            if weight_decay:
                grads = jax.tree.map(lambda g, p: g + weight_decay * p, grads, params)
            return _decoupled(direction, 0.0)(rate).update(grads, state, params)

        return optax.GradientTransformation(direction.init, update)

    return at
