"""Noise schedules: the betas and alpha_bar of a `scheduler_config.json`, as numpy on the host.

Every operation is done in the precision and order in which torch does it in diffusers: float32, but for the
running product, which torch accumulates in float64 on a CPU. The order matters: near the last noise level
the zero-terminal-SNR rescale subtracts numbers that agree in three digits, and one float32 rounding done
elsewhere would move alpha_bar there by 1e-5. (torch's float32 square root is itself off by one unit in the
last place for some 0.5 % of numbers; there ours is the correctly rounded one.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxdream.arrays import Float

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")

# What diffusers' classes take for a key that the file does not have.
_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear",
}  # fmt: skip
_LATENT_DEFAULTS = {"beta_start": 0.00085, "beta_end": 0.012}
_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "HeunDiscreteScheduler": _LATENT_DEFAULTS,
    "KDPM2DiscreteScheduler": _LATENT_DEFAULTS,
    "KDPM2AncestralDiscreteScheduler": _LATENT_DEFAULTS,
    "DPMSolverSDEScheduler": _LATENT_DEFAULTS,
    "LCMScheduler": _LATENT_DEFAULTS | {"beta_schedule": "scaled_linear"},
    "TCDScheduler": _LATENT_DEFAULTS | {"beta_schedule": "scaled_linear"},
}


def betas_from_config(config: Mapping[str, Any]) -> Float[np.ndarray, " T"]:
    """The betas that the mapping of a `scheduler_config.json` stands for, float32 in [0, 1].

    Keys read: num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas (wins over the four
    before it) and rescale_betas_zero_snr; other keys belong to the samplers. Twin: the `betas` of diffusers'
    DDPMScheduler and DDIMScheduler.
    """
    if config.get("trained_betas") is not None:
        betas = _trained_betas(config["trained_betas"], config.get("num_train_timesteps"))
    else:
        betas = _named_betas(config)
    rescale = config.get("rescale_betas_zero_snr", False)
    if rescale not in (None, False, True):
        raise ValueError(f"rescale_betas_zero_snr is {rescale!r}; expected true or false.")
    return zero_terminal_snr_betas(betas) if rescale else betas


def alpha_bar_from_config(config: Mapping[str, Any]) -> Float[np.ndarray, " T"]:
    """The product of 1 - beta up to each noise level, float32; exactly 0 at the end if rescaled to zero SNR.

    Twin: `alphas_cumprod` of diffusers' DDPMScheduler and DDIMScheduler. (Its Euler and DPM-Solver classes
    put 2**-24 in the place of the last 0; that is for those samplers to do.)
    """
    return alpha_bar_from_betas(betas_from_config(config))


def alpha_bar_from_betas(betas: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """The running product of 1 - beta, float32."""
    alphas = np.float32(1) - np.asarray(betas, np.float32)
    return np.cumprod(alphas, dtype=np.float64).astype(np.float32)


def snr(alpha_bar: Any) -> Any:
    """Signal-to-noise ratio alpha_bar / (1 - alpha_bar), of a numpy or JAX array; 0 where all is noise."""
    return alpha_bar / (1 - alpha_bar)


def sigmas(alpha_bar: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Noise level of the variance-exploding form, sqrt((1 - alpha_bar) / alpha_bar) = 1 / sqrt(SNR).

    alpha_bar must not hold 0: a sampler that wants a finite sigma there replaces it first.
    """
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def zero_terminal_snr_betas(betas: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """The betas moved so that alpha_bar ends at 0 and starts where it did (Lin et al. 2023, Algorithm 1)."""
    root = np.sqrt(alpha_bar_from_betas(betas))
    if len(root) < 2 or not root[-1] < root[-2]:
        raise ValueError(
            "rescale_betas_zero_snr needs at least two noise levels and a last beta above 0; there are "
            f"{len(root)} and the last beta is {betas[-1]:g}. Change the betas or turn the option off."
        )
    first, last = root[0], root[-1]
    alpha_bar = ((root - last) * (first / (first - last))) ** 2
    alphas = np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return np.float32(1) - alphas


def _named_betas(config: Mapping[str, Any]) -> Float[np.ndarray, " T"]:
    defaults = _DEFAULTS | _CLASS_DEFAULTS.get(config.get("_class_name", ""), {})
    given = {key: config[key] for key in defaults if config.get(key) is not None}
    length, start, end, name = (defaults | given).values()
    _check_length(length)
    if name not in BETA_SCHEDULES:
        raise ValueError(
            f"beta_schedule {name!r} is not supported. Supported: {', '.join(BETA_SCHEDULES)}, or "
            "trained_betas, a list of one beta per noise level."
        )
    if name == "squaredcos_cap_v2":
        return _cosine_betas(length)
    for key, value in (("beta_start", start), ("beta_end", end)):
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{key} is {value!r}; expected a number from 0 to 1, such as 0.00085 or 0.012.")
    if name == "linear":
        return torch_linspace(start, end, length)
    return torch_linspace(start**0.5, end**0.5, length) ** 2


def _trained_betas(values: Any, length: Any) -> Float[np.ndarray, " T"]:
    betas = np.asarray(values, np.float32)
    if betas.ndim != 1 or not len(betas) or not np.all((betas >= 0) & (betas <= 1)):
        raise ValueError("trained_betas must be a flat, non-empty list of numbers from 0 to 1.")
    if length is not None and length != len(betas):
        raise ValueError(
            f"trained_betas has {len(betas)} entries but num_train_timesteps is {length}; make the two agree."
        )
    return betas


def _check_length(length: Any) -> None:
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise ValueError(f"num_train_timesteps is {length!r}; expected a positive integer, usually 1000.")


def _cosine_betas(length: int) -> Float[np.ndarray, " T"]:
    """Betas of alpha_bar(t) = cos((t + 0.008) / 1.008 * pi / 2)**2, up to 0.999 (Nichol 2021)."""
    edges = np.arange(length + 1, dtype=np.float64) / length
    alpha_bar = np.cos((edges + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999).astype(np.float32)


def torch_linspace(start: float, end: float, length: int) -> Float[np.ndarray, " T"]:
    """`length` float32 numbers from start to end, as torch rounds them.

    torch counts the second half down from the end, with a fused multiply-add wherever the processor has one;
    here the product is exact because it is held in float64.
    """
    first, last = np.float32(start), np.float32(end)
    if length == 1:
        return np.array([first])
    step = np.float64((last - first) / np.float32(length - 1))
    index = np.arange(length)
    up, down = first + step * index, last - step * (length - 1 - index)
    return np.where(index < length // 2, up, down).astype(np.float32)
