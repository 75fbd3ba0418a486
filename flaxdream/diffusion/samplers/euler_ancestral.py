"""Euler steps to a lower noise level than the next, and noise up to it again (k-diffusion's Euler ancestral)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flaxdream.arrays import Array, Float, Int
from flaxdream.diffusion.samplers.base import Plan, Sampler, State
from flaxdream.diffusion.samplers.exploding import exploding_plan, sigma_grid
from flaxdream.diffusion.samplers.options import Options
from flaxdream.diffusion.samplers.prediction import slope_mix


@dataclass(frozen=True, kw_only=True)
class EulerAncestralOptions(Options):
    """prediction_type sample works here; in diffusers it is not implemented."""

    rescale_betas_zero_snr: bool = False


class Coefficients(NamedTuple):
    """Of the sample, of the model's output, of the noise."""

    x: Float[np.ndarray, " calls"]
    out: Float[np.ndarray, " calls"]
    noise: Float[np.ndarray, " calls"]


class EulerAncestral(Sampler):
    """Twin: EulerAncestralDiscreteScheduler. Noise is drawn in every step; the last one's counts for nothing."""

    class_name = "EulerAncestralDiscreteScheduler"
    options_class = EulerAncestralOptions
    options: EulerAncestralOptions

    def make_plan(self) -> Plan:
        """The variance of the next level is split into what is kept (down) and what is drawn (up)."""
        t, sigmas = sigma_grid(self.options, self.num_inference_steps)
        sigma, after = sigmas[:-1], sigmas[1:]
        up = np.sqrt(after**2 * (sigma**2 - after**2) / sigma**2)
        move = np.sqrt(after**2 - up**2) - sigma
        slope = slope_mix(self.options.prediction_type, sigma)
        x, out = slope.scale * slope.x, slope.scale * slope.out
        plan = exploding_plan(
            self.options, t, sigmas, Coefficients(1 + move * x, move * out, up), first_call=self.begin
        )
        return plan._replace(needs_noise=True)

    def step(
        self, state: State, i: Int[Array, ""] | int, out: Float[Array, "b ..."], noise: Float[Array, "b ..."] | None
    ) -> State:
        """The Euler step and the noise."""
        row, x = self.row(i), state.x
        return State(row.x * x + row.out * self.output(out, x) + row.noise * noise)
