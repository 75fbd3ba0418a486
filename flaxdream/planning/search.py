"""Searches that try settings: the largest batch that fits, and what to change if nothing does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from flaxdream.config.run import RunConfig
from flaxdream.config.run_checks import optimizer_name
from flaxdream.config.training import TrainConfig
from flaxdream.planning.measuring import CompileError
from flaxdream.planning.plan import Plan

LARGEST = 4096  # pictures per device; no card holds more

Measure = Callable[[RunConfig], Plan]
Changes = dict[str, Any]


@dataclass(frozen=True)
class Attempt:
    """Settings that were tried, and what came of it: a plan, or the error without one."""

    changes: Changes
    plan: Plan | None
    error: str | None = None

    @property
    def fits(self) -> bool:
        return self.plan is not None and self.plan.fits is True

    @property
    def needed(self) -> float:
        """Bytes on a device with the code that is guessed; infinite where the compiler named none."""
        if self.plan is None or self.plan.needed is None:
            return math.inf
        return self.plan.needed + self.plan.code_guess

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "changes": self.changes,
            "plan": None if self.plan is None else self.plan.as_dict(),
            "error": self.error,
        }


def attempt(changes: Changes, config: RunConfig, measure: Measure) -> Attempt:
    """What comes of these changes to the settings; what fails, or cannot be, does not end a search."""
    try:
        return Attempt(changes, measure(dataclasses.replace(config, **changes)))
    except (CompileError, ValueError) as error:
        return Attempt(changes, None, str(error))


def largest_batch(config: RunConfig, measure: Measure) -> list[Attempt]:
    """Every batch size tried, by doubling from 1 to LARGEST and then halving the gap; the largest that fits is in it.

    ValueError on a device whose memory is not known.
    """
    tried: dict[int, Attempt] = {}

    def fits(batch: int) -> bool:
        if batch not in tried:
            tried[batch] = attempt({"train_batch_size": batch}, config, measure)
        plan = tried[batch].plan
        if plan is not None and plan.fits is None:
            raise ValueError(_not_known("--largest_batch", plan))
        return tried[batch].fits

    fitting, refused = 0, 1
    while refused <= LARGEST and fits(refused):
        fitting, refused = refused, 2 * refused
    while refused - fitting > 1 and refused <= LARGEST:
        middle = (fitting + refused) // 2
        fitting, refused = (middle, refused) if fits(middle) else (fitting, middle)
    return [tried[batch] for batch in sorted(tried)]


def best(attempts: list[Attempt]) -> Attempt | None:
    """The attempt with the largest batch that fits."""
    fitting = [one for one in attempts if one.fits]
    return max(fitting, key=lambda one: one.changes.get("train_batch_size", 0), default=None)


def advise(config: RunConfig, plan: Plan, measure: Measure) -> Iterator[Attempt]:
    """Each change alone, cheapest first; if none is enough, one on top of the other until it fits.

    `plan` is what did not fit. A change that fails, or that does not lower what is needed, is not kept for the next.
    ValueError on a device whose memory is not known.
    """
    if plan.fits is None:
        raise ValueError(_not_known("--advise", plan))
    alone: list[Attempt] = []
    for change in changes(config, plan.devices):
        alone.append(attempt(change, config, measure))
        yield alone[-1]
    if any(one.fits for one in alone):
        return
    kept = Attempt({}, plan)
    for one in alone:
        combined, together = one, kept.changes | one.changes
        if together != one.changes:
            combined = attempt(together, config, measure)
            yield combined
        if combined.fits:
            return
        if combined.plan is not None and (combined.needed < kept.needed or math.isinf(kept.needed)):
            kept = combined


def first_that_does_not_fit(plans: Iterable[Plan]) -> Plan:
    """The plan that does not fit, after which no more are made; if all fit, the first."""
    made = []
    for plan in plans:
        if not plan.fits:
            return plan
        made.append(plan)
    return made[0]


def _not_known(flag: str, plan: Plan) -> str:
    return (
        f"{flag}: the memory of {plan.chip} is not known, and so not what fits it. Choose a --topology that names it, "
        "such as v5e-8."
    )


def changes(config: RunConfig, devices: int) -> list[Changes]:
    """What can be changed in this run to save memory, in the order in which it is tried."""
    found: list[Changes] = []
    if config.mixed_precision == "no":
        found.append({"mixed_precision": "bf16"})
    found += _of_latents(config) if isinstance(config, TrainConfig) else []
    stronger = {"none": ("blocks", "full"), "dots": ("blocks", "full"), "blocks": ("full",)}.get(config.remat, ())
    found += [{"gradient_checkpointing": False, "gradient_checkpointing_policy": policy} for policy in stronger]
    batch, parts = config.train_batch_size, config.gradient_accumulation_steps
    found += [
        {"train_batch_size": part, "gradient_accumulation_steps": parts * batch // part}
        for part in range(batch // 2, 0, -1)
        if batch % part == 0
    ]
    if devices > 1 and config.fsdp == 1:
        found.append({"fsdp": devices})
    if optimizer_name(config) == "adamw":
        found.append({"use_8bit_adam": True})
    if config.params_dtype == "float32":
        found.append({"params_dtype": "bfloat16"})
    if config.use_ema and config.ema_dtype == "float32":
        found.append({"ema_dtype": "bfloat16"})
    if not config.offload_optimizer:
        found.append({"offload_optimizer": True})
    if config.use_ema and not config.offload_ema:
        found.append({"offload_ema": True})
    return [{name: value for name, value in one.items() if getattr(config, name) != value} for one in found]


def _of_latents(config: TrainConfig) -> list[Changes]:
    """What makes latents ahead of the steps, or picture by picture in them."""
    found: list[Changes] = []
    if not config.latents_stay and dataclasses.replace(config, center_crop=True).latents_stay:
        found.append({"center_crop": True})  # latents are then cached, and the VAE leaves the device
    if not config.latents_stay and not config.vae_slicing and config.train_batch_size > 1:
        found.append({"vae_slicing": True})
    return found
