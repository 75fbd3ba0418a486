"""Samplers: from noise and a model to a sample, inside one `lax.scan`.

`make_sampler` builds one from the mapping of a scheduler_config.json, by its `_class_name` or by a short name;
`run` carries it out.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from flaxdream.diffusion.samplers.base import Sampler, State
from flaxdream.diffusion.samplers.ddim import DDIM
from flaxdream.diffusion.samplers.ddpm import DDPM
from flaxdream.diffusion.samplers.dpm_multistep import DPMMultistep
from flaxdream.diffusion.samplers.euler import Euler
from flaxdream.diffusion.samplers.euler_ancestral import EulerAncestral
from flaxdream.diffusion.samplers.heun import Heun
from flaxdream.diffusion.samplers.lms import LMS
from flaxdream.diffusion.samplers.options import OTHER_KEYS, read_options
from flaxdream.diffusion.samplers.pndm import PNDM
from flaxdream.diffusion.samplers.run import advance, run
from flaxdream.diffusion.samplers.unipc import UniPC

__all__ = ["CLASSES", "NAMES", "Sampler", "State", "advance", "make_sampler", "run", "scheduler_config"]

CLASSES: dict[str, type[Sampler]] = {
    kind.class_name: kind for kind in (DDIM, DDPM, PNDM, DPMMultistep, Euler, EulerAncestral, Heun, LMS, UniPC)
}


# A config may hold these for another class than the one that samples.
FOREIGN_KEYS = OTHER_KEYS.union(*({field.name for field in fields(kind.options_class)} for kind in CLASSES.values()))


def _names() -> dict[str, tuple[type[Sampler], dict[str, Any]]]:
    """Short name -> (class, options that the name stands for, over the model's own)."""
    names: dict[str, tuple[type[Sampler], dict[str, Any]]] = {
        "ddim": (DDIM, {}),
        "ddpm": (DDPM, {}),
        "pndm": (PNDM, {}),
        "plms": (PNDM, {"skip_prk_steps": True}),
        "euler_a": (EulerAncestral, {}),
    }
    dpmpp = {"solver_type": "midpoint", "final_sigmas_type": "zero"}
    respacing = {
        "euler": (Euler, {}),
        "heun": (Heun, {}),
        "lms": (LMS, {}),
        "unipc": (UniPC, {}),
        "dpmpp_2m": (DPMMultistep, dpmpp | {"solver_order": 2, "algorithm_type": "dpmsolver++"}),
        "dpmpp_3m": (DPMMultistep, dpmpp | {"solver_order": 3, "algorithm_type": "dpmsolver++"}),
        "dpmpp_2m_sde": (DPMMultistep, dpmpp | {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
        "dpmpp_3m_sde": (DPMMultistep, dpmpp | {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}),
    }
    for name, (kind, options) in respacing.items():
        flags = kind.options_class.flags  # type: ignore[attr-defined]
        for flag in (None, *flags):
            suffix = "" if flag is None else "_" + flag.split("_")[1]
            names[name + suffix] = (kind, options | {other: other == flag for other in flags})
    aliases = {"euler_ancestral": "euler_a", "k_euler": "euler", "k_euler_a": "euler_a", "k_lms": "lms",
               "dpmsolver++": "dpmpp_2m"}  # fmt: skip
    return names | {alias: names[name] for alias, name in aliases.items()}


NAMES = _names()


def make_sampler(
    config: Mapping[str, Any], num_inference_steps: int, *, name: str | None = None, begin: int = 0, **options: Any
) -> Sampler:
    """The sampler of a scheduler_config.json, for a number of steps.

    `name` (a key of NAMES or CLASSES) takes the place of the config's own class and of the options that the
    name stands for; the betas and the prediction type stay the model's. `options` win over both: keys of the
    config, or what diffusers passes to its step (eta, s_churn, ...). `begin` leaves out steps at the noisy end.
    """
    kind, settings = _find(config, name)
    known = [field.name for field in fields(kind.options_class)]
    for option in options:
        if option not in known:
            raise ValueError(
                f"{kind.class_name} has no option {option!r}.{_nearest(option, known)} Its options: {', '.join(known)}."
            )
    merged = {**config, **settings, **options, "_class_name": kind.class_name}
    read = read_options(kind.options_class, merged, kind.class_name, FOREIGN_KEYS)
    return kind(read, num_inference_steps, begin, merged)


def scheduler_config(config: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """The mapping of a scheduler_config.json for the named sampler, from that of a model; both are checked."""
    kind, settings = _find(config, name)
    merged = {**config, **settings, "_class_name": kind.class_name}
    read_options(kind.options_class, merged, kind.class_name, FOREIGN_KEYS)
    return merged


def _find(config: Mapping[str, Any], name: str | None) -> tuple[type[Sampler], dict[str, Any]]:
    if name is None:
        name = config.get("_class_name")
        if name is None:
            raise ValueError(f"The scheduler config names no _class_name. Give a sampler's name: {', '.join(NAMES)}.")
    if name in NAMES:
        return NAMES[name]
    kind = CLASSES.get(str(name).removeprefix("Flax"))  # what the Flax folders of diffusers say
    if kind is None:
        known = [*NAMES, *CLASSES]
        raise ValueError(f"No sampler is named {name!r}.{_nearest(str(name), known)} Supported: {', '.join(known)}.")
    return kind, {}


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f" Perhaps you meant {near[0]}?" if near else ""
