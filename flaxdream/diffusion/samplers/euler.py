"""Euler's method on the variance-exploding ODE (Karras et al. 2022, algorithm 2 without its second half)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from flaxdream.arrays import Array, Float, Int
from flaxdream.diffusion.samplers.base import Plan, Sampler, State
from flaxdream.diffusion.samplers.exploding import exploding_plan, sigma_grid
from flaxdream.diffusion.samplers.options import SigmaOptions
from flaxdream.diffusion.samplers.prediction import exploding_x0_mix


@dataclass(frozen=True, kw_only=True)
class EulerOptions(SigmaOptions):
    """The last four are arguments of diffusers' step; here they are options too."""

    interpolation_type: Literal["linear", "log_linear"] = "linear"
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    rescale_betas_zero_snr: bool = False
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = float("inf")
    s_noise: float = 1.0

    synonyms: ClassVar = {"prediction_type": {"original_sample": "sample"}}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.s_churn >= 0, "s_churn", "a number, 0 or more")
        self.require(self.s_noise >= 0, "s_noise", "a number, 0 or more")


class Coefficients(NamedTuple):
    """Noise is added before the step; then a multiple of the sample and one of the model's output."""

    noise: Float[np.ndarray, " calls"]
    x: Float[np.ndarray, " calls"]
    out: Float[np.ndarray, " calls"]


class Euler(Sampler):
    """Twin: EulerDiscreteScheduler."""

    class_name = "EulerDiscreteScheduler"
    options_class = EulerOptions
    options: EulerOptions

    def make_plan(self) -> Plan:
        """With s_churn the sample is brought to a higher noise level before the step, as the model saw it not."""
        options = self.options
        t, sigmas = sigma_grid(options, self.num_inference_steps)
        sigma, after = sigmas[: len(t)], sigmas[1 : len(t) + 1]
        churned = (options.s_tmin <= sigma) & (sigma <= options.s_tmax)
        gamma = np.where(churned, min(options.s_churn / (len(sigmas) - 1), np.sqrt(2) - 1), 0)
        raised = sigma * (gamma + 1)
        # x0 of eps is taken at the raised level, of anything else at the one that the model saw.
        at = raised if options.prediction_type == "epsilon" else sigma
        to_x0 = exploding_x0_mix(options.prediction_type, at)
        x_to_slope, out_to_slope = (1 - to_x0.x) / raised, -to_x0.out / raised
        move = after - raised
        coefficients = Coefficients(
            noise=options.s_noise * np.sqrt(raised**2 - sigma**2), x=1 + move * x_to_slope, out=move * out_to_slope
        )
        plan = exploding_plan(options, t, sigmas, coefficients, first_call=self.begin)
        return plan._replace(needs_noise=bool((gamma[self.begin :] > 0).any()))

    def step(
        self, state: State, i: Int[Array, ""] | int, out: Float[Array, "b ..."], noise: Float[Array, "b ..."] | None
    ) -> State:
        """x + (x - x0) / sigma * (next sigma - sigma)."""
        row, x = self.row(i), state.x
        if self.needs_noise:
            x = x + row.noise * noise
        return State(row.x * x + row.out * self.output(out, x))
