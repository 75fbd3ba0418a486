"""A whole sampling run in one `lax.scan`, and the noise that its steps draw."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flaxdream.arrays import Array, Float, Int, Key, Shaped
from flaxdream.diffusion.samplers.base import Sampler, State

# (the model's input, its timestep, the index of the call) -> the model's output
Denoise = Callable[[Float[Array, "b ..."], Shaped[Array, ""], Int[Array, ""]], Float[Array, "b ..."]]


def run(
    sampler: Sampler, denoise: Denoise, x: Float[Array, "b ..."], key: Key[Array, "*b"] | None = None
) -> Float[Array, "b ..."]:
    """The sample after all calls of the sampler, float32.

    x is unit normal noise times `sampler.init_noise_sigma`, or what `sampler.add_noise` gave if the sampler's
    `begin` is above 0. `key`, one for all rows or one a row, is needed by samplers that draw noise: row r at
    call i draws from fold_in(key_r, i), where key_r of a single key is fold_in(key, r), so that a picture does
    not depend on the rows beside it.
    """
    state = advance(sampler, denoise, sampler.init(x), jnp.asarray(np.array(sampler.calls, np.int32)), key)
    return sampler.x(state)


def advance(
    sampler: Sampler, denoise: Denoise, state: State, calls: Int[Array, " n"], key: Key[Array, "*b"] | None = None
) -> State:
    """The sampler's state after these of its `calls`, in order, in one `lax.scan`; keys as in `run`."""
    keys = _row_keys(sampler, key, state.x.shape[0])
    timesteps = np.asarray(sampler.timesteps)
    timesteps = timesteps.astype(np.int32 if timesteps.dtype.kind == "i" else np.float32)

    def call(state: State, i: Array) -> tuple[State, None]:
        out = denoise(sampler.model_input(state, i), jnp.asarray(timesteps)[i], i)
        noise = None if keys is None else draw_noise(keys, i, state.x.shape)
        return sampler.step(state, i, out, noise), None

    return jax.lax.scan(call, state, calls)[0]


def draw_noise(key_b: Key[Array, " b"], i: Int[Array, ""] | int, shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """Unit normal noise of call i, float32, a row from each key."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape[1:], jnp.float32))(key_b)


def _row_keys(sampler: Sampler, key: Array | None, rows: int) -> Array | None:
    if not sampler.needs_noise:
        return None
    if key is None:
        raise ValueError(f"{sampler.class_name} draws noise here, so it needs a random key; got None.")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)  # what jax.random.PRNGKey gives
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(rows))
    if key.shape != (rows,):
        raise ValueError(f"Expected one random key, or one for each of {rows} rows; got keys of shape {key.shape}.")
    return key
