"""Ancestral sampling (Ho et al. 2020), with fixed or learned variance (Nichol & Dhariwal 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from flaxdream.arrays import Array, Float, Int
from flaxdream.diffusion.samplers import levels
from flaxdream.diffusion.samplers.base import Plan, Sampler, State, limited
from flaxdream.diffusion.samplers.options import LimitOptions, Spacing
from flaxdream.diffusion.samplers.prediction import Mix, x0_mix


@dataclass(frozen=True, kw_only=True)
class DDPMOptions(LimitOptions):
    """`fixed_large_log` is the same as fixed_large, as in Glide; in diffusers 0.42 it gives NaN."""

    timestep_spacing: Spacing = "leading"
    rescale_betas_zero_snr: bool = False
    variance_type: Literal[
        "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"
    ] = "fixed_small"

    @property
    def learned(self) -> bool:
        """Whether half of the model's output channels are variances."""
        return self.variance_type in ("learned", "learned_range")


class Coefficients(NamedTuple):
    """What each quantity is multiplied with; the logarithms are the ends of learned_range."""

    to_x0: Mix
    x0: Float[np.ndarray, " calls"]
    x: Float[np.ndarray, " calls"]
    noise: Float[np.ndarray, " calls"]
    log_small: Float[np.ndarray, " calls"]
    log_large: Float[np.ndarray, " calls"]


class DDPM(Sampler):
    """Twin: DDPMScheduler. With a learned variance the model's last axis has means, then variances."""

    class_name = "DDPMScheduler"
    options_class = DDPMOptions
    options: DDPMOptions

    def make_plan(self) -> Plan:
        """A step goes to the next timestep of the list; noise is drawn but at timestep 0."""
        options = self.options
        t = levels.whole(levels.timesteps(options, self.num_inference_steps))
        alpha_bar = levels.alpha_bar(options).astype(np.float64)[t]
        alpha_bar_after = np.append(alpha_bar[1:], 1.0)
        alpha = alpha_bar / alpha_bar_after
        small = np.maximum((1 - alpha_bar_after) / (1 - alpha_bar) * (1 - alpha), 1e-20)
        large = 1 - alpha
        deviation = np.sqrt(large if options.variance_type.startswith("fixed_large") else small)
        signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
        draws = t > 0
        coefficients = Coefficients(
            to_x0=x0_mix(options.prediction_type, signal, noise),
            x0=np.sqrt(alpha_bar_after) * (1 - alpha) / (1 - alpha_bar),
            x=np.sqrt(alpha) * (1 - alpha_bar_after) / (1 - alpha_bar),
            noise=np.where(draws, 1.0 if options.learned else deviation, 0.0),
            log_small=np.log(small) if options.learned else np.zeros_like(small),
            log_large=np.log(large) if options.learned else np.zeros_like(small),
        )
        needs_noise = bool(draws[self.begin :].any())
        return Plan(t, coefficients, signal, noise, needs_noise=needs_noise, first_call=self.begin)

    def step(
        self, state: State, i: Int[Array, ""] | int, out: Float[Array, "b ..."], noise: Float[Array, "b ..."] | None
    ) -> State:
        """The posterior mean given x0, and noise of the chosen variance."""
        row, x = self.row(i), state.x
        if self.options.learned:
            both = jnp.concatenate([x, x], axis=-1)
            out, predicted = jnp.split(self.output(out, both), 2, axis=-1)
        else:
            out = self.output(out, x)
        x0 = limited(self.options, row.to_x0(x, out))
        x = row.x0 * x0 + row.x * x
        if not self.needs_noise:
            return State(x)
        assert noise is not None
        if self.options.variance_type == "learned":
            # At timestep 0, where nothing is drawn, the prediction may be anything: keep NaN out.
            noise = jnp.where(row.noise > 0, jnp.sqrt(predicted) * noise, 0)
        elif self.options.variance_type == "learned_range":
            share = (predicted + 1) / 2
            noise = jnp.exp((share * row.log_large + (1 - share) * row.log_small) / 2) * noise
        return State(x + row.noise * noise)
