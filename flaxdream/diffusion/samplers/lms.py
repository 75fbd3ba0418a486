"""Linear multistep method of order 4 on the variance-exploding ODE (k-diffusion's LMS)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from flaxdream.arrays import Array, Float, Int
from flaxdream.diffusion.samplers.base import Plan, Sampler, State
from flaxdream.diffusion.samplers.exploding import exploding_plan, sigma_grid
from flaxdream.diffusion.samplers.options import SigmaOptions
from flaxdream.diffusion.samplers.prediction import Mix, slope_mix
from flaxdream.diffusion.samplers.weighted import difference_weights, weighted_sum


@dataclass(frozen=True, kw_only=True)
class LMSOptions(SigmaOptions):
    """`order` is an argument of diffusers' step. Like its twin, LMS does not read rescale_betas_zero_snr."""

    order: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1 <= self.order <= 4, "order", "1, 2, 3 or 4")


class Coefficients(NamedTuple):
    """How the slope comes about, and difference_weights of the newest and the older slopes."""

    to_slope: Mix
    slopes: Float[np.ndarray, "calls order"]


class LMS(Sampler):
    """Twin: LMSDiscreteScheduler.

    Twin but for `begin` > 0: there diffusers weighs the slopes as if there had been calls before, so that its
    first steps are too long. Here the method starts at order 1 again.
    """

    class_name = "LMSDiscreteScheduler"
    options_class = LMSOptions
    options: LMSOptions

    @property
    def history_length(self) -> int:
        """The slopes before the newest."""
        return self.options.order - 1

    def make_plan(self) -> Plan:
        """Each step integrates the polynomial through the slopes of up to `order` levels."""
        options = self.options
        if options.use_karras_sigmas:  # only its other spacings read these, in diffusers
            options = replace(options, sigma_min=None, sigma_max=None)
        t, sigmas = sigma_grid(options, self.num_inference_steps)
        weights = np.zeros((len(t), options.order))
        for i in range(self.begin, len(t)):
            seen = sigmas[max(i - options.order + 1, self.begin) : i + 1][::-1]
            weights[i, : len(seen)] = integrals(seen, sigmas[i], sigmas[i + 1])
        coefficients = Coefficients(slope_mix(options.prediction_type, sigmas[:-1]), difference_weights(weights))
        return exploding_plan(options, t, sigmas, coefficients, first_call=self.begin)

    def step(
        self, state: State, i: Int[Array, ""] | int, out: Float[Array, "b ..."], noise: Float[Array, "b ..."] | None
    ) -> State:
        """A weighted sum of slopes."""
        row, x = self.row(i), state.x
        slope = row.to_slope(x, self.output(out, x))
        slopes = (slope, *state.history)
        return State(x + weighted_sum(row.slopes, slopes), slopes[: self.history_length])


def integrals(nodes: Float[np.ndarray, " n"], start: float, end: float) -> Float[np.ndarray, " n"]:
    """The integral from start to end of each Lagrange polynomial of the nodes, exact."""
    # In units of the interval, so that the powers are of numbers near 1.
    places = (nodes - start) / (end - start)
    values = []
    for k, own in enumerate(places):
        others = np.delete(places, k)
        polynomial = np.polynomial.Polynomial(np.polynomial.polynomial.polyfromroots(others))
        values.append(polynomial.integ()(1.0) / np.prod(own - others))
    return np.array(values) * (end - start)
