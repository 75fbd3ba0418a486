"""A fine-tuning run from a row source to a finished folder; every recipe that trains a UNet ends here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from flaxdream.arrays import Params
from flaxdream.config.training import TrainConfig
from flaxdream.config.training_checks import optimizer_name, optimizer_options
from flaxdream.config.yaml_file import write_yaml
from flaxdream.data.loader import Loader, LoaderSettings
from flaxdream.data.rows import RowSource
from flaxdream.training import loop
from flaxdream.training.checkpoints import Checkpoints
from flaxdream.training.interruption import Interruption
from flaxdream.training.learning_rate import Schedule, make_schedule, scaled_learning_rate, stop_step
from flaxdream.training.mesh import local_rows, param_shardings, replicated, to_devices
from flaxdream.training.optimizer import evaluation_params, make_optimizer
from flaxdream.training.recipes.batches import cache_context, cache_moments, cached_batches, live_batches
from flaxdream.training.recipes.finetuned_model import FinetunedModel, local_copy
from flaxdream.training.recipes.latent_diffusion import Objective, make_loss_of_rows
from flaxdream.training.recipes.previews import validation_requests
from flaxdream.training.recipes.publishing import publish
from flaxdream.training.report import write_report
from flaxdream.training.resume import differences, find_checkpoint
from flaxdream.training.run_pictures import remove_validations_after, write_thumbs, write_validation
from flaxdream.training.state_shardings import state_shardings
from flaxdream.training.step import Groups, State, init_state, make_train_step
from flaxdream.training.trackers import Trackers
from flaxdream.weights.model_dir import write_model_dir
from flaxdream.weights.tokenizer import tokenize

THUMBS = 12
# Settings that change the numbers of a run: a resume says when one of them is another.
NUMBERS = (
    "pretrained_model_name_or_path", "pretrained_vae_name_or_path", "resolution", "center_crop", "random_flip",
    "image_interpolation_mode", "seed", "train_batch_size", "gradient_accumulation_steps", "mixed_precision",
    "learning_rate", "scale_lr", "lr_scheduler", "lr_warmup_steps", "lr_num_cycles", "lr_power", "lr_step_rules",
    "max_train_steps", "num_train_epochs", "train_text_encoder", "text_encoder_lr", "stop_text_encoder_training",
    "optimizer", "use_8bit_adam", "adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay", "max_grad_norm",
    "snr_gamma", "debiased_estimation_loss", "loss_type", "huber_c", "huber_schedule", "noise_offset",
    "input_perturbation", "use_ema", "ema_decay", "with_prior_preservation", "prior_loss_weight", "instance_prompt",
    "class_prompt", "repeats",
)  # fmt: skip


def finetune(config: TrainConfig, model: FinetunedModel, source: RowSource, mesh: Mesh, steps: int) -> int:
    """Trains for `steps` optimizer steps and writes the result; returns the exit code (0, or that of a signal)."""
    folder = Path(config.output_dir)
    primary = jax.process_index() == 0
    if primary:
        folder.mkdir(parents=True, exist_ok=True)
        write_yaml(folder / "config.yaml", config)
    run = _Run(config, model, source, mesh, steps)
    found = find_checkpoint(folder, config.resume_from_checkpoint)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder, config.checkpoints_total_limit))
        interruption = stack.enter_context(Interruption())
        state, start = run.start_state(checkpoints, found)
        trackers = None
        if primary:
            remove_validations_after(folder, start if found else -1)
            trackers = stack.enter_context(_trackers(config, start if found else None))
        frozen, batches = run.inputs(start)
        progress = stack.enter_context(
            tqdm(total=steps, initial=start, desc="steps", disable=not primary, dynamic_ncols=True)
        )
        watch = _Watch(run, progress, trackers)

        def preview(step: int, state: State) -> None:
            pictures = model.pipeline.draw(run.drawing_params(state), run.requests, **run.drawing_options)
            if trackers is not None:
                write_validation(folder, step, pictures, run.requests)
                trackers.images(step, "validation", pictures, [request.prompt for request in run.requests])

        def stopped() -> bool:
            checkpoints.check()  # a save that failed in the background is said at once
            return interruption.requested()

        hooks = loop.Hooks(
            watch=watch,
            preview=preview,
            preview_due=run.preview_due,
            save=lambda step, state: checkpoints.save(step, state, run.extra()),
            save_due=run.save_due,
            stopped=stopped,
            last_good=lambda: str(checkpoints.latest() or "none"),
        )
        if run.requests and start == 0:
            preview(0, state)
        outcome = loop.run(run.compiled_step(), state, frozen, batches, start=start, stop=steps, hooks=hooks)
        checkpoints.wait()
    if outcome.stopped:
        if primary:
            print(f"stopped after step {outcome.step}; go on with --resume_from_checkpoint latest")
        return interruption.exit_code
    if primary:
        run.export(outcome.state)
        run.summarize(outcome, watch)
        write_report(folder)
        print(f"model and report in {folder}; open {folder / 'report.html'}")
        publish(config, folder, model.folder)
    return 0


class _Run:
    """What a run is made of, derived once from its config."""

    def __init__(self, config: TrainConfig, model: FinetunedModel, source: RowSource, mesh: Mesh, steps: int):
        self.config, self.model, self.source, self.mesh, self.steps = config, model, source, mesh, steps
        self.schedules = _schedules(config, list(model.trained), steps)
        self.optimizer = _optimizer(config, self.schedules, steps)
        self.ema = _ema_options(config) if config.use_ema else None
        self.requests = validation_requests(config)
        self.drawing_options = {"sampler": config.validation_scheduler, "progress": False}
        self.began = time.perf_counter()

    def start_state(self, checkpoints: Checkpoints, found: Path | None) -> tuple[State, int]:
        """The state to start from, sharded over the mesh: fresh, or that of a checkpoint."""
        shardings = self._shardings()
        if found is None:
            make = jax.jit(self._fresh, out_shardings=shardings)
            return make(self.model.trained), 0
        shapes = jax.eval_shape(self._fresh, self.model.trained)
        abstract = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
        )
        state, extra = checkpoints.restore(found, abstract)
        if jax.process_index() == 0:
            for line in differences(extra["config"], dataclasses.asdict(self.config), NUMBERS):
                print(f"resume: {line} The numbers differ from an unbroken run's.")
            if extra["data"] != self.fingerprint:
                print("resume: the pictures or captions are not those of the checkpoint; the order starts anew.")
            print(f"going on from {found}")
        return state, int(state["step"])

    def _fresh(self, trained: Params) -> State:
        ema = self.config.ema_dtype if self.config.use_ema else None
        return init_state(trained, self.optimizer, ema=ema, loss_scaling=self.config.mixed_precision == "fp16")

    def _shardings(self) -> Any:
        shapes = jax.eval_shape(self._fresh, self.model.trained)
        return state_shardings(shapes, param_shardings(self.model.trained, self.mesh))

    @property
    def fingerprint(self) -> str:
        return getattr(self.source, "fingerprint", "")

    def extra(self) -> dict[str, Any]:
        """What a checkpoint remembers beside the state."""
        return {"config": _json(dataclasses.asdict(self.config)), "data": self.fingerprint}

    def inputs(self, start: int) -> tuple[Params, Iterator[dict[str, jax.Array]]]:
        """What does not train, as the step gets it, and the batches from `start` on."""
        config, networks, frozen = self.config, self.model.networks, dict(self.model.frozen)
        loader = self._loader()
        self._thumbs(loader)
        ids = tokenize(self.model.pipeline.tokenizer, self.source.captions)
        whole = replicated(self.mesh)
        if config.train_text_encoder:
            frozen["ids"] = jax.device_put(ids, whole)
        else:
            text_params = local_copy(frozen.pop("text_encoder"), self.mesh)
            frozen["context"] = jax.device_put(cache_context(networks.text_encoder, text_params, ids), whole)
        if config.cache_latents == "no" or (config.cache_latents == "auto" and loader.augments):
            live = live_batches(loader, start, self.steps)
            return frozen, (to_devices(batch, self.mesh) for batch in live)
        if loader.augments:
            raise ValueError(
                "--cache_latents yes goes with pictures that look the same at every step: add --center_crop and leave "
                "--random_flip out, or use --cache_latents auto."
            )
        with tqdm(total=len(self.source), desc="latents", disable=jax.process_index() != 0) as bar:
            moments = cache_moments(networks.vae, local_copy(frozen.pop("vae"), self.mesh), loader, bar.update)
        cached = cached_batches(self.source, loader.local_rows, *moments, start, self.steps)
        return frozen, (to_devices(batch, self.mesh) for batch in cached)

    def _loader(self) -> Loader:
        config = self.config
        settings = LoaderSettings(
            (config.resolution, config.resolution),
            center_crop=config.center_crop,
            random_flip=config.random_flip,
            interpolation=config.image_interpolation_mode,
            skip_broken=config.skip_broken_images,
            num_workers=config.dataloader_num_workers,
        )
        return Loader(self.source, settings, local_rows=local_rows(self.mesh, self.source.batch_rows))

    def _thumbs(self, loader: Loader) -> None:
        if jax.process_index() != 0:
            return
        rows = {row.index: row.is_class for step in range(4) for row in self.source.rows(step)}
        for kind, is_class in (("instance", False), ("class", True)):
            chosen = sorted(index for index, flag in rows.items() if flag == is_class)[:THUMBS]
            if chosen:
                write_thumbs(self.config.output_dir, kind, [loader.picture(index).pixels for index in chosen])

    def compiled_step(self) -> Any:
        """The jitted step; the state is donated."""
        config, networks = self.config, self.model.networks
        objective = Objective(
            prediction_type=self.model.scheduler.get("prediction_type", "epsilon"),
            snr_gamma=config.snr_gamma,
            debiased_estimation_loss=config.debiased_estimation_loss,
            noise_offset=config.noise_offset,
            input_perturbation=config.input_perturbation,
            loss_type=config.loss_type,
            huber_c=config.huber_c,
            huber_schedule=config.huber_schedule,
        )
        loss = make_loss_of_rows(networks.unet, networks.vae, networks.text_encoder, self.model.scheduler, objective)
        groups: Groups | None = None
        if getattr(self.source, "has_class_rows", False):

            def groups(rows: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
                is_class = rows["is_class"].astype(jnp.float32)
                return {"instance": 1 - is_class, "prior": is_class}

        step = make_train_step(
            loss,
            self.optimizer,
            seed=config.seed,
            accumulation=config.gradient_accumulation_steps,
            ema=self.ema,
            groups=groups,
        )
        return jax.jit(step, donate_argnums=0, out_shardings=(self._shardings(), replicated(self.mesh)))

    def learning_rates(self, step: int) -> dict[str, float]:
        """The rates that step number `step` (from 1) ran at."""
        rates = {name: float(schedule(step - 1)) for name, schedule in self.schedules.items()}
        named = {"lr": rates["unet"]}
        if "text_encoder" in rates and self.config.text_encoder_lr is not None:
            named["lr_text_encoder"] = rates["text_encoder"]
        return named

    def preview_due(self, step: int) -> bool:
        every = self.config.validation_steps
        if self.config.validation_epochs is not None:
            every = self.config.validation_epochs * self.source.steps_per_epoch
        return bool(self.requests) and (step == self.steps or (every > 0 and step % every == 0))

    def save_due(self, step: int) -> bool:
        every = self.config.checkpointing_steps
        return every > 0 and step % every == 0

    def result(self, state: State) -> Params:
        """The parameters that the run is about: the average where there is one."""
        if self.ema is not None:
            return state["ema"].params
        return evaluation_params(state["opt_state"], state["params"])

    def drawing_params(self, state: State) -> Params:
        """All parameters that a picture needs, on every device of this host."""
        return local_copy({**self.model.frozen, **self.result(state)}, self.mesh)

    def export(self, state: State) -> None:
        """Writes the diffusers folder; what training did not touch is carried over."""
        params = jax.device_get(local_copy(self.result(state), self.mesh))
        if self.config.skip_save_text_encoder:
            params.pop("text_encoder", None)
        write_model_dir(self.config.output_dir, params=params, source=self.model.folder, variant=self.config.variant)

    def summarize(self, outcome: loop.Outcome, watch: _Watch) -> None:
        """Writes summary.json; the speed is that of the median step, so compiling and pictures are left out."""
        memory = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
        summary = {
            "steps": outcome.step,
            "seconds": round(outcome.seconds, 2),
            "total_seconds": round(time.perf_counter() - self.began, 2),
            "seconds_to_first_step": round(watch.first_step - self.began, 2) if watch.first_step else None,
            "images_per_second": round(statistics.median(watch.speeds), 3) if watch.speeds else None,
            "host_wait_share": round(outcome.data_seconds / max(outcome.seconds, 1e-9), 4),
            "peak_memory_bytes": max((peak for peak in memory if peak), default=None),
            "devices": jax.device_count(),
            "device_kind": jax.devices()[0].device_kind,
            "instance_prompts": list(self.source.captions)[:THUMBS],
        }
        known = {name: value for name, value in summary.items() if value is not None}
        (Path(self.config.output_dir) / "summary.json").write_text(json.dumps(known, indent=1), encoding="utf-8")


def _trackers(config: TrainConfig, resume_step: int | None) -> Trackers:
    return Trackers(
        config.report_to,
        config.output_dir,
        dataclasses.asdict(config),
        resume_step,
        logging_dir=config.logging_dir,
        project=config.tracker_project_name,
    )


class _Watch:
    """Metrics to the progress bar and the trackers."""

    def __init__(self, run: _Run, progress: tqdm, trackers: Trackers | None):
        self._run, self._progress, self._trackers = run, progress, trackers
        self._since = time.perf_counter()
        self.speeds: list[float] = []  # pictures a second, a step each
        self.first_step: float | None = None

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.perf_counter()
        speed = self._run.source.batch_rows / max(now - self._since, 1e-9)
        self._since = now
        self.first_step = self.first_step or now
        self.speeds.append(speed)
        self._progress.update()
        self._progress.set_postfix(loss=f"{metrics['loss']:.4f}", images_s=f"{speed:.2f}")
        if self._trackers is not None:
            self._trackers.log(step, {**metrics, **self._run.learning_rates(step), "images_per_second": speed})


def _schedules(config: TrainConfig, groups: list[str], steps: int) -> dict[str, Schedule]:
    scale = 1.0
    if config.scale_lr:
        scale = scaled_learning_rate(
            1.0, config.gradient_accumulation_steps, config.train_batch_size, jax.device_count()
        )
    rates = {name: config.learning_rate * scale for name in groups}
    if "text_encoder" in rates and config.text_encoder_lr is not None:
        rates["text_encoder"] = config.text_encoder_lr * scale
    return {
        name: make_schedule(
            config.lr_scheduler,
            rate,
            lr_warmup_steps=config.lr_warmup_steps,
            max_train_steps=steps,
            lr_num_cycles=config.lr_num_cycles,
            lr_power=config.lr_power,
            lr_step_rules=config.lr_step_rules,
            base_learning_rate=rates["unet"],
        )
        for name, rate in rates.items()
    }


def _optimizer(config: TrainConfig, schedules: dict[str, Schedule], steps: int) -> optax.GradientTransformation:
    name, options = optimizer_name(config), optimizer_options(config)
    assert name is not None
    stop = stop_step(config.stop_text_encoder_training, steps) if "text_encoder" in schedules else None
    stops = None if stop is None else {"text_encoder": stop}
    if name == "prodigy":  # one step size for all parameters
        return make_optimizer(name, schedules["unet"], max_grad_norm=config.max_grad_norm, stop_steps=stops, **options)
    if config.adam_weight_decay_text_encoder is not None and "text_encoder" in schedules:
        options["weight_decay"] = {
            "unet": options["weight_decay"], "text_encoder": config.adam_weight_decay_text_encoder,
        }  # fmt: skip
    return make_optimizer(name, schedules, max_grad_norm=config.max_grad_norm, stop_steps=stops, **options)


def _ema_options(config: TrainConfig) -> dict[str, Any]:
    return {
        "decay": config.ema_decay,
        "min_decay": config.ema_min_decay,
        "update_after_step": config.ema_update_after_step,
        "use_ema_warmup": config.ema_use_warmup,
        "inv_gamma": config.ema_inv_gamma,
        "power": config.ema_power,
    }


def total_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of the run: max_train_steps, else the epochs'."""
    return config.max_train_steps or math.ceil(config.num_train_epochs * steps_per_epoch)


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
