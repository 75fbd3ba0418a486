"""The forward process x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps, its targets and conversions.

`alpha_bar_b` is one number per row, or one for all, float32; the samples may have any rank and layout. What
comes out has the wider of the two types, so float32 for bf16 samples. (diffusers rounds alpha_bar to the
samples' type first, which in bf16 leaves it three digits.)
"""

from __future__ import annotations

import jax.numpy as jnp

from flaxdream.arrays import Array, Float

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def check_prediction_type(prediction_type: str) -> None:
    """Raises ValueError for what is not one of PREDICTION_TYPES."""
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type {prediction_type!r} is not supported. Supported: {', '.join(PREDICTION_TYPES)}."
        )


def per_row(values_b: Float[Array, "*b"], x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """One number per row of x, or one for all, with axes of length 1 added so that it multiplies x."""
    values_b = jnp.asarray(values_b)
    if values_b.shape not in ((), x.shape[:1]):
        raise ValueError(
            f"a value per row is needed for samples of shape {x.shape}: expected shape {x.shape[:1]} or (), "
            f"got {values_b.shape}."
        )
    return values_b.reshape(values_b.shape + (1,) * (x.ndim - values_b.ndim))


def add_noise(
    x0: Float[Array, "b ..."], eps: Float[Array, "b ..."], alpha_bar_b: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """x_t, the sample with noise (Ho et al. 2020, equation 4). Twin: `DDPMScheduler.add_noise`."""
    signal, noise = _roots(alpha_bar_b, x0)
    return signal * x0 + noise * eps


def target(
    prediction_type: str, x0: Float[Array, "b ..."], eps: Float[Array, "b ..."], alpha_bar_b: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """What the network should give: eps, v or x0, for `epsilon`, `v_prediction` or `sample`."""
    check_prediction_type(prediction_type)
    if prediction_type == "v_prediction":
        return v_from_x0_eps(x0, eps, alpha_bar_b)
    return eps if prediction_type == "epsilon" else x0


def x0_from_output(
    prediction_type: str, x_t: Float[Array, "b ..."], output: Float[Array, "b ..."], alpha_bar_b: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """The clean sample that a network's output stands for."""
    check_prediction_type(prediction_type)
    if prediction_type == "epsilon":
        return x0_from_eps(x_t, output, alpha_bar_b)
    return x0_from_v(x_t, output, alpha_bar_b) if prediction_type == "v_prediction" else output


def eps_from_output(
    prediction_type: str, x_t: Float[Array, "b ..."], output: Float[Array, "b ..."], alpha_bar_b: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """The noise that a network's output stands for."""
    check_prediction_type(prediction_type)
    if prediction_type == "sample":
        return eps_from_x0(x_t, output, alpha_bar_b)
    return eps_from_v(x_t, output, alpha_bar_b) if prediction_type == "v_prediction" else output


def dream(
    x_t: Float[Array, "b ..."],
    eps: Float[Array, "b ..."],
    predicted_eps: Float[Array, "b ..."],
    alpha_bar_b: Float[Array, " b"],
    detail_preservation: float,
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """The noisy sample and the noise to train on after one estimate of the noise (DREAM, Zhou et al. 2023, eq. 9).

    Both take over a share sqrt(1 - alpha_bar)^detail_preservation of the estimate's error, which the sampler would
    meet; 1 is the paper's, higher values keep more detail. Twin: diffusers' `compute_dream_and_update_latents`, which
    knows eps only: here the target of any prediction type is made from the returned noise.
    """
    _, noise = _roots(alpha_bar_b, x_t)
    error = noise**detail_preservation * (eps - predicted_eps)
    return x_t + noise * error, eps + error


def v_from_x0_eps(
    x0: Float[Array, "b ..."], eps: Float[Array, "b ..."], alpha_bar_b: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 (Salimans & Ho 2022). Twin: `get_velocity`."""
    signal, noise = _roots(alpha_bar_b, x0)
    return signal * eps - noise * x0


def x0_from_eps(
    x_t: Float[Array, "b ..."], eps: Float[Array, "b ..."], alpha_bar_b: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """The clean sample, from the noise. Not finite where alpha_bar is 0: all noise tells nothing of x0."""
    signal, noise = _roots(alpha_bar_b, x_t)
    return (x_t - noise * eps) / signal


def eps_from_x0(
    x_t: Float[Array, "b ..."], x0: Float[Array, "b ..."], alpha_bar_b: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """The noise, from the clean sample. Not finite where alpha_bar is 1: there is no noise to be told."""
    signal, noise = _roots(alpha_bar_b, x_t)
    return (x_t - signal * x0) / noise


def x0_from_v(
    x_t: Float[Array, "b ..."], v: Float[Array, "b ..."], alpha_bar_b: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """The clean sample, from v. Right at every alpha_bar from 0 to 1, both included."""
    signal, noise = _roots(alpha_bar_b, x_t)
    return signal * x_t - noise * v


def eps_from_v(
    x_t: Float[Array, "b ..."], v: Float[Array, "b ..."], alpha_bar_b: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """The noise, from v. Right at every alpha_bar from 0 to 1, both included."""
    signal, noise = _roots(alpha_bar_b, x_t)
    return noise * x_t + signal * v


def v_from_eps(
    x_t: Float[Array, "b ..."], eps: Float[Array, "b ..."], alpha_bar_b: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """v, from the noise: (eps - sqrt(1 - alpha_bar) x_t) / sqrt(alpha_bar). Not finite where alpha_bar is 0."""
    signal, noise = _roots(alpha_bar_b, x_t)
    return (eps - noise * x_t) / signal


def v_from_x0(
    x_t: Float[Array, "b ..."], x0: Float[Array, "b ..."], alpha_bar_b: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """v, from the clean sample: (sqrt(alpha_bar) x_t - x0) / sqrt(1 - alpha_bar). Not finite at alpha_bar 1."""
    signal, noise = _roots(alpha_bar_b, x_t)
    return (signal * x_t - x0) / noise


def _roots(alpha_bar_b: Float[Array, " b"], x: Float[Array, "b ..."]) -> tuple[Array, Array]:
    alpha_bar = per_row(alpha_bar_b, x)
    return jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar)
