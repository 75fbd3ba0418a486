"""UniPC (Zhao et al. 2023): a multistep predictor, and a corrector that reuses the next call's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from flaxdream.arrays import Array, Float, Int
from flaxdream.diffusion.samplers import levels
from flaxdream.diffusion.samplers.base import Plan, Sampler, State, thresholded
from flaxdream.diffusion.samplers.multistep import Grid, MultistepOptions, make_grid
from flaxdream.diffusion.samplers.prediction import Mix, eps_mix, x0_mix
from flaxdream.diffusion.samplers.weighted import difference_weights, weighted_sum


@dataclass(frozen=True, kw_only=True)
class UniPCOptions(MultistepOptions):
    """`disable_corrector` lists the steps, from 0, after which the sample is not corrected."""

    solver_order: int = 2
    predict_x0: bool = True
    solver_type: Literal["bh2", "bh1"] = "bh2"
    disable_corrector: tuple[int, ...] = ()
    solver_p: None = None
    shift_terminal: None = None

    synonyms: ClassVar = {"solver_type": {"midpoint": "bh2", "heun": "bh2", "logrho": "bh2"}}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.solver_order >= 1, "solver_order", "1 or more, usually 2 or 3")
        if self.thresholding and not self.predict_x0:
            raise ValueError("thresholding limits x0, but predict_x0 is false. Turn one of the two off, or on.")
        if self.solver_order > 1 and not self.lower_order_final and self.final_sigmas_type == "zero":
            raise ValueError(
                "lower_order_final is false, but only a step of order 1 can reach final_sigmas_type 'zero'. Set "
                "lower_order_final, or final_sigmas_type to 'sigma_min'."
            )
        for name, holds in (("solver_type", self.solver_type == "bh1"), ("predict_x0", not self.predict_x0)):
            if holds and self.final_sigmas_type == "zero":
                raise ValueError(
                    f"{name}={getattr(self, name)!r} has no last step to final_sigmas_type 'zero'. Set "
                    "final_sigmas_type to 'sigma_min', or use solver_type 'bh2' with predict_x0."
                )


class Coefficients(NamedTuple):
    """How m comes about; the corrected sample; the predicted one. Of m and the values before it, difference_weights."""

    to_m: Mix
    old_x: Float[np.ndarray, " calls"]
    kept_x: Float[np.ndarray, " calls"]
    corrector: Float[np.ndarray, "calls order+1"]
    x: Float[np.ndarray, " calls"]
    predictor: Float[np.ndarray, "calls order+1"]


class UniPC(Sampler):
    """Twin: UniPCMultistepScheduler."""

    class_name = "UniPCMultistepScheduler"
    options_class = UniPCOptions
    options: UniPCOptions

    @property
    def history_length(self) -> int:
        """`solver_order` values of m, and the corrected sample of the last call."""
        return self.options.solver_order + 1

    def make_plan(self) -> Plan:
        """Both halves of each call, of the order that the place in the run allows."""
        options = self.options
        table = levels.sigmas(options)
        respaced = levels.respaced_sigmas(options, float(table[-1]), float(table[0]), self.num_inference_steps)
        to_whole = np.round if options.use_karras_sigmas else np.trunc
        grid = make_grid(
            options, self.num_inference_steps, to_whole=to_whole, respaced=respaced, end_at_table=respaced is None
        )
        calls = len(grid.timesteps)
        signal, noise = grid.signal[:-1], grid.noise[:-1]
        to_m = (x0_mix if options.predict_x0 else eps_mix)(options.prediction_type, signal, noise)
        old_x, kept_x, x = np.zeros(calls), np.ones(calls), np.ones(calls)
        corrector, predictor = np.zeros((2, calls, options.solver_order + 1))
        for i in range(self.begin, calls):
            x[i], predictor[i, :-1] = self._factors(grid, i, i + 1, self._order(i, calls), corrects=False)
            if i > self.begin and i - 1 not in options.disable_corrector:
                old_x[i], corrector[i] = self._factors(grid, i - 1, i, self._order(i - 1, calls), corrects=True)
                kept_x[i] = 0.0
        coefficients = Coefficients(
            to_m, old_x, kept_x, difference_weights(corrector), x, difference_weights(predictor)
        )
        return Plan(grid.timesteps, coefficients, signal, noise, first_call=self.begin)

    def step(
        self, state: State, i: Int[Array, ""] | int, out: Float[Array, "b ..."], noise: Float[Array, "b ..."] | None
    ) -> State:
        """The sample corrected with the new value of m, then a step from there."""
        row, x = self.row(i), state.x
        newest = thresholded(self.options, row.to_m(x, self.output(out, x)))
        *values, old_x = state.history
        values = [newest, *values]
        corrected = row.kept_x * x + row.old_x * old_x + weighted_sum(row.corrector, values)
        x = row.x * corrected + weighted_sum(row.predictor, values)
        return State(x, (*values[:-1], corrected))

    def _order(self, i: int, calls: int) -> int:
        options = self.options
        most = min(options.solver_order, calls - i) if options.lower_order_final else options.solver_order
        return min(most, i - self.begin + 1)

    def _factors(
        self, grid: Grid, start: int, end: int, order: int, *, corrects: bool
    ) -> tuple[float, Float[np.ndarray, " values"]]:
        """Factors of the sample at `start` and of m for the step to `end`: m at start and before.

        The corrector knows m at the end too, which is then the first of the values.
        """
        options = self.options
        level = grid.half_log_snr
        h = level[end] - level[start]
        values = np.zeros(options.solver_order + 1)
        if h == 0:  # respaced sigmas with final_sigmas_type sigma_min repeat the last one: nothing is left to do
            return 1.0, values if corrects else values[:-1]
        z = -h if options.predict_x0 else h
        before = start - np.arange(1, order)
        ratios = (level[before] - level[start]) / h
        scale = grid.signal[end] if options.predict_x0 else grid.noise[end]
        other = grid.noise if options.predict_x0 else grid.signal
        weights = _weights(z, ratios, options.solver_type, corrects=corrects)
        size = z if options.solver_type == "bh1" else np.expm1(z)
        # Each weight belongs to a difference (m_k - m_start) / ratio_k; the end's ratio is 1.
        shares = -scale * size * weights / np.append(ratios, 1.0)[: len(weights)] if len(weights) else weights
        values[0] = -scale * np.expm1(z) - shares.sum()
        values[1:order] = shares[: order - 1]
        if corrects:
            values = np.append(shares[-1], values[:-1])
        return other[end] / other[start], values if corrects else values[:-1]


def _weights(
    z: float, ratios: Float[np.ndarray, " older"], kind: str, *, corrects: bool
) -> Float[np.ndarray, " weights"]:
    """The weights of the differences, from the conditions of the wanted order (equations 7 and 8)."""
    order = len(ratios) + 1
    if corrects and order == 1:
        return np.array([0.5])
    if not corrects and order <= 2:
        return np.full(order - 1, 0.5)
    size = z if kind == "bh1" else np.expm1(z)
    moments, phi, factorial = [], np.expm1(z) / z - 1, 1
    for k in range(1, order + 1):
        moments.append(phi * factorial / size)
        factorial *= k + 1
        phi = phi / z - 1 / factorial
    count = order if corrects else order - 1
    nodes = np.append(ratios, 1.0)[:count]
    return np.linalg.solve(np.vander(nodes, count, increasing=True).T, np.array(moments[:count]))
