"""DDIM (Song et al. 2020, equation 12), from eta = 0 (no noise) to 1 (DDPM's)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flaxdream.arrays import Array, Float, Int
from flaxdream.diffusion.samplers import levels
from flaxdream.diffusion.samplers.base import Plan, Sampler, State, limited
from flaxdream.diffusion.samplers.options import LimitOptions, Spacing
from flaxdream.diffusion.samplers.prediction import Mix, eps_mix, x0_mix


@dataclass(frozen=True, kw_only=True)
class DDIMOptions(LimitOptions):
    """`eta` and `use_clipped_model_output` are arguments of diffusers' step; here they are options too."""

    timestep_spacing: Spacing = "leading"
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False
    eta: float = 0.0
    use_clipped_model_output: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.eta <= 1, "eta", "a number from 0 to 1")


class Coefficients(NamedTuple):
    """What each quantity is multiplied with; with use_clipped_model_output eps comes from x0, not from out."""

    to_x0: Mix
    to_eps: Mix
    x0: Float[np.ndarray, " calls"]
    eps: Float[np.ndarray, " calls"]
    noise: Float[np.ndarray, " calls"]


class DDIM(Sampler):
    """Twin: DDIMScheduler."""

    class_name = "DDIMScheduler"
    options_class = DDIMOptions
    options: DDIMOptions

    def make_plan(self) -> Plan:
        """A step goes from t to t - T // steps, whatever the spacing, as in diffusers."""
        options = self.options
        t = levels.whole(levels.timesteps(options, self.num_inference_steps))
        after = t - options.num_train_timesteps // self.num_inference_steps
        table = levels.alpha_bar(options).astype(np.float64)
        last = 1.0 if options.set_alpha_to_one else table[0]
        alpha_bar, alpha_bar_after = table[t], np.where(after >= 0, table[after], last)
        signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
        variance = (1 - alpha_bar_after) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_after)
        deviation = options.eta * np.sqrt(variance)
        kind = "sample" if options.use_clipped_model_output else options.prediction_type
        coefficients = Coefficients(
            to_x0=x0_mix(options.prediction_type, signal, noise),
            to_eps=eps_mix(kind, signal, noise),
            x0=np.sqrt(alpha_bar_after),
            eps=np.sqrt(np.maximum(1 - alpha_bar_after - deviation**2, 0)),
            noise=deviation,
        )
        return Plan(t, coefficients, signal, noise, needs_noise=options.eta > 0, first_call=self.begin)

    def step(
        self, state: State, i: Int[Array, ""] | int, out: Float[Array, "b ..."], noise: Float[Array, "b ..."] | None
    ) -> State:
        """x0 and eps, then the sample that has them at the next level."""
        row, x = self.row(i), state.x
        out = self.output(out, x)
        x0 = limited(self.options, row.to_x0(x, out))
        eps = row.to_eps(x, x0 if self.options.use_clipped_model_output else out)
        x = row.x0 * x0 + row.eps * eps
        return State(x + row.noise * noise if self.needs_noise else x)
