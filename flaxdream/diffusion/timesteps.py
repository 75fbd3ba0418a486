"""Which timestep each row of a training batch gets."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from flaxdream.arrays import Array, Int, Key

STRATEGIES = ("none", "earlier", "later", "range")
SAMPLINGS = ("uniform", "logit_normal")


@dataclass(frozen=True)
class TimestepSampling:
    """How timesteps are drawn; the names are the flags'.

    `uniform` draws each of `min_timestep` to `max_timestep` - 1 alike, or with a bias (twin: diffusers'
    `generate_timestep_weights`): `earlier` and `later` multiply the chance of the first or last `bias_portion` of all
    timesteps by `bias_multiplier`, `range` that of `bias_begin` to `bias_end` - 1. `logit_normal` is T sigmoid(n) with
    n normal (Esser et al. 2024, section 3.1): it favours the middle.
    """

    sampling: str = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    min_timestep: int = 0
    max_timestep: int | None = None
    bias_strategy: str = "none"
    bias_multiplier: float = 1.0
    bias_begin: int = 0
    bias_end: int = 1000
    bias_portion: float = 0.25

    def problems(self, length: int) -> list[str]:
        """What is wrong with it for a schedule of `length` timesteps; names as of the flags."""
        found, stop = [], length if self.max_timestep is None else self.max_timestep
        if not 0 <= self.min_timestep < stop <= length:
            found.append(
                f"--min_timestep {self.min_timestep} and --max_timestep {stop} must leave timesteps of 0..{length}."
            )
        if self.bias_strategy == "range" and not 0 <= self.bias_begin < self.bias_end <= length:
            found.append(
                f"--timestep_bias_begin {self.bias_begin} and --timestep_bias_end {self.bias_end} must leave "
                f"timesteps of 0..{length}."
            )
        return found


def timesteps(key_b: Key[Array, " b"], length: int, how: TimestepSampling = TimestepSampling()) -> Int[Array, " b"]:
    """A timestep for each row, from the row's own key.

    Raises ValueError if `how` does not fit a schedule of `length` timesteps.
    """
    if problems := how.problems(length):
        raise ValueError(" ".join(problems))
    stop = length if how.max_timestep is None else how.max_timestep
    if how.sampling == "logit_normal":
        normal_b = jax.vmap(lambda key: jax.random.normal(key, (), jnp.float32))(key_b)
        share_b = jax.nn.sigmoid(how.logit_mean + how.logit_std * normal_b)
        return jnp.clip((share_b * length).astype(jnp.int32), how.min_timestep, stop - 1)
    if how.sampling != "uniform":
        raise ValueError(f"timestep_sampling {how.sampling!r} is not supported. Supported: {', '.join(SAMPLINGS)}.")
    if how.bias_strategy == "none":
        return jax.vmap(lambda key: jax.random.randint(key, (), how.min_timestep, stop))(key_b)
    summed = np.cumsum(timestep_weights(how, length))
    uniform_b = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(key_b)
    found = jnp.searchsorted(jnp.asarray(summed / summed[-1], jnp.float32), uniform_b, side="right")
    return jnp.minimum(found, int(np.flatnonzero(np.diff(summed, prepend=0))[-1])).astype(jnp.int32)


def timestep_weights(how: TimestepSampling, length: int) -> np.ndarray:
    """The chance of each timestep, not normalized [length]. Twin: diffusers' `generate_timestep_weights`."""
    weights = np.ones(length)
    count = int(how.bias_portion * length)
    places = {
        "none": slice(0, 0),
        "earlier": slice(0, count),
        "later": slice(length - count, length),
        "range": slice(how.bias_begin, how.bias_end),
    }
    if how.bias_strategy not in places:
        raise ValueError(
            f"timestep_bias_strategy {how.bias_strategy!r} is not supported. Supported: {', '.join(STRATEGIES)}."
        )
    weights[places[how.bias_strategy]] *= how.bias_multiplier
    weights[: how.min_timestep] = 0
    weights[length if how.max_timestep is None else how.max_timestep :] = 0
    return weights
