"""diffusers' schedulers and our samplers, both run over a whole trajectory with one nonlinear model."""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager
from typing import Any

import diffusers
import jax.numpy as jnp
import numpy as np
import torch

from flaxdream.diffusion.samplers import Sampler, make_sampler
from flaxdream.diffusion.schedule import alpha_bar_from_config

LINEAR: dict[str, Any] = {}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STEPS = [1, 2, 5, 10, 25, 50]

SHAPE = (2, 3, 4, 3)  # as large in the second axis as in the last: channels of torch and of ours
CHANNELS_LAST = (0, 2, 3, 1)
CHANNELS_FIRST = (0, 3, 1, 2)


def normal(*names: int) -> np.ndarray:
    """Unit normal numbers in torch's layout, float32."""
    return np.random.default_rng(names).standard_normal(SHAPE).astype(np.float32)


def model(x, t):
    """Of torch or JAX arrays in any precision; nothing but exactly rounded operations, so that both agree."""
    return x * ((0.4 + t / 2500.0) / (1.0 + 0.5 * abs(x))) + 0.1


def predicted_variance(x):
    """A second output, above 0 as torch's learned variance needs it and below 1 as a share is."""
    return 0.05 + abs(x) / (1.0 + abs(x)) * 0.5


class _DoubleTorch:
    """torch, but with float64 wherever a scheduler casts to float32."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


class Twin:
    """A diffusers scheduler made ready for `steps`; in float64 if asked, from the same float32 tables."""

    def __init__(self, config, steps, *, double=False, begin=0, **step_options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # algorithm_type dpmsolver
            warnings.simplefilter("ignore", DeprecationWarning)  # numpy scalars from torch
            kind = getattr(diffusers, config["_class_name"])
            self.scheduler = scheduler = kind.from_config(config)
            _share_alpha_bar(scheduler)
            scheduler.set_timesteps(steps)
        self.double, self.step_options, self.drew = double, step_options, []
        if double:
            for name in ("betas", "alphas_cumprod", "final_alpha_cumprod", "sigmas", "one"):
                if isinstance(getattr(scheduler, name, None), torch.Tensor):
                    setattr(scheduler, name, getattr(scheduler, name).double())
        self.first_call = begin * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            # Not left to the scheduler: where the first timestep comes twice, it would start at the second.
            scheduler.set_begin_index(self.first_call)

    def trajectory(self, x, noises, *, variances=False):
        """The samples after each call, given what randn_tensor gives in each; `drew` lists the calls that draw."""
        dtype = torch.float64 if self.double else torch.float32
        x = torch.tensor(x, dtype=dtype)
        samples = []
        with self._patched() as draws:
            for i, t in enumerate(self.scheduler.timesteps[self.first_call :], start=self.first_call):
                draws[:] = [torch.tensor(noises[i], dtype=dtype)]
                scaled = self.scheduler.scale_model_input(x, t)
                out = model(scaled, t.to(dtype))
                if variances:
                    out = torch.cat([out, predicted_variance(scaled)], dim=1)
                x = self.scheduler.step(out, t, x, return_dict=False, **self.step_options)[0]
                self.drew += [] if draws else [i]
                samples.append(x.numpy())
        return np.stack(samples)

    @contextmanager
    def _patched(self):
        module = sys.modules[type(self.scheduler).__module__]
        draws: list[torch.Tensor] = []
        kept = {name: getattr(module, name) for name in ("torch", "randn_tensor") if hasattr(module, name)}
        module.torch = _DoubleTorch() if self.double else torch
        module.randn_tensor = lambda *_, **__: draws.pop()
        torch.set_default_dtype(torch.float64 if self.double else torch.float32)
        try:
            yield draws
        finally:
            torch.set_default_dtype(torch.float32)
            del module.randn_tensor
            for name, value in kept.items():
                setattr(module, name, value)


def _share_alpha_bar(scheduler):
    """Gives a scheduler with zero terminal SNR our alpha_bar.

    torch's own depends on the processor there, by 1e-5 near the end: its float32 square root is not always
    the correctly rounded one, and the rescale subtracts such roots. tests/diffusion/test_schedule.py has both.
    """
    config = dict(scheduler.config)
    if not config.get("rescale_betas_zero_snr") or not hasattr(scheduler, "alphas_cumprod"):
        return
    ours = torch.from_numpy(alpha_bar_from_config(config))
    if scheduler.alphas_cumprod[-1] == 0 or hasattr(scheduler, "sigmas"):
        if scheduler.alphas_cumprod[-1] > 0:
            ours[-1] = scheduler.alphas_cumprod[-1]
        scheduler.alphas_cumprod = ours


def trajectory(sampler: Sampler, x, noises, *, variances=False):
    """The samples of our sampler after each call, in torch's layout."""
    state = sampler.init(jnp.asarray(x.transpose(CHANNELS_LAST)))
    samples = []
    for i in sampler.calls:
        scaled = sampler.model_input(state, i)
        out = model(scaled, jnp.float32(sampler.timesteps[i]))
        if variances:
            out = jnp.concatenate([out, predicted_variance(scaled)], axis=-1)
        noise = jnp.asarray(noises[i].transpose(CHANNELS_LAST)) if sampler.needs_noise else None
        state = sampler.step(state, i, out, noise)
        samples.append(np.asarray(sampler.x(state)).transpose(CHANNELS_FIRST))
    return np.stack(samples)


