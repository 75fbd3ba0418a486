"""PNDM (Liu et al. 2022): Runge-Kutta steps, then a linear multistep method on eps; PLMS without the former."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from flaxdream.arrays import Array, Float, Int
from flaxdream.diffusion.samplers import levels
from flaxdream.diffusion.samplers.base import Plan, Sampler, State
from flaxdream.diffusion.samplers.options import Options, Spacing

# Weights of the newest and the older outputs, by how many there are (Adams-Bashforth).
ADAMS_BASHFORTH = (
    (1, 0, 0, 0),
    (3 / 2, -1 / 2, 0, 0),
    (23 / 12, -16 / 12, 5 / 12, 0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


@dataclass(frozen=True, kw_only=True)
class PNDMOptions(Options):
    """Like its twin, PNDM does not read rescale_betas_zero_snr."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: Spacing = "leading"
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False


class Call(NamedTuple):
    """One model call: a jump between two timesteps along a mean of outputs."""

    t: int  # what the model is asked at
    jump_from: int
    jump_to: int
    weights: tuple[float, ...]  # of: this output, the three kept before it, the Runge-Kutta sum
    from_kept: bool = False  # jump from the kept sample, not from the current one
    keep_x: bool = False  # keep the current sample
    keep_out: bool = False  # add this output to those kept
    sum_out: float = 0.0  # share of this output in the Runge-Kutta sum
    sum_old: float = 0.0  # 1 continues the sum, 0 starts another


class Coefficients(NamedTuple):
    """The jump's factors of the sample and of the mean output, and the fields of Call."""

    x: Float[np.ndarray, " calls"]
    mean: Float[np.ndarray, " calls"]
    weights: Float[np.ndarray, "calls 5"]
    from_kept: Float[np.ndarray, " calls"]
    keep_x: Float[np.ndarray, " calls"]
    keep_out: Float[np.ndarray, " calls"]
    sum_out: Float[np.ndarray, " calls"]
    sum_old: Float[np.ndarray, " calls"]


class PNDM(Sampler):
    """Twin: PNDMScheduler.

    Twin but for `begin` > 0: diffusers starts counting anew there, which takes the second call for the repeat
    of the first and leaves the sample one step noisier than the timesteps say. Here no call is repeated.
    """

    class_name = "PNDMScheduler"
    options_class = PNDMOptions
    options: PNDMOptions

    @property
    def history_length(self) -> int:
        """Three outputs, the Runge-Kutta sum and a kept sample."""
        return 5

    def make_plan(self) -> Plan:
        """The jumps of formula (9)."""
        calls, first = self._prk_calls() if not self.options.skip_prk_steps else self._plms_calls()
        t, start, end = (np.array(column) for column in list(zip(*calls))[:3])
        table = levels.alpha_bar(self.options).astype(np.float64)
        last = 1.0 if self.options.set_alpha_to_one else table[0]
        a, b = table[start], np.where(end >= 0, table[end], last)
        signal, noise = np.sqrt(a), np.sqrt(1 - a)
        x = np.sqrt(b / a)
        mean = (a - b) / (a * np.sqrt(1 - b) + np.sqrt(a * (1 - a) * b))
        if self.options.prediction_type == "v_prediction":
            x, mean = x + mean * noise, mean * signal
        coefficients = Coefficients(x, mean, *(np.array(column) for column in list(zip(*calls))[3:]))
        level = table[t]
        return Plan(t, coefficients, np.sqrt(level), np.sqrt(1 - level), first_call=first)

    def step(
        self, state: State, i: Int[Array, ""] | int, out: Float[Array, "b ..."], noise: Float[Array, "b ..."] | None
    ) -> State:
        """One jump; what is kept depends on the call."""
        row, x = self.row(i), state.x
        out = self.output(out, x)
        *outs, total, kept = state.history
        terms = (out, *outs, total)
        mean = sum(row.weights[k] * term for k, term in enumerate(terms))
        base = jnp.where(row.from_kept > 0, kept, x)
        outs = [jnp.where(row.keep_out > 0, new, old) for new, old in zip((out, *outs), outs)]
        total = row.sum_old * total + row.sum_out * out
        kept = jnp.where(row.keep_x > 0, x, kept)
        return State(row.x * base + row.mean * mean, (*outs, total, kept))

    def _plms_calls(self) -> tuple[list[Call], int]:
        """Every timestep once, but the second twice: the first step is made again from a mean of two outputs."""
        t, ratio = self._grid()
        first = self.begin + (self.begin > 0)
        asked = [int(value) for value in (*t[:2], *t[1:])]
        calls = [Call(asked[0], asked[0], asked[0] - ratio, (1.0, 0, 0, 0, 0), keep_x=True, keep_out=True)]
        if len(t) > 1:
            second = asked[1]
            calls.append(Call(second, second + ratio, second, (0.5, 0.5, 0, 0, 0), from_kept=True))
        for i, value in enumerate(asked[2:], start=2):
            order = min(i - 1 if first == 0 else i - first, 3)
            calls.append(_multistep_call(value, ratio, max(order, 0)))
        return calls, first

    def _prk_calls(self) -> tuple[list[Call], int]:
        """Three steps of four calls each, then one call a step."""
        if self.num_inference_steps < 4:
            raise ValueError(
                f"num_inference_steps is {self.num_inference_steps}; PNDM's Runge-Kutta steps need 4 or more. "
                "Use more, or set skip_prk_steps."
            )
        t, ratio = self._grid()
        half = ratio // 2
        calls = []
        for start, end in pairwise(t[:4]):
            middle = int(end) + half
            asked, after = (int(start), middle, middle, int(end)), (int(start) - half, middle, middle - half, int(end))
            for k, (value, goal) in enumerate(zip(asked, after)):
                calls.append(_runge_kutta_call(k, value, int(start), goal))
        for k, value in enumerate(t[3:], start=3):
            order = min(k - self.begin, 3)
            calls.append(_multistep_call(int(value), ratio, max(order, 0)))
        return calls, 4 * self.begin if self.begin < 3 else self.begin + 9

    def _grid(self) -> tuple[np.ndarray, int]:
        steps = self.num_inference_steps
        return levels.whole(levels.timesteps(self.options, steps)), self.options.num_train_timesteps // steps


def _multistep_call(t: int, ratio: int, older: int) -> Call:
    return Call(t, t, t - ratio, (*ADAMS_BASHFORTH[older], 0), keep_out=True)


def _runge_kutta_call(k: int, t: int, start: int, end: int) -> Call:
    """Call k of 4. The first three jump along their own output, the last along the weighted mean of all."""
    own = (1.0, 0, 0, 0, 0) if k < 3 else (RUNGE_KUTTA[3], 0, 0, 0, 1.0)
    return Call(
        t,
        start,
        end,
        own,
        from_kept=k > 0,
        keep_x=k == 0,
        keep_out=k == 0,
        sum_out=RUNGE_KUTTA[k],
        sum_old=float(k > 0),
    )
