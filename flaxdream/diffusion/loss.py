"""The denoising loss of each row [b], the weights that multiply it, and the noise that it is made from.

A training loss is `weighted_mean(loss_per_row(...) * min_snr_weight(...), weight_b)`: all are one number per
row, so that they compose in any order and prior preservation is nothing but a column of weights.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxdream.arrays import Array, Float, Int, Key
from flaxdream.diffusion.process import check_prediction_type, per_row
from flaxdream.diffusion.schedule import snr

LOSS_TYPES = ("l2", "l1", "huber", "smooth_l1")
HUBER_SCHEDULES = ("constant", "exponential", "snr")
DEBIASED_SNR_CAP = 1000.0


def loss_per_row(
    prediction: Float[Array, "b ..."],
    target: Float[Array, "b ..."],
    loss_type: str = "l2",
    huber_c_b: Float[Array, "*b"] | None = None,
) -> Float[Array, " b"]:
    """Mean over each row of the squared (l2), absolute (l1), Huber or smooth-L1 error, in float32.

    Huber and smooth L1 are the smooth (pseudo-Huber) forms of kohya's and diffusers' scripts: with c =
    `huber_c_b` from `huber_threshold` and error d, huber is 2c (sqrt(d^2 + c^2) - c), which tends to d^2 for
    large c, and smooth_l1 is 2 (sqrt(d^2 + c^2) - c), which tends to 2|d| for small c.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"the prediction has shape {prediction.shape} but its target {target.shape}.")
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type {loss_type!r} is not supported. Supported: {', '.join(LOSS_TYPES)}.")
    error = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    if loss_type in ("l2", "l1"):
        return _row_mean(jnp.square(error) if loss_type == "l2" else jnp.abs(error))
    if huber_c_b is None:
        raise ValueError(f"loss_type {loss_type!r} needs huber_c_b, the threshold of each row.")
    c = per_row(huber_c_b, error)
    # sqrt(d^2 + c^2) - c, written so that small errors do not cancel.
    excess = jnp.square(error) / (jnp.sqrt(jnp.square(error) + jnp.square(c)) + c)
    return _row_mean(2 * c * excess if loss_type == "huber" else 2 * excess)


def huber_threshold(
    schedule: str,
    huber_c: float,
    alpha_bar_b: Float[Array, " b"],
    t_b: Int[Array, " b"],
    num_train_timesteps: int,
    huber_scale: float = 1.0,
) -> Float[Array, " b"]:
    """The Huber threshold c of each row: where the loss turns from squared to absolute error.

    `constant`: huber_c. `exponential`: huber_c ** (t / T), so 1 at t = 0 and huber_c at t = T. `snr`:
    (1 - huber_c) / (1 + sigma)^2 + huber_c, so 1 without noise and huber_c in all noise. huber_scale
    multiplies the first two. Twin: kohya's `get_huber_threshold_if_needed`.
    """
    if schedule not in HUBER_SCHEDULES:
        raise ValueError(f"huber_schedule {schedule!r} is not supported. Supported: {', '.join(HUBER_SCHEDULES)}.")
    if not huber_c > 0 or not huber_scale > 0:
        raise ValueError(f"huber_c {huber_c} and huber_scale {huber_scale} must be above 0; usual are 0.1 and 1.")
    if schedule == "constant":
        return jnp.full(t_b.shape, huber_c * huber_scale, jnp.float32)
    if schedule == "exponential":
        return huber_scale * huber_c ** (t_b.astype(jnp.float32) / num_train_timesteps)
    if huber_scale != 1:
        raise ValueError(f"huber_scale {huber_scale} has no effect with huber_schedule 'snr'; leave it at 1.")
    # alpha_bar / (sqrt(alpha_bar) + sqrt(1 - alpha_bar))^2 is 1 / (1 + sigma)^2, but finite at alpha_bar 0.
    nearness = alpha_bar_b / jnp.square(jnp.sqrt(alpha_bar_b) + jnp.sqrt(1 - alpha_bar_b))
    return (1 - huber_c) * nearness + huber_c


