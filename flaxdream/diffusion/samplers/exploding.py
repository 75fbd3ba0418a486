"""What the variance-exploding samplers (Euler, Heun, LMS) share: their sigmas, input scale and first noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from flaxdream.arrays import Float
from flaxdream.diffusion import schedule
from flaxdream.diffusion.samplers import levels
from flaxdream.diffusion.samplers.base import Plan
from flaxdream.diffusion.samplers.options import Options, SigmaOptions


def sigma_grid(options: Options, steps: int) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " sigmas"]]:
    """Timesteps (float32) and sigmas (float32 values in float64), which have at least one entry more.

    Sigmas between training timesteps are interpolated. interpolation_type log_linear takes no notice of the
    timesteps and puts the training range's two ends into steps + 1 sigmas, so that zero is never reached.
    """
    table = levels.sigmas(options)
    t = levels.timesteps(options, steps).astype(np.float32)
    if getattr(options, "interpolation_type", "linear") == "log_linear":
        sigmas = np.exp(schedule.torch_linspace(np.log(table[-1]), np.log(table[0]), steps + 1))
    else:
        sigmas = np.interp(t, np.arange(len(table)), table)
    if isinstance(options, SigmaOptions):
        other = levels.respaced_sigmas(options, float(sigmas[0]), float(sigmas[-1]), steps)
        if other is not None:
            t, sigmas = levels.timestep_of_sigma(other, table).astype(np.float32), other
    last = table[0] if getattr(options, "final_sigmas_type", "zero") == "sigma_min" else 0.0
    sigmas = np.append(sigmas, last).astype(np.float32).astype(np.float64)
    if getattr(options, "timestep_type", "discrete") == "continuous" and options.prediction_type == "v_prediction":
        t = (0.25 * np.log(sigmas[:-1])).astype(np.float32)
    return t, sigmas


def exploding_plan(
    options: Options,
    timesteps: Float[np.ndarray, " calls"],
    sigmas: Float[np.ndarray, " sigmas"],
    coefficients: Any,
    *,
    first_call: int,
) -> Plan:
    """A plan whose samples are x0 + sigma * eps, seen by the model divided by sqrt(sigma**2 + 1)."""
    sigma, largest = sigmas[: len(timesteps)], sigmas.max()
    start = np.sqrt(largest**2 + 1) if options.timestep_spacing == "leading" else largest
    return Plan(
        timesteps,
        coefficients,
        signal=np.ones_like(sigma),
        noise=sigma,
        input_scale=1 / np.sqrt(sigma**2 + 1),
        init_noise_sigma=start,
        first_call=first_call,
    )