def relative_error(ours, reference):
    """The largest difference after any call, relative to the largest number after that call; NaN if there is one."""
    return relative_errors(ours, reference).max()


def relative_errors(ours, reference):
    """The same for each call."""
    axes = tuple(range(1, ours.ndim))
    return np.abs(ours - reference).max(axis=axes) / np.abs(reference).max(axis=axes)


def assert_equal_trajectories(config, steps, *, begin=0, variances=False, cancels=False, **step_options):
    """Our sampler's timesteps, first noise and every sample equal those of diffusers, run in float64, to 1e-6.

    In float64 because float32 rounding in diffusers' own coefficients adds up to more than that in places.
    `cancels` is for options where float32 cannot hold 1e-6, since a step subtracts nearly equal numbers or
    divides by a small sigma: there ours may be 5 times as far from the float64 run as diffusers in float32 is
    (rounding is chance, and of these differences the largest is taken).
    """
    sampler = make_sampler(config, steps, begin=begin, **step_options)
    exact = Twin(config, steps, double=True, begin=begin, **step_options)
    assert_equal_timesteps(sampler, exact.scheduler)
    np.testing.assert_allclose(sampler.init_noise_sigma, float(exact.scheduler.init_noise_sigma), rtol=2e-7)
    noises = [normal(1, i) for i in range(len(sampler.timesteps))]
    x = normal(0) * np.float32(sampler.init_noise_sigma)
    reference = exact.trajectory(x, noises, variances=variances)
    allowed = 1e-6
    if cancels:
        single = Twin(config, steps, begin=begin, **step_options).trajectory(x, noises, variances=variances)
        allowed = max(allowed, 5 * np.nan_to_num(relative_errors(single, reference)).max())
    error = relative_error(trajectory(sampler, x, noises, variances=variances), reference)
    assert error <= allowed, f"{error:.1e} from diffusers in float64; allowed are {allowed:.1e}"


def assert_equal_timesteps(sampler, scheduler):
    """Equal to the last bit; where they are interpolated between sigmas in float32, to its last two bits.

    (torch's float32 square root, which makes the sigmas, is not always the correctly rounded one.)
    """
    theirs = scheduler.timesteps.numpy()
    assert sampler.timesteps.dtype == theirs.dtype and sampler.timesteps.shape == theirs.shape
    rounding = 2.5e-7 if theirs.dtype == np.float32 else 0
    np.testing.assert_allclose(sampler.timesteps, theirs, rtol=rounding, atol=rounding)