def min_snr_weight(alpha_bar_b: Float[Array, " b"], gamma: float, prediction_type: str) -> Float[Array, " b"]:
    """Loss weight that caps the signal-to-noise ratio at `gamma` (Hang et al. 2023, section 3.4).

    The paper weights an x0 loss by min(SNR, gamma); here the loss may be on eps or v, so the weight is
    divided by what turns one into the other: SNR for eps, SNR + 1 for v. Without that, v-models ignore
    noisy steps.

    At zero terminal SNR, where diffusers' quotient for eps is 0/0, that weight is 1: it is 1 for every other
    SNR up to gamma. For v and x0 the weight there is 0.
    """
    check_prediction_type(prediction_type)
    if not gamma > 0:
        raise ValueError(f"snr_gamma {gamma} must be above 0; 5 is usual. Leave it out for no weighting.")
    # With SNR = a / (1 - a) written out, no quotient is left that could be 0/0 at a = 0 or a = 1.
    signal_b, noise_b = alpha_bar_b, 1 - alpha_bar_b
    if prediction_type == "epsilon":
        return gamma * noise_b / jnp.maximum(signal_b, gamma * noise_b)
    if prediction_type == "v_prediction":
        return jnp.minimum(signal_b, gamma * noise_b)
    return signal_b / jnp.maximum(noise_b, signal_b / gamma)


def debiased_weight(alpha_bar_b: Float[Array, " b"], prediction_type: str) -> Float[Array, " b"]:
    """Loss weight 1 / sqrt(SNR) for eps, SNR held at 1000 or less (Yu et al. 2023, "Unmasking Bias").

    Twin: kohya's `debiased_estimation_loss`, also for v, where it takes 1 / (SNR + 1). For x0 it is
    sqrt(SNR), the same loss as for eps (an eps error is sqrt(SNR) times the x0 error). At zero SNR, where
    kohya's weight for eps is infinite, ours is 0: such a row holds no x0 to be biased about.
    """
    check_prediction_type(prediction_type)
    snr_b = jnp.minimum(snr(alpha_bar_b), DEBIASED_SNR_CAP)
    if prediction_type == "v_prediction":
        return 1 / (snr_b + 1)
    if prediction_type == "sample":
        return jnp.sqrt(snr_b)
    return jnp.where(snr_b > 0, 1 / jnp.sqrt(jnp.where(snr_b > 0, snr_b, 1)), 0)


def weighted_mean(loss_b: Float[Array, " b"], weight_b: Float[Array, " b"]) -> Float[Array, ""]:
    """Mean of weight * loss over the rows: divided by their number, not by the sum of the weights.

    So N instance rows of weight 2 and N class rows of weight 2 * lambda give mean(instance) + lambda *
    mean(prior), and halving all weights halves the loss.
    """
    if loss_b.ndim != 1 or weight_b.shape != loss_b.shape:
        raise ValueError(f"expected a loss and a weight per row; got shapes {loss_b.shape} and {weight_b.shape}.")
    return jnp.mean(loss_b * weight_b)


def row_noise(key_b: Key[Array, " b"], row_shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """Standard normal noise, each row drawn from its own key, so that it does not depend on its batch."""
    return jax.vmap(lambda key: jax.random.normal(key, row_shape, jnp.float32))(key_b)


def offset_noise(eps: Float[Array, "b ... c"], key_b: Key[Array, " b"], noise_offset: float) -> Float[Array, "b ... c"]:
    """eps with noise_offset times one more normal number added to the whole of each row and channel.

    The network then learns pictures darker and brighter than the mean (Guttenberg 2023). Both the noisy
    sample and the target are made from the result. Twin: diffusers' `--noise_offset`.
    """
    if noise_offset == 0:
        return eps
    shape = (1,) * (eps.ndim - 2) + eps.shape[-1:]
    return eps + noise_offset * row_noise(key_b, shape)


def perturbed_noise(
    eps: Float[Array, "b ..."], key_b: Key[Array, " b"], input_perturbation: float
) -> Float[Array, "b ..."]:
    """eps with input_perturbation times fresh noise added, for `add_noise` only (Ning et al. 2023).

    The target keeps the clean eps. 0.1 is usual. Twin: diffusers' `--input_perturbation`.
    """
    return eps if input_perturbation == 0 else eps + input_perturbation * row_noise(key_b, eps.shape[1:])


def _row_mean(x: Float[Array, "b ..."]) -> Float[Array, " b"]:
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
