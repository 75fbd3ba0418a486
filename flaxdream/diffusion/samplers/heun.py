"""Heun's second-order method (Karras et al. 2022, algorithm 1): two calls a step, one for the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from flaxdream.arrays import Array, Float, Int
from flaxdream.diffusion.samplers.base import Plan, Sampler, State
from flaxdream.diffusion.samplers.exploding import exploding_plan, sigma_grid
from flaxdream.diffusion.samplers.options import SigmaOptions
from flaxdream.diffusion.samplers.prediction import Mix, exploding_x0_mix, slope_mix


@dataclass(frozen=True, kw_only=True)
class HeunOptions(SigmaOptions):
    """Like its twin, Heun does not read rescale_betas_zero_snr."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    clip_sample: bool = False
    clip_sample_range: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.clip_sample_range > 0, "clip_sample_range", "a number above 0")


class Coefficients(NamedTuple):
    """How x0 and the slope come about, and the step's length; `second` marks a step's second call."""

    to_x0: Mix
    to_slope: Mix
    inverse_sigma: Float[np.ndarray, " calls"]
    move: Float[np.ndarray, " calls"]
    second: Float[np.ndarray, " calls"]


class Heun(Sampler):
    """Twin: HeunDiscreteScheduler."""

    class_name = "HeunDiscreteScheduler"
    options_class = HeunOptions
    options: HeunOptions

    @property
    def history_length(self) -> int:
        """The sample and the slope of the step's first call."""
        return 2

    def make_plan(self) -> Plan:
        """Calls at sigma 0, 1, 1, 2, 2, ...: each step's end is looked at, then left."""
        options = self.options
        t, sigmas = sigma_grid(options, self.num_inference_steps)
        calls = np.arange(2 * len(t) - 1)
        at, step = (calls + 1) // 2, calls // 2
        sigma = sigmas[at]
        coefficients = Coefficients(
            to_x0=exploding_x0_mix(options.prediction_type, sigma),
            to_slope=slope_mix(options.prediction_type, sigma),
            inverse_sigma=1 / sigma,
            move=sigmas[step + 1] - sigmas[step],
            second=calls % 2,
        )
        return exploding_plan(options, t[at], np.append(sigma, 0.0), coefficients, first_call=2 * self.begin)

    def step(
        self, state: State, i: Int[Array, ""] | int, out: Float[Array, "b ..."], noise: Float[Array, "b ..."] | None
    ) -> State:
        """A step along the slope, then the same step again along the mean of the slopes at its two ends."""
        row, x = self.row(i), state.x
        out = self.output(out, x)
        if self.options.clip_sample:
            limit = self.options.clip_sample_range
            slope = (x - jnp.clip(row.to_x0(x, out), -limit, limit)) * row.inverse_sigma
        else:
            slope = row.to_slope(x, out)
        first_x, first_slope = state.history
        second = row.second > 0
        base = jnp.where(second, first_x, x)
        mean = jnp.where(second, (first_slope + slope) / 2, slope)
        return State(base + row.move * mean, (x, slope))
