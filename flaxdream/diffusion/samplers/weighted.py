"""Weighted sums of values that change little from call to call, added up by their differences.

Weights of high order are large and of both signs; differences are small, and exact where the values are
near each other, so that float32 loses less.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flaxdream.arrays import Array, Float


def difference_weights(weights: Float[np.ndarray, "*calls n"]) -> Float[np.ndarray, "*calls n"]:
    """What weighted_sum needs for these weights of the values: one of the first value, the others of differences."""
    tails = np.cumsum(weights[..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate([tails[..., :1], -tails[..., 1:]], axis=-1)


def weighted_sum(weights: Float[Array, " n"], values: Sequence[Float[Array, "b ..."]]) -> Float[Array, "b ..."]:
    """The sum of weight times value, of one call's row of difference_weights."""
    total = weights[0] * values[0]
    for k in range(1, len(values)):
        total = total + weights[k] * (values[k - 1] - values[k])
    return total
