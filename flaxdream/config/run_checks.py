"""What is wrong with the settings that all trainings share, and what is only odd."""

from __future__ import annotations

from typing import Any

from flaxdream.config.checks import LARGEST_SEED, below, nearest_multiple, not_above_zero, outside, suggestion
from flaxdream.config.run import RunConfig

OPTIMIZERS = ("adamw", "adamw8bit", "adam", "adafactor", "lion", "prodigy", "schedule_free", "sgd")
OPTIMIZER_ALIASES = {"adamw_8bit": "adamw8bit", "adamwschedulefree": "schedule_free", "schedulefree": "schedule_free"}
ADAM_FIELDS = ("adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay")
WITH_ADAM_FIELDS = ("adamw", "adamw8bit", "adam", "prodigy", "schedule_free")
PRODIGY_FIELDS = (
    "prodigy_beta3", "prodigy_decouple", "prodigy_use_bias_correction", "prodigy_safeguard_warmup", "prodigy_d0",
    "prodigy_d_coef",
)  # fmt: skip
RESOLUTION_STEP = 8  # the VAE's; the UNet copes with every size that is a multiple of it


def optimizer_name(config: RunConfig) -> str | None:
    """The optimizer's one name, None if it is unknown."""
    name = config.optimizer.lower().replace("-", "_")
    name = OPTIMIZER_ALIASES.get(name, name)
    if config.use_8bit_adam and name in ("adamw", "adamw8bit"):
        return "adamw8bit"
    return name if name in OPTIMIZERS and not config.use_8bit_adam else None


def optimizer_options(config: RunConfig) -> dict[str, Any]:
    """The options of `make_optimizer` for this optimizer, weight_decay included; what it lacks keeps its default."""
    name = optimizer_name(config)
    options: dict[str, Any] = {}
    if name in WITH_ADAM_FIELDS:
        options = {"beta1": config.adam_beta1, "beta2": config.adam_beta2, "eps": config.adam_epsilon}
        if name != "adam":
            options["weight_decay"] = config.adam_weight_decay
    if name == "prodigy":
        options |= {field: getattr(config, field) for field in PRODIGY_FIELDS}
    return options | dict(map(_option, config.optimizer_args))


def run_problems(config: RunConfig) -> list[str]:
    """Everything wrong with the settings of a run, whatever it trains."""
    problems = []
    if not config.pretrained_model_name_or_path:
        problems.append("--pretrained_model_name_or_path is missing: a model folder or a Hub id.")
    if not config.output_dir:
        problems.append("--output_dir is empty: name the folder for the result.")
    if config.resolution < RESOLUTION_STEP or config.resolution % RESOLUTION_STEP:
        problems.append(
            f"--resolution {config.resolution} is not a positive multiple of {RESOLUTION_STEP}; "
            f"nearest: {nearest_multiple(config.resolution, RESOLUTION_STEP)}."
        )
    return (
        problems + _number_problems(config) + _rate_problems(config) + _optimizer_problems(config) + _odd_ones(config)
    )


def batch_problems(config: RunConfig, devices: int) -> list[str]:
    """What does not fit the number of devices."""
    if config.fsdp >= 1 and devices % config.fsdp:
        fitting = [str(n) for n in range(1, devices + 1) if devices % n == 0]
        return [f"--fsdp {config.fsdp} does not divide the {devices} devices. Those that fit: {', '.join(fitting)}."]
    return []


def run_notes(config: RunConfig) -> list[str]:
    """Settings that have no effect, or hardly the one that was meant."""
    notes = []
    if optimizer_name(config) == "prodigy" and config.learning_rate <= 0.1:
        notes.append(
            f"--learning_rate {config.learning_rate:g} multiplies prodigy's own step size, so the model will hardly "
            "learn; 1 is usual."
        )
    if config.lr_scheduler == "constant" and config.lr_warmup_steps not in (0, RunConfig.lr_warmup_steps):
        notes.append(
            f"--lr_warmup_steps {config.lr_warmup_steps} has no effect with --lr_scheduler constant, as in diffusers; "
            "constant_with_warmup has one."
        )
    if config.hub_model_id and not config.push_to_hub:
        notes.append("--hub_model_id without --push_to_hub: nothing is uploaded.")
    return notes


