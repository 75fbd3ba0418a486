"""DPM-Solver and DPM-Solver++ (Lu et al. 2022), multistep, orders 1 to 3, as ODE or SDE."""

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
class DPMOptions(MultistepOptions):
    """`lambda_min_clipped` leaves out the timesteps whose log(signal / noise) is below it."""

    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    euler_at_final: bool = False
    lambda_min_clipped: float = -float("inf")
    variance_type: Literal["learned", "learned_range"] | None = None
    use_lu_lambdas: bool = False

    flags: ClassVar[tuple[str, ...]] = (*MultistepOptions.flags, "use_lu_lambdas")
    synonyms: ClassVar = {
        "algorithm_type": {"deis": "dpmsolver++"},
        "solver_type": {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"},
        "variance_type": dict.fromkeys(("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.predicts_x0 and self.final_sigmas_type == "zero":
            raise ValueError(
                f"algorithm_type {self.algorithm_type!r} cannot end at final_sigmas_type 'zero'. Set final_sigmas_type "
                "to 'sigma_min', or use algorithm_type 'dpmsolver++' or 'sde-dpmsolver++'."
            )
        if self.algorithm_type == "sde-dpmsolver" and self.solver_order == 3:
            raise ValueError(
                "solver_order 3 is not defined for algorithm_type 'sde-dpmsolver'. Use solver_order 1 or 2, or "
                "algorithm_type 'sde-dpmsolver++'."
            )

    @property
    def predicts_x0(self) -> bool:
        """Whether the method integrates x0 (the ++ kinds) and not eps."""
        return self.algorithm_type.endswith("++")

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn in each step."""
        return self.algorithm_type.startswith("sde")


class Coefficients(NamedTuple):
    """How the integrated quantity m comes about (with thresholding by way of x0), and the factors of a step.

    `m` has difference_weights of the newest and the older values.
    """

    to_m: Mix
    to_x0: Mix
    x0_to_eps: Mix
    x: Float[np.ndarray, " calls"]
    m: Float[np.ndarray, "calls order"]
    noise: Float[np.ndarray, " calls"]


class DPMMultistep(Sampler):
    """Twin: DPMSolverMultistepScheduler."""

    class_name = "DPMSolverMultistepScheduler"
    options_class = DPMOptions
    options: DPMOptions

    @property
    def history_length(self) -> int:
        """The values of m before the newest."""
        return self.options.solver_order - 1

    def make_plan(self) -> Plan:
        """One row of factors a call, of the order that the place in the run allows."""
        options = self.options
        grid = self._grid()
        calls = len(grid.timesteps)
        signal, noise = grid.signal[:-1], grid.noise[:-1]
        to_x0 = x0_mix(options.prediction_type, signal, noise)
        to_m = to_x0 if options.predicts_x0 else eps_mix(options.prediction_type, signal, noise)
        steps = [self._step_factors(grid, i, self._order(i, calls)) for i in range(calls)]
        x, m, drawn = (np.array(column) for column in zip(*steps))
        coefficients = Coefficients(to_m, to_x0, eps_mix("sample", signal, noise), x, difference_weights(m), drawn)
        return Plan(grid.timesteps, coefficients, signal, noise, needs_noise=options.stochastic, first_call=self.begin)

    def step(
        self, state: State, i: Int[Array, ""] | int, out: Float[Array, "b ..."], noise: Float[Array, "b ..."] | None
    ) -> State:
        """A weighted sum of the sample, the last values of m, and noise."""
        row, x = self.row(i), state.x
        options = self.options
        if options.variance_type is not None:
            out = out[..., : x.shape[-1]]  # the other half are variances
        out = self.output(out, x)
        if options.thresholding:
            x0 = thresholded(options, row.to_x0(x, out))
            newest = x0 if options.predicts_x0 else row.x0_to_eps(x, x0)
        else:
            newest = row.to_m(x, out)
        values = (newest, *state.history)
        x = row.x * x + weighted_sum(row.m, values)
        if self.needs_noise:
            x = x + row.noise * noise
        return State(x, values[: self.history_length])

    def _grid(self) -> Grid:
        options, steps = self.options, self.num_inference_steps
        table = levels.sigmas(options)
        half_log_snr = -np.log(table)  # descending with t; too noisy ones are left out
        top = len(table) - int(np.searchsorted(half_log_snr[::-1], options.lambda_min_clipped))
        respaced = levels.respaced_sigmas(options, float(table[-1]), float(table[0]), steps)
        if options.use_lu_lambdas:
            log_table = np.log(table)
            respaced = np.exp(np.linspace(float(log_table[-1]), float(log_table[0]), steps))
        rounds = options.use_karras_sigmas or options.use_lu_lambdas
        cuts = not rounds or options.beta_schedule == "squaredcos_cap_v2"
        return make_grid(options, steps, top=top, to_whole=np.trunc if cuts else np.round, respaced=respaced)

    def _order(self, i: int, calls: int) -> int:
        """Order of step i: what has been seen, and less at the end, where high orders are unstable."""
        options = self.options
        few = options.lower_order_final and calls < 15
        if i == calls - 1 and (options.euler_at_final or few or options.final_sigmas_type == "zero"):
            return 1
        order = min(options.solver_order, max(i - self.begin, 0) + 1)
        return min(order, 2) if i == calls - 2 and few else order

    def _step_factors(self, grid: Grid, i: int, order: int) -> tuple[float, list[float], float]:
        """Factors of the sample, of m and the values before it, and of the noise, for the step after call i.

        With z the change of log(signal / noise), halved or doubled and of either sign, all kinds are one
        formula: a scale times exp(z) - 1 and its relatives. (The sign of the last 0.5 for SDE ++ is diffusers';
        k-diffusion's 3M SDE has it the other way round.)
        """
        options = self.options
        signal, noise, level = grid.signal, grid.noise, grid.half_log_snr
        h = level[i + 1] - level[i]
        if options.predicts_x0:
            z, scale, x = (-2 * h if options.stochastic else -h), signal[i + 1], noise[i + 1] / noise[i]
            x, drawn = (x * np.exp(-h), noise[i + 1] * np.sqrt(-np.expm1(-2 * h))) if options.stochastic else (x, 0.0)
        else:
            z, scale, x = h, noise[i + 1] * (2 if options.stochastic else 1), signal[i + 1] / signal[i]
            drawn = noise[i + 1] * np.sqrt(np.expm1(2 * h)) if options.stochastic else 0.0
        first = -scale * np.expm1(z)
        m = np.zeros(options.solver_order)
        m[0] = first
        if order == 1:
            return x, list(m), drawn
        phi1 = np.expm1(z) / z if z else 1.0
        second = first / 2 if order == 2 and options.solver_type == "midpoint" else scale * (1 - phi1)
        h0 = level[i] - level[i - 1]
        if order == 2:
            m[:2] += second * (h / h0) * np.array([1, -1])
            return x, list(m), drawn
        h1 = level[i - 1] - level[i - 2]
        phi2 = (np.expm1(z) - z) / z**2 if z else 0.5
        third = -scale * (phi2 + 0.5) if options.stochastic else scale * (0.5 - phi2)
        newer, older = h / h0 * np.array([1, -1, 0]), h / h1 * np.array([0, 1, -1])
        m += second * (newer + h0 / (h0 + h1) * (newer - older)) + third * h / (h0 + h1) * (newer - older)
        return x, list(m), drawn
