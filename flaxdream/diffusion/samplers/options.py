"""The options of a sampler: diffusers' scheduler keys and defaults as frozen dataclasses, and their reader.

A class's options are its fields: `Literal` types list what is supported. The reader fills the class's own
defaults, ignores the keys that belong to other schedulers (as `from_config` does between classes) and refuses
every other key and every value that is not supported.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

PredictionType = Literal["epsilon", "v_prediction", "sample"]
Spacing = Literal["linspace", "leading", "trailing"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every scheduler class reads."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: Spacing = "linspace"
    steps_offset: int = 0

    # Values that the class reads as another value, as its twin does: {key: {value: meaning}}.
    synonyms: ClassVar[Mapping[str, Mapping[Any, Any]]] = {}

    def __post_init__(self) -> None:
        self.require(self.num_train_timesteps >= 1, "num_train_timesteps", "a positive integer, usually 1000")
        self.require(self.steps_offset >= 0, "steps_offset", "0 or more")

    def require(self, holds: bool, name: str, expected: str) -> None:
        """Raises ValueError that names the option, its value and what was expected, unless `holds`."""
        if not holds:
            raise ValueError(f"{name} is {getattr(self, name)!r}; expected {expected}.")


@dataclass(frozen=True, kw_only=True)
class ThresholdOptions(Options):
    """Dynamic thresholding of the predicted x0."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ratio = self.dynamic_thresholding_ratio
        self.require(0 <= ratio <= 1, "dynamic_thresholding_ratio", "a number from 0 to 1, such as 0.995")
        self.require(self.sample_max_value > 0, "sample_max_value", "a number above 0")


@dataclass(frozen=True, kw_only=True)
class LimitOptions(ThresholdOptions):
    """Limits on the predicted x0: thresholding, or else clipping."""

    clip_sample: bool = True
    clip_sample_range: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.clip_sample_range > 0, "clip_sample_range", "a number above 0")


@dataclass(frozen=True, kw_only=True)
class SigmaOptions(Options):
    """Noise levels that do not follow timestep_spacing. At most one of the flags may be set."""

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None

    flags: ClassVar[tuple[str, ...]] = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen = [flag for flag in self.flags if getattr(self, flag)]
        if len(chosen) > 1:
            raise ValueError(
                f"{' and '.join(chosen)} contradict each other. Set at most one of {', '.join(self.flags)}."
            )
        for name in ("sigma_min", "sigma_max"):
            value = getattr(self, name)
            self.require(value is None or value > 0, name, "a number above 0, or null")


# Keys of diffusers' classes that are not among the samplers here, and of its older versions.
OTHER_KEYS = frozenset(
    (
        *("corrector_order", "flow_shift", "noise_sampler_seed", "original_inference_steps", "predictor_order", "rho"),
        *("sigma_data", "sigma_schedule", "snr_shift_scale", "tau_func", "tensor_format", "time_shift_type"),
        "timestep_scaling",
    )
)
# Keys that no scheduler reads any more though they say what the model predicts, with their harmless values.
RETIRED_KEYS: Mapping[str, Any] = {"predict_epsilon": True}

AnyOptions = TypeVar("AnyOptions", bound=Options)


def read_options(kind: type[AnyOptions], config: Mapping[str, Any], owner: str, foreign: Collection[str]) -> AnyOptions:
    """The options of a class from the mapping of a scheduler_config.json; `owner` is its name in errors.

    A key that is null, or not there, has the class's default. `foreign` are the keys of other schedulers.
    """
    hints = {field.name: hint for field, hint in zip(fields(kind), _hints(kind))}
    given = {}
    for name, value in config.items():
        if name in hints:
            value = kind.synonyms.get(name, {}).get(value, value) if isinstance(value, str) else value
            if value is not None:
                given[name] = _checked(owner, name, hints[name], value)
        elif not name.startswith("_"):
            _check_foreign(owner, name, value, hints, foreign)
    return kind(**given)


def _hints(kind: type[Options]) -> list[Any]:
    resolved = get_type_hints(kind)
    return [resolved[field.name] for field in fields(kind)]


def _check_foreign(owner: str, name: str, value: Any, hints: Mapping[str, Any], foreign: Collection[str]) -> None:
    if name in RETIRED_KEYS:
        if value not in (None, RETIRED_KEYS[name]):
            raise ValueError(
                f"{owner}: {name}={value!r} belongs to an old version of diffusers and is not read any more. "
                "Remove it and set prediction_type to what the model predicts (epsilon, v_prediction or sample)."
            )
    elif name not in foreign:
        near = difflib.get_close_matches(name, [*hints, *foreign], 1)
        hint = f" Perhaps you meant {near[0]}?" if near else ""
        raise ValueError(f"{owner} has no option {name!r}.{hint} Its options: {', '.join(hints)}.")


def _checked(owner: str, name: str, hint: Any, value: Any) -> Any:
    """`value` in the type of the field, or ValueError. Lists become tuples; whole numbers serve as floats."""
    accepted = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in accepted:
        if get_origin(kind) is Literal:
            if any(type(value) is type(choice) and value == choice for choice in get_args(kind)):
                return value
        elif get_origin(kind) is tuple:
            if isinstance(value, list | tuple):
                return tuple(_checked(owner, name, get_args(kind)[0], entry) for entry in value)
        elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif type(value) is kind:
            return value
    expected = ", ".join(_described(kind) for kind in accepted)
    raise ValueError(f"{owner}: {name}={value!r} is not supported. Supported: {expected}.")


def _described(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(repr(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list of {_described(get_args(kind)[0])}"
    names = {bool: "true, false", int: "an integer", float: "a number", str: "a string", type(None): "null"}
    return names[kind]