def _number_problems(config: RunConfig) -> list[str]:
    counts = (
        "train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_train_steps", "fsdp",
        "checkpoints_total_limit", "validation_steps", "validation_epochs", "lr_num_cycles",
    )  # fmt: skip
    not_negative = (
        "dataloader_num_workers", "lr_warmup_steps", "lr_power", "checkpointing_steps", "max_grad_norm",
        "adam_weight_decay", "learning_rate", "ema_update_after_step", "ema_power", "prodigy_d_coef",
    )  # fmt: skip
    problems = below(config, counts, 1) + below(config, not_negative, 0)
    problems += outside(config, ("adam_beta1", "adam_beta2", "prodigy_beta3", "ema_decay", "ema_min_decay"), 0, 1)
    problems += not_above_zero(config, ("adam_epsilon", "prodigy_d0", "ema_inv_gamma"))
    return problems + outside(config, ("seed",), 0, LARGEST_SEED)


def _rate_problems(config: RunConfig) -> list[str]:
    problems = []
    if (config.lr_scheduler == "piecewise_constant") != (config.lr_step_rules is not None):
        problems.append(
            f"--lr_scheduler {config.lr_scheduler} with --lr_step_rules {config.lr_step_rules}: piecewise_constant and "
            "rules such as '1:10,0.1:20,0.05' go together."
        )
    if config.lr_scheduler == "polynomial" and not config.learning_rate > 1e-7:
        problems.append(
            f"--learning_rate {config.learning_rate:g} must be above 1e-07, where --lr_scheduler polynomial ends."
        )
    return problems


def _optimizer_problems(config: RunConfig) -> list[str]:
    name = optimizer_name(config)
    problems = []
    if name is None and config.use_8bit_adam:
        problems.append(
            f"--use_8bit_adam goes with --optimizer adamw, not {config.optimizer!r}: leave one of them out."
        )
    elif name is None:
        problems.append(
            f"--optimizer {config.optimizer!r} is not known{suggestion(config.optimizer.lower(), OPTIMIZERS)}. "
            f"Known: {', '.join(OPTIMIZERS)}."
        )
    for text in config.optimizer_args:
        try:
            _option(text)
        except ValueError as error:
            problems.append(str(error))
    changed = [field for field in ADAM_FIELDS if getattr(config, field) != getattr(RunConfig, field)]
    changed = [field for field in changed if name == "adam" and field == "adam_weight_decay"] + (
        changed if name is not None and name not in WITH_ADAM_FIELDS else []
    )
    if changed:
        problems.append(
            f"{' and '.join(f'--{field}' for field in changed)} cannot be used with --optimizer {name}: give its own "
            "options by --optimizer_args, such as weight_decay=0.01."
        )
    return problems


def _odd_ones(config: RunConfig) -> list[str]:
    """Settings that contradict each other."""
    problems = []
    if config.gradient_checkpointing and config.gradient_checkpointing_policy == "none":
        problems.append("--gradient_checkpointing with --gradient_checkpointing_policy none: keep one of them.")
    if config.use_ema and optimizer_name(config) == "schedule_free":
        problems.append(
            "--use_ema with --optimizer schedule_free, which averages the weights itself and writes that average: "
            "leave --use_ema out."
        )
    if config.ema_min_decay > config.ema_decay:
        problems.append(f"--ema_min_decay {config.ema_min_decay} must not be above --ema_decay {config.ema_decay}.")
    return problems


def _option(text: str) -> tuple[str, Any]:
    """name=value as a name with a number, a truth value or None."""
    name, equals, value = text.partition("=")
    words = {"true": True, "false": False, "none": None}
    if equals and name.isidentifier():
        if value.lower() in words:
            return name, words[value.lower()]
        try:
            return name, int(value) if value.lstrip("+-").isdigit() else float(value)
        except ValueError:
            pass
    raise ValueError(f"--optimizer_args {text!r} is not name=value with a number, true, false or none.")
