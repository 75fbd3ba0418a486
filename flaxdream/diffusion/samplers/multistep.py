"""What DPM-Solver and UniPC share: sigmas of variance-preserving samples and their logarithmic SNR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from flaxdream.arrays import Float
from flaxdream.diffusion.samplers import levels
from flaxdream.diffusion.samplers.options import SigmaOptions, ThresholdOptions


@dataclass(frozen=True, kw_only=True)
class MultistepOptions(SigmaOptions, ThresholdOptions):
    """Flow matching is not supported."""

    lower_order_final: bool = True
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    rescale_betas_zero_snr: bool = False
    use_flow_sigmas: Literal[False] = False
    use_dynamic_shifting: Literal[False] = False


class Grid(NamedTuple):
    """Timesteps (int64) and, with one entry more, signal, noise and log(signal / noise), which ends at inf for 0."""

    timesteps: np.ndarray
    signal: Float[np.ndarray, " levels"]
    noise: Float[np.ndarray, " levels"]
    half_log_snr: Float[np.ndarray, " levels"]


def make_grid(
    options: MultistepOptions,
    steps: int,
    *,
    top: int | None = None,
    to_whole: Callable[[np.ndarray], np.ndarray] = levels.whole,
    respaced: Float[np.ndarray, " steps"] | None = None,
    end_at_table: bool = True,
) -> Grid:
    """The levels of a multistep method: `respaced` sigmas, or those of timesteps cut as for one step more.

    `to_whole` makes whole numbers of the timesteps of respaced sigmas. The sigma after the last call is 0, or
    with final_sigmas_type sigma_min the training range's smallest (`end_at_table`) or the last one again.
    """
    table = levels.sigmas(options)
    spare = int(options.timestep_spacing != "trailing")
    t = levels.whole(levels.timesteps(options, steps, spare=spare, top=top))
    if respaced is None:
        sigmas = np.interp(t, np.arange(len(table)), table)
    else:
        sigmas, t = respaced, to_whole(levels.timestep_of_sigma(respaced, table)).astype(np.int64)
    smallest = table[0] if end_at_table else sigmas[-1]
    last = smallest if options.final_sigmas_type == "sigma_min" else 0.0
    sigma = np.append(sigmas, last).astype(np.float32).astype(np.float64)
    signal = 1 / np.sqrt(sigma**2 + 1)
    return Grid(t, signal, sigma * signal, -np.log(sigma))
