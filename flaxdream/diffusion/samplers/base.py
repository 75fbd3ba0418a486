"""What all samplers share: a state, tables of coefficients made on the host, and the step's surroundings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxdream.arrays import Array, Float, Int, Shaped
from flaxdream.diffusion.samplers.options import LimitOptions, Options, ThresholdOptions


class State(NamedTuple):
    """The current sample and what a multistep method remembers; always the same structure, float32."""

    x: Float[Array, "b ..."]
    history: tuple[Float[Array, "b ..."], ...] = ()


class Plan(NamedTuple):
    """All that is known before the first model call. Arrays have one entry a call.

    `coefficients` is a NamedTuple of arrays, a sampler's own; `signal` and `noise` are what add_noise
    multiplies x0 and eps with; `input_scale` multiplies the sample on its way into the model.
    """

    timesteps: Shaped[np.ndarray, " calls"]
    coefficients: Any
    signal: Float[np.ndarray, " calls"]
    noise: Float[np.ndarray, " calls"]
    input_scale: Float[np.ndarray, " calls"] | None = None
    init_noise_sigma: float = 1.0
    needs_noise: bool = False
    first_call: int = 0


@dataclass(frozen=True)
class Sampler:
    """A sampling method for a number of steps; a hashable constant for jit, equal if its numbers are.

    Call i of the model belongs to `timesteps[i]`; i may be traced, so one `lax.scan` runs the whole method.
    `begin` > 0 leaves out that many steps (not calls) at the noisy end, for image-to-image: multistep methods
    then start at order 1 again. `config` is the mapping of a scheduler_config.json that makes this sampler.
    """

    options: Any  # of the class's options_class
    num_inference_steps: int
    begin: int = 0
    config: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    class_name: ClassVar[str]
    options_class: ClassVar[type[Options]]

    def __post_init__(self) -> None:
        for name, least in (("num_inference_steps", 1), ("begin", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} is {value!r}; expected an integer, {least} or more.")
        if self.begin >= self.num_inference_steps or not self.calls:
            raise ValueError(
                f"begin is {self.begin}, but there are {self.num_inference_steps} steps, or fewer with "
                "lambda_min_clipped: at least one must be left."
            )
        _check_finite(self)

    def make_plan(self) -> Plan:
        """The tables; a class's own."""
        raise NotImplementedError

    def step(
        self, state: State, i: Int[Array, ""] | int, out: Float[Array, "b ..."], noise: Float[Array, "b ..."] | None
    ) -> State:
        """The state after model call i, given the model's output and, where needs_noise, unit normal noise."""
        raise NotImplementedError

    @cached_property
    def plan(self) -> Plan:
        """make_plan's tables with float32 arrays."""
        with np.errstate(all="ignore"):  # what is not finite is reported by name
            plan = self.make_plan()
        single = jax.tree.map(lambda table: np.asarray(table, np.float32), plan)
        return single._replace(
            timesteps=plan.timesteps,
            init_noise_sigma=float(plan.init_noise_sigma),
            needs_noise=bool(plan.needs_noise),
            first_call=int(plan.first_call),
        )

    @property
    def timesteps(self) -> Shaped[np.ndarray, " calls"]:
        """The timestep of each model call: diffusers' `.timesteps`, int64, or float32 for Euler, Heun and LMS."""
        return self.plan.timesteps

    @property
    def init_noise_sigma(self) -> float:
        """What unit normal noise is multiplied with to become the first sample."""
        return self.plan.init_noise_sigma

    @property
    def needs_noise(self) -> bool:
        """Whether steps draw noise."""
        return self.plan.needs_noise

    @property
    def calls(self) -> range:
        """The indices of the model calls, in order; they start above 0 if `begin` does."""
        return range(self.plan.first_call, len(self.timesteps))

    @property
    def history_length(self) -> int:
        """How many arrays the method remembers."""
        return 0

    def init(self, x: Float[Array, "b ..."]) -> State:
        """The state before the first call: x is noise times init_noise_sigma, or what add_noise gave."""
        x = jnp.asarray(x, jnp.float32)
        return State(x, (jnp.zeros_like(x),) * self.history_length)

    def x(self, state: State) -> Float[Array, "b ..."]:
        """The current sample."""
        return state.x

    def model_input(self, state: State, i: Int[Array, ""] | int) -> Float[Array, "b ..."]:
        """What the model gets at call i. Twin: `scale_model_input`."""
        scale = self.plan.input_scale
        return state.x if scale is None else _entry(scale, i) * state.x

    def add_noise(
        self, x0: Float[Array, "b ..."], eps: Float[Array, "b ..."], i: Int[Array, ""] | int | None = None
    ) -> Float[Array, "b ..."]:
        """x0 with the noise of call i; of the first call if not given. Not variance-preserving for Euler, Heun, LMS."""
        i = self.plan.first_call if i is None else i
        x0, eps = jnp.asarray(x0, jnp.float32), jnp.asarray(eps, jnp.float32)
        return _entry(self.plan.signal, i) * x0 + _entry(self.plan.noise, i) * eps

    def row(self, i: Int[Array, ""] | int) -> Any:
        """The coefficients of call i, scalars or short vectors."""
        return jax.tree.map(lambda table: _entry(table, i), self.plan.coefficients)

    def output(self, out: Float[Array, "b ..."], x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """The model's output in float32, checked to have the sample's shape."""
        if out.shape != x.shape:
            raise ValueError(f"The model's output has shape {out.shape}; {self.class_name} expects {x.shape}.")
        return out.astype(jnp.float32)


def limited(options: LimitOptions, x0: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """x0 thresholded, or else clipped, or as it is."""
    if options.clip_sample and not options.thresholding:
        return jnp.clip(x0, -options.clip_sample_range, options.clip_sample_range)
    return thresholded(options, x0)


def thresholded(options: ThresholdOptions, x0: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """x0 clipped to and divided by a quantile of its row, 1 or more (Saharia et al. 2022, section 2.3)."""
    if not options.thresholding:
        return x0
    flat = x0.reshape(x0.shape[0], -1)
    # The place of the quantile is static: with it in float64, no rank is off by a rounding error.
    place = options.dynamic_thresholding_ratio * (flat.shape[1] - 1)
    low = int(place)
    ordered = jnp.sort(jnp.abs(flat), axis=1)
    below, above = ordered[:, low : low + 1], ordered[:, min(low + 1, flat.shape[1] - 1)][:, None]
    limit = jnp.minimum(jnp.maximum(below + (place - low) * (above - below), 1.0), options.sample_max_value)
    limit = jnp.broadcast_to(limit, flat.shape)
    return (jnp.clip(flat, -limit, limit) / limit).reshape(x0.shape)


def _entry(table: Float[np.ndarray, "calls ..."], i: Int[Array, ""] | int) -> Any:
    """table[i]; a constant of the executable is indexed only where i is traced."""
    return table[i] if isinstance(i, int | np.integer) else jnp.asarray(table)[i]


def _check_finite(sampler: Sampler) -> None:
    plan = sampler.plan
    columns = [table.reshape(len(table), -1) for table in jax.tree.leaves(plan.coefficients)]
    finite = np.all([np.isfinite(column).all(axis=1) for column in columns], axis=0)
    bad = [i for i in sampler.calls if not finite[i]]
    if not bad:
        return
    if plan.signal[bad[0]] == 0:
        raise ValueError(
            "prediction_type 'epsilon' says nothing about the picture at a noise level without signal, which "
            f"rescale_betas_zero_snr makes of timestep {plan.timesteps[bad[0]]}. Use prediction_type v_prediction or "
            "sample if that is what the model predicts, or timestep_spacing 'leading', which leaves that timestep out."
        )
    raise ValueError(
        f"{sampler.class_name} has no finite step at call {bad[0]} (timestep {plan.timesteps[bad[0]]}) of "
        f"{len(plan.timesteps)} with {sampler.options}. Two calls at one noise level, or a level without any noise, do "
        "that: use fewer num_inference_steps, or another timestep_spacing or final_sigmas_type."
    )
