"""From the model's output to x0, eps or dx/dsigma, as coefficients of the sample and of the output.

Variance-preserving samples are signal * x0 + noise * eps with signal**2 + noise**2 = 1; variance-exploding
ones are x0 + sigma * eps, and the model sees them divided by sqrt(sigma**2 + 1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flaxdream.arrays import Array, Float


class Mix(NamedTuple):
    """scale * (x * sample + out * output).

    The scale stands apart because the sum may cancel: at high noise x - noise * eps is small, and dividing it
    afterwards keeps the digits that it has.
    """

    scale: Float[np.ndarray, " calls"]
    x: Float[np.ndarray, " calls"]
    out: Float[np.ndarray, " calls"]

    def __call__(self, sample: Float[Array, "b ..."], output: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """The mixture, of one call's row of coefficients."""
        return self.scale * (self.x * sample + self.out * output)


def x0_mix(kind: str, signal: Float[np.ndarray, " calls"], noise: Float[np.ndarray, " calls"]) -> Mix:
    """x0 of a variance-preserving sample, for an output of prediction_type `kind`."""
    one, zero = np.ones_like(signal), np.zeros_like(signal)
    if kind == "epsilon":
        return Mix(1 / signal, one, -noise)
    return Mix(one, signal, -noise) if kind == "v_prediction" else Mix(one, zero, one)


def eps_mix(kind: str, signal: Float[np.ndarray, " calls"], noise: Float[np.ndarray, " calls"]) -> Mix:
    """eps of a variance-preserving sample."""
    one, zero = np.ones_like(signal), np.zeros_like(signal)
    if kind == "sample":
        return Mix(1 / noise, one, -signal)
    return Mix(one, noise, signal) if kind == "v_prediction" else Mix(one, zero, one)


def exploding_x0_mix(kind: str, sigma: Float[np.ndarray, " calls"]) -> Mix:
    """x0 of a variance-exploding sample."""
    one, zero = np.ones_like(sigma), np.zeros_like(sigma)
    if kind == "v_prediction":
        return Mix(one, 1 / (sigma**2 + 1), -sigma / np.sqrt(sigma**2 + 1))
    return Mix(one, one, -sigma) if kind == "epsilon" else Mix(one, zero, one)


def slope_mix(kind: str, sigma: Float[np.ndarray, " calls"]) -> Mix:
    """dx/dsigma = (x - x0) / sigma of a variance-exploding sample."""
    one, zero = np.ones_like(sigma), np.zeros_like(sigma)
    if kind == "v_prediction":
        return Mix(one, sigma / (sigma**2 + 1), 1 / np.sqrt(sigma**2 + 1))
    return Mix(one, zero, one) if kind == "epsilon" else Mix(1 / sigma, one, -one)
