"""One optimizer step: rows in, a new state and metrics out. It knows no model; a recipe hands it the loss.

The state is a plain dict: `step`, `params` (what trains, float32 or bfloat16), `opt_state`, and where asked for `ema`
and `loss_scale`. Every random number of step k and row r comes from fold_in(fold_in(key(seed), k), r).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxdream.arrays import Array, Float, Key, Params
from flaxdream.diffusion.loss import weighted_mean
from flaxdream.training.ema import init_ema, update_ema
from flaxdream.training.loss_scale import choose, init_loss_scale, unscale, update_loss_scale
from flaxdream.training.optimizer import float32, global_norm
from flaxdream.training.stochastic_rounding import apply_updates
from flaxdream.training.whole_params import WholeParams

State = dict[str, Any]
Batch = Mapping[str, Array]  # each [rows, ...]; `row` and `weight` are always there
# (what trains, what does not, the rows, a key a row) -> the loss of each row
LossOfRows = Callable[[Params, Params, Batch, Key[Array, " b"]], Float[Array, " b"]]
Groups = Callable[[Batch], dict[str, Float[Array, " b"]]]  # name -> 1 for the rows of a group, else 0


def init_state(
    params: Params, optimizer: optax.GradientTransformation, *, ema: Any = None, loss_scaling: bool = False
) -> State:
    """The state before the first step; `ema` is the type of the average, None for no average."""
    state: State = {"step": jnp.zeros((), jnp.int32), "params": params, "opt_state": optimizer.init(params)}
    if ema is not None:
        state["ema"] = init_ema(params, ema)
    if loss_scaling:
        state["loss_scale"] = init_loss_scale()
    return state


def batch_shapes(batch: Batch) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """What a step is compiled for anew: the shapes and types of a batch, by name."""
    return tuple(sorted((name, rows.shape, str(rows.dtype)) for name, rows in batch.items()))


def make_train_step(
    loss_of_rows: LossOfRows,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    accumulation: int = 1,
    ema: Mapping[str, Any] | None = None,
    groups: Groups | None = None,
    whole: WholeParams | None = None,
) -> Callable[[State, Params, Batch], tuple[State, dict[str, Array]]]:
    """The step as a pure function (state, frozen, batch) -> (state, metrics), to be jitted with a donated state.

    The loss is the mean over all rows of weight * loss; `accumulation` cuts them into that many parts, one after
    the other, without changing it. `ema` holds the options of `update_ema`. With a `loss_scale` in the state, a
    step whose gradients are not finite changes nothing but the scale. `whole` is for parameters that lie in parts on
    the devices. Gradients and updates are float32 whatever the parameters are; bfloat16 ones are rounded at random.
    Metrics: `loss`, `grad_norm`, and for each of `groups` the unweighted mean loss of its rows.
    """

    def loss(params: Params, frozen: Params, rows: Batch, key_b: Array, scale: Array) -> tuple[Array, dict[str, Any]]:
        loss_b = loss_of_rows(params, frozen, rows, key_b)
        total = weighted_mean(loss_b, rows["weight"])
        marks = groups(rows) if groups else {}
        sums = {name: (jnp.sum(loss_b * mark_b), jnp.sum(mark_b)) for name, mark_b in marks.items()}
        return total * scale, {"loss": total, "groups": sums}

    def gradients(state: State, frozen: Params, batch: Batch) -> tuple[Params, dict[str, Any]]:
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        scale = state["loss_scale"].value if "loss_scale" in state else jnp.float32(1)
        differentiate = jax.grad(loss, has_aux=True)
        gathered = whole.gather(state["params"]) if whole else None

        def part(rows: Batch) -> tuple[Params, dict[str, Any]]:
            key_b = jax.vmap(jax.random.fold_in, (None, 0))(key, rows["row"])
            # cast in here: a float32 copy outside of the scan would lie there for all of it
            params = float32(state["params"]) if gathered is None else gathered
            grads, metrics = differentiate(params, frozen, rows, key_b, scale)
            return (whole.scatter(grads) if whole else grads), metrics

        if accumulation == 1:
            return part(batch)
        parts = jax.tree.map(lambda rows: _strided(rows, accumulation), dict(batch))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(part, _first(parts)))
        sums, _ = jax.lax.scan(lambda total, rows: (jax.tree.map(jnp.add, total, part(rows)), None), zeros, parts)
        grads, metrics = sums
        share = 1 / accumulation
        return jax.tree.map(lambda g: g * share, grads), metrics | {"loss": metrics["loss"] * share}

    def train_step(state: State, frozen: Params, batch: Batch) -> tuple[State, dict[str, Array]]:
        grads, found = gradients(state, frozen, batch)
        finite = None
        if "loss_scale" in state:
            grads, finite = unscale(grads, state["loss_scale"])
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = apply_updates(state["params"], updates, state["step"])
        stepped = {"params": params, "opt_state": opt_state}
        metrics = {"loss": found["loss"], "grad_norm": getattr(opt_state, "grad_norm", global_norm(grads))}
        new = {**state, "step": state["step"] + 1}
        if finite is None:
            new |= stepped
        else:
            new |= choose(finite, stepped, {name: state[name] for name in stepped})
            new["loss_scale"] = update_loss_scale(state["loss_scale"], finite)
            metrics["loss_scale"] = state["loss_scale"].value
        if ema is not None:
            new["ema"] = update_ema(state["ema"], new["params"], **ema)
        for name, (total, count) in found["groups"].items():
            metrics[f"loss_{name}"] = total / jnp.maximum(count, 1)
        return new, metrics

    return train_step


def _strided(rows: Array, parts: int) -> Array:
    """[rows, ...] as [parts, rows / parts, ...]; part p has rows p, p + parts, ...: none leaves its device."""
    return jnp.moveaxis(rows.reshape(-1, parts, *rows.shape[1:]), 1, 0)


def _first(parts: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), parts)
