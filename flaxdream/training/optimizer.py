"""The optimizer of a run: clipping over all parameters, a learning rate for each group, and groups that stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flaxdream.arrays import Array, Float, Int, Params
from flaxdream.training.learning_rate import Schedule
from flaxdream.training.optimizer_rules import Rule, canonical_name, make_rule


class OptimizerState(NamedTuple):
    steps: Int[Array, ""]  # taken; the next one runs at schedule(steps)
    grad_norm: Float[Array, ""]  # of the last step, over all that moved, before clipping
    rules: Any  # the rule's state, or a dict of them by group


def make_optimizer(
    name: str,
    schedule: Schedule | Mapping[str, Schedule],
    *,
    max_grad_norm: float | None = 1.0,
    stop_steps: Mapping[str, int] | None = None,
    weight_decay: float | Mapping[str, float] | None = None,
    **options: Any,
) -> optax.GradientTransformation:
    """The named optimizer; its state and updates are float32 whatever the parameters are.

    With a mapping of schedules, parameters are a dict of groups with the same names, each with its own rate (and
    its own `weight_decay` if that is a mapping). `stop_steps` gives the step from which a group does not move at
    all, weight decay included; from then on it also has no part in the gradient norm, as in torch, where it
    would have no gradient. `max_grad_norm` clips as `clip_by_norm`; None or 0 does not clip. An option that is
    None keeps the optimizer's own default; one that the optimizer does not have is an error.
    """
    stops = dict(stop_steps or {})
    canonical = canonical_name(name)
    rule: Rule | dict[str, Rule]
    if isinstance(schedule, Mapping):
        _check_groups(canonical, schedule, weight_decay, stops)
        decays = weight_decay if isinstance(weight_decay, Mapping) else dict.fromkeys(schedule, weight_decay)
        rule = {group: make_rule(canonical, weight_decay=decays[group], **options) for group in schedule}
    else:
        if isinstance(weight_decay, Mapping) or (stops and canonical != "prodigy"):
            raise ValueError("weight_decay or stop_steps by group need a mapping of schedules with the same groups.")
        rule = make_rule(canonical, weight_decay=weight_decay, **options)

    def init(params: Params) -> OptimizerState:
        params = float32(params)
        zero = jnp.zeros((), jnp.float32)
        if isinstance(rule, dict):
            states: Any = {group: rule[group](zero).init(params[group]) for group in _same_groups(rule, params)}
        else:
            states = rule(zero).init(params)
        return OptimizerState(jnp.zeros((), jnp.int32), zero, states)

    def update(grads: Params, state: OptimizerState, params: Params | None = None) -> tuple[Params, OptimizerState]:
        assert params is not None
        grads, params = float32(grads), float32(params)
        moves = {group: state.steps < stop for group, stop in stops.items()}
        grads = _still(grads, moves)
        grad_norm = global_norm(grads)
        grads = clip_by_norm(grads, grad_norm, max_grad_norm) if max_grad_norm else grads
        if isinstance(rule, dict):
            assert isinstance(schedule, Mapping)
            updates, states = {}, {}
            for group in _same_groups(rule, params):
                step = rule[group](schedule[group](state.steps)).update
                updates[group], new = step(grads[group], state.rules[group], params[group])
                states[group] = _choose(moves[group], new, state.rules[group]) if group in moves else new
        else:
            assert callable(schedule)
            updates, states = rule(schedule(state.steps)).update(grads, state.rules, params)
        return _still(updates, moves), OptimizerState(state.steps + 1, grad_norm, states)

    return optax.GradientTransformation(init, update)


def float32(tree: Params) -> Params:
    """All leaves as float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def global_norm(tree: Params) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together, in float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)))


def clip_by_norm(grads: Params, norm: Float[Array, ""], max_grad_norm: float) -> Params:
    """Gradients of the given `norm` scaled down to max_grad_norm at most. Twin: torch's clip_grad_norm_.

    torch divides by norm + 1e-6 and so scales a little also where the norm is max_grad_norm exactly.
    """
    factor = jnp.minimum(max_grad_norm / (norm + 1e-6), 1)
    return jax.tree.map(lambda g: g * factor, grads)


def evaluation_params(state: OptimizerState, params: Params) -> Params:
    """The parameters to draw pictures with and to export: schedule_free's average, in float32, else `params`."""
    if isinstance(state.rules, optax.contrib.ScheduleFreeState):
        return optax.contrib.schedule_free_eval_params(state.rules, params)
    groups = state.rules if isinstance(state.rules, dict) else {}
    averaged = {g: s for g, s in groups.items() if isinstance(s, optax.contrib.ScheduleFreeState)}
    return params | {g: optax.contrib.schedule_free_eval_params(s, params[g]) for g, s in averaged.items()}


def _still(tree: Params, moves: Mapping[str, Array]) -> Params:
    """The tree with zeros in the groups that do not move."""
    return tree | {g: _choose(on, tree[g], jax.tree.map(jnp.zeros_like, tree[g])) for g, on in moves.items()}


def _choose(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _same_groups(rule: Mapping[str, Rule], params: Params) -> list[str]:
    if set(rule) != set(params):
        raise ValueError(f"there are schedules for {sorted(rule)}, but the parameters' groups are {sorted(params)}.")
    return sorted(rule)


def _check_groups(name: str, schedule: Mapping[str, Any], weight_decay: Any, stops: Mapping[str, int]) -> None:
    if name == "prodigy":
        raise ValueError(
            "optimizer 'prodigy' finds one step size for all parameters. Leave the text encoder's own learning rate "
            "and weight decay out."
        )
    for what, groups in (("weight_decay", weight_decay), ("stop_steps", stops)):
        if isinstance(groups, Mapping) and not set(groups) <= set(schedule):
            raise ValueError(f"{what} is for {sorted(groups)}, but the groups are {sorted(schedule)}.")
    if isinstance(weight_decay, Mapping) and set(weight_decay) != set(schedule):
        raise ValueError(f"weight_decay is for {sorted(weight_decay)}, but the groups are {sorted(schedule)}.")
