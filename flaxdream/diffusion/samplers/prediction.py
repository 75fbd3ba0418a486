"""From the model's output to x0, eps or dx/dsigma, as coefficients (of the sample, of the output).

Variance-preserving samples are signal * x0 + noise * eps with signal**2 + noise**2 = 1; variance-exploding
ones are x0 + sigma * eps, and the model sees them divided by sqrt(sigma**2 + 1). numpy, float64.
"""

from __future__ import annotations

import numpy as np

from flaxdream.arrays import Float

Pair = tuple[Float[np.ndarray, " calls"], Float[np.ndarray, " calls"]]


def x0_pair(kind: str, signal: Float[np.ndarray, " calls"], noise: Float[np.ndarray, " calls"]) -> Pair:
    """x0 of a variance-preserving sample."""
    if kind == "epsilon":
        return 1 / signal, -noise / signal
    if kind == "v_prediction":
        return signal, -noise
    return np.zeros_like(signal), np.ones_like(signal)


def eps_pair(kind: str, signal: Float[np.ndarray, " calls"], noise: Float[np.ndarray, " calls"]) -> Pair:
    """eps of a variance-preserving sample."""
    if kind == "epsilon":
        return np.zeros_like(noise), np.ones_like(noise)
    if kind == "v_prediction":
        return noise, signal
    return 1 / noise, -signal / noise


def x0_pair_exploding(kind: str, sigma: Float[np.ndarray, " calls"]) -> Pair:
    """x0 of a variance-exploding sample."""
    if kind == "epsilon":
        return np.ones_like(sigma), -sigma
    if kind == "v_prediction":
        return 1 / (sigma**2 + 1), -sigma / np.sqrt(sigma**2 + 1)
    return np.zeros_like(sigma), np.ones_like(sigma)


def slope_pair(kind: str, sigma: Float[np.ndarray, " calls"]) -> Pair:
    """dx/dsigma = (x - x0) / sigma of a variance-exploding sample."""
    if kind == "epsilon":
        return np.zeros_like(sigma), np.ones_like(sigma)
    if kind == "v_prediction":
        return sigma / (sigma**2 + 1), 1 / np.sqrt(sigma**2 + 1)
    return 1 / sigma, -1 / sigma
