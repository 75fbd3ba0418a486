"""Learning rates, optimizer and moving average as a run's config asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import optax

from flaxdream.config.run import RunConfig
from flaxdream.config.run_checks import optimizer_name, optimizer_options
from flaxdream.training.learning_rate import Schedule, make_schedule, scaled_learning_rate, stop_step
from flaxdream.training.optimizer import make_optimizer


def schedules(config: RunConfig, components: Sequence[str], steps: int) -> dict[str, Schedule]:
    """The learning rate of each component over `steps` optimizer steps; the first component's is the run's."""
    scale = 1.0
    if config.scale_lr:
        scale = scaled_learning_rate(
            1.0, config.gradient_accumulation_steps, config.train_batch_size, jax.device_count()
        )
    rates = {name: config.learning_rate * scale for name in components}
    own = getattr(config, "text_encoder_lr", None)
    if "text_encoder" in rates and own is not None:
        rates["text_encoder"] = own * scale
    return {
        name: make_schedule(
            config.lr_scheduler,
            rate,
            lr_warmup_steps=config.lr_warmup_steps,
            max_train_steps=steps,
            lr_num_cycles=config.lr_num_cycles,
            lr_power=config.lr_power,
            lr_step_rules=config.lr_step_rules,
            base_learning_rate=rates[components[0]],
        )
        for name, rate in rates.items()
    }


def learning_rates(config: RunConfig, rates: dict[str, Schedule], step: int) -> dict[str, float]:
    """The rates that step number `step` (from 1) ran at, for the log."""
    now = {name: float(schedule(step - 1)) for name, schedule in rates.items()}
    named = {"lr": next(iter(now.values()))}
    if "text_encoder" in now and getattr(config, "text_encoder_lr", None) is not None:
        named["lr_text_encoder"] = now["text_encoder"]
    return named


def optimizer(config: RunConfig, rates: dict[str, Schedule], steps: int) -> optax.GradientTransformation:
    """The run's optimizer; a component may stop early and have a weight decay of its own."""
    name, options = optimizer_name(config), optimizer_options(config)
    assert name is not None
    encoder = "text_encoder" in rates
    stop = stop_step(getattr(config, "stop_text_encoder_training", None), steps) if encoder else None
    stops = None if stop is None else {"text_encoder": stop}
    rate = next(iter(rates.values()))
    if name == "prodigy":  # one step size for all parameters
        return make_optimizer(name, rate, max_grad_norm=config.max_grad_norm, stop_steps=stops, **options)
    own_decay = getattr(config, "adam_weight_decay_text_encoder", None)
    if own_decay is not None and encoder:
        options["weight_decay"] = dict.fromkeys(rates, options["weight_decay"]) | {"text_encoder": own_decay}
    return make_optimizer(name, rates, max_grad_norm=config.max_grad_norm, stop_steps=stops, **options)


def ema_options(config: RunConfig) -> dict[str, Any] | None:
    """The options of `update_ema`; None without an average."""
    if not config.use_ema:
        return None
    return {
        "decay": config.ema_decay,
        "min_decay": config.ema_min_decay,
        "update_after_step": config.ema_update_after_step,
        "use_ema_warmup": config.ema_use_warmup,
        "inv_gamma": config.ema_inv_gamma,
        "power": config.ema_power,
    }
