"""Which noise levels a sampler visits: timestep grids, and sigmas spaced otherwise. numpy on the host.

The types are those of diffusers (float32 tables, float64 in between) because some classes cut timesteps to
whole numbers afterwards, where the last bit decides between 999 and 998.
"""

from __future__ import annotations

import math

import numpy as np

from flaxdream.arrays import Float
from flaxdream.diffusion import schedule
from flaxdream.diffusion.samplers.options import Options, SigmaOptions


def alpha_bar(options: Options) -> Float[np.ndarray, " T"]:
    """alpha_bar of each training timestep, float32."""
    return schedule.alpha_bar_from_config(vars(options))


def sigmas(options: Options) -> Float[np.ndarray, " T"]:
    """sqrt((1 - alpha_bar) / alpha_bar) of each training timestep, float32 and finite.

    With zero terminal SNR the last alpha_bar is taken as 2**-24 (sigma 4096), as diffusers does.
    """
    values = alpha_bar(options)
    if getattr(options, "rescale_betas_zero_snr", False):
        values[-1] = 2**-24
    return schedule.sigmas(values)


def timesteps(options: Options, steps: int, *, spare: int = 0, top: int | None = None) -> Float[np.ndarray, " calls"]:
    """Descending timesteps, float64; those of `linspace` are not rounded (Lin et al. 2023, table 2).

    `spare` = 1 cuts the range as for one step more and leaves the lowest out. `top` takes the place of the
    number of training timesteps where the noisiest ones are left out. diffusers' trailing spacing has an
    extra timestep -1 for some numbers of steps (61, 103, ...: a rounding error of `arange`); ours has not.
    """
    top = options.num_train_timesteps if top is None else top
    points = steps + spare
    if points > top:
        raise ValueError(
            f"num_inference_steps is {steps}, but the model has {top} noise levels for it; the most is {top - spare}."
        )
    if options.timestep_spacing == "linspace":
        return np.linspace(0, top - 1, points)[::-1][:steps]
    if options.timestep_spacing == "trailing":
        stride = options.num_train_timesteps / steps
        return np.round(np.arange(top, 0, -stride))[:steps] - 1
    grid = (np.arange(points) * (top // points))[::-1][:steps] + options.steps_offset
    if grid[0] >= options.num_train_timesteps:
        raise ValueError(
            f"steps_offset {options.steps_offset} moves the first of {steps} timesteps to {grid[0]}, beyond the last "
            f"of the model ({options.num_train_timesteps - 1}). Use fewer num_inference_steps or a smaller offset."
        )
    return grid.astype(np.float64)


def whole(values: Float[np.ndarray, " calls"]) -> np.ndarray:
    """Timesteps rounded to whole numbers, halves to even."""
    return np.round(values).astype(np.int64)


def timestep_of_sigma(
    sigma: Float[np.ndarray, " calls"], table: Float[np.ndarray, " T"]
) -> Float[np.ndarray, " calls"]:
    """Where log(sigma) lies between the training timesteps, 0..T-1, float64."""
    log_table = np.log(table)
    log_sigma = np.log(np.maximum(sigma, 1e-10))
    # The last entry that is not above; with zero terminal SNR the table may fall at its end.
    reached = log_sigma[:, None] >= log_table[None, :]
    low = np.where(reached.any(axis=1), len(table) - 1 - reached[:, ::-1].argmax(axis=1), 0)
    low = np.clip(low, 0, max(len(table) - 2, 0))
    high = np.minimum(low + 1, len(table) - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.clip((log_table[low] - log_sigma) / (log_table[low] - log_table[high]), 0, 1)
    return (1 - weight) * low + weight * high


def respaced_sigmas(
    options: SigmaOptions, noisiest: float, cleanest: float, steps: int
) -> Float[np.ndarray, " steps"] | None:
    """Descending sigmas between two ends (sigma_max and sigma_min if set), or None if no flag asks for it."""
    high = noisiest if options.sigma_max is None else options.sigma_max
    low = cleanest if options.sigma_min is None else options.sigma_min
    if options.use_karras_sigmas:
        return karras_sigmas(high, low, steps)
    if options.use_exponential_sigmas:
        return np.exp(np.linspace(math.log(high), math.log(low), steps))
    if options.use_beta_sigmas:
        return beta_sigmas(high, low, steps)
    return None


def karras_sigmas(high: float, low: float, steps: int, rho: float = 7.0) -> Float[np.ndarray, " steps"]:
    """Sigmas even in sigma**(1/rho) (Karras et al. 2022, equation 5)."""
    top, bottom = high ** (1 / rho), low ** (1 / rho)
    return (top + np.linspace(0, 1, steps) * (bottom - top)) ** rho


def beta_sigmas(high: float, low: float, steps: int, shape: float = 0.6) -> Float[np.ndarray, " steps"]:
    """Sigmas at the quantiles of a symmetric beta distribution ("Beta Sampling is All You Need", 2024)."""
    from scipy.stats import beta  # 0.5 s to import, and needed by nothing else

    return low + beta.ppf(1 - np.linspace(0, 1, steps), shape, shape) * (high - low)
