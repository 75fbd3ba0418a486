"""README's table of what `tests.benchmarks.tpu` compiled: ours (`fsdp`) over diffusers' step, a column a batch."""

from __future__ import annotations

from typing import Any

from flaxdream.planning.plan import Plan
from flaxdream.planning.remembered import from_dict

NAMES = {"sd15": "SD 1.5", "sd15+text": "SD 1.5, text too", "sd21": "SD 2.1", "sd21+text": "SD 2.1, text too"}
BATCHES = (1, 2, 4, 8)


def readme_table(results: dict[str, Any]) -> str:
    """Two rows for each model and machine; `results` are plans by "model:machine:batch side".

    In a cell: milliseconds a picture, share of the peak, memory of a chip; of ours also how many times as long the
    peer's picture takes, at as many pictures or, where these do not fit, at its best.
    """
    plans = {name: from_dict(values) for name, values in results.items()}
    machines = sorted({name.split()[0].split(":")[1] for name in plans if name.endswith(" fsdp")})
    head = f"| | | {' | '.join(f'{batch} a chip' for batch in BATCHES)} |"
    lines = [head, "|" + "---|" * (2 + len(BATCHES))]
    for model, name in NAMES.items():
        for machine in machines:
            ours = _by_batch(plans, f"{model}:{machine}", "fsdp")
            peer = _by_batch(plans, f"{model}:{machine}", "peer")
            if not ours:
                continue
            cells = [_ours(batch, ours, peer) for batch in BATCHES]
            lines.append(f"| {name}, {machine} | ours | {' | '.join(cells)} |")
            if peer:
                limit = next(iter(peer.values())).limit / 2**30
                cells = [_peer(batch, peer) for batch in BATCHES]
                lines.append(f"| {limit:.1f} GiB | diffusers | {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_batch(plans: dict[str, Plan], case: str, side: str) -> dict[int, Plan]:
    found = {batch: plans.get(f"{case}:{batch} {side}") for batch in BATCHES}
    return {batch: plan for batch, plan in found.items() if plan is not None}


def milliseconds(plan: Plan) -> float:
    """A picture's, on one chip."""
    assert plan.estimate is not None
    return plan.estimate.seconds * 1e3 * plan.devices / plan.images


def _numbers(plan: Plan) -> str:
    assert plan.estimate is not None and plan.needed is not None
    time = milliseconds(plan)
    digits = 0 if time >= 20 else 1
    return f"{time:.{digits}f} ms, {100 * plan.estimate.peak_share:.0f} %, {plan.needed / 2**30:.1f} GiB"


def _ours(batch: int, ours: dict[int, Plan], peer: dict[int, Plan]) -> str:
    if batch not in ours:
        return ""
    fitting = {at: plan for at, plan in peer.items() if plan.refusal is None}
    beside = fitting.get(batch) or min(fitting.values(), key=milliseconds, default=None)
    ratio = f", **{milliseconds(beside) / milliseconds(ours[batch]):.1f} ×**" if beside is not None else ""
    return _numbers(ours[batch]) + ratio


def _peer(batch: int, peer: dict[int, Plan]) -> str:
    if batch in peer and peer[batch].refusal is None:
        return _numbers(peer[batch])
    return "does not fit" if any(plan.refusal is not None and at <= batch for at, plan in peer.items()) else ""
