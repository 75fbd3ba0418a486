"""A run from its task to a finished folder; every recipe ends here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from flaxdream.arrays import Params
from flaxdream.config.run import RunConfig
from flaxdream.config.yaml_file import write_yaml
from flaxdream.data.rows import RowSource
from flaxdream.data.streamed import StreamedRows
from flaxdream.planning.told_step import ToldStep
from flaxdream.training import loop
from flaxdream.training.checkpoints import Checkpoints
from flaxdream.training.interruption import Interruption
from flaxdream.training.mesh import param_shardings, replicated
from flaxdream.training.optimizer import evaluation_params
from flaxdream.training.recipes import stream_places
from flaxdream.training.recipes.finetuned_model import DTYPES, give_up, local_copy, on_host
from flaxdream.training.recipes.held_out import HeldOut
from flaxdream.training.recipes.optimization import ema_options, optimizer, schedules
from flaxdream.training.recipes.publishing import publish
from flaxdream.training.recipes.step_inputs import abstract, as_they_lie
from flaxdream.training.recipes.task import Task
from flaxdream.training.recipes.watching import Watch, progress_bar
from flaxdream.training.report import write_report
from flaxdream.training.resume import differences, find_checkpoint, in_saved_types, in_types
from flaxdream.training.run_pictures import remove_validations_after, write_thumbs, write_validation
from flaxdream.training.state_shardings import in_host_memory, state_shardings
from flaxdream.training.step import State, init_state, make_train_step
from flaxdream.training.trackers import Trackers
from flaxdream.training.whole_params import WholeParams


def run(task: Task) -> int:
    """Trains to the end and writes the result; returns the exit code (0, or that of a signal)."""
    config, began = task.config, time.perf_counter()
    folder = Path(config.output_dir)
    primary = jax.process_index() == 0
    if primary:
        folder.mkdir(parents=True, exist_ok=True)
        write_yaml(folder / "config.yaml", config)
    state_of = RunState(task)
    found = find_checkpoint(folder, config.resume_from_checkpoint)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder, config.checkpoints_total_limit))
        interruption = stack.enter_context(Interruption())
        state, start = state_of.start(checkpoints, found)
        trackers = None
        if primary:
            remove_validations_after(folder, start if found else -1)
            trackers = stack.enter_context(_trackers(config, start if found else None))
            for kind, pixels in task.examples().items():
                write_thumbs(folder, kind, pixels)
        step = ToldStep(state_of.compiled_step(), lambda table: watch.say(table))
        if start < task.steps and (shapes := task.input_shapes(start)) is not None:
            step.compile_ahead(state, *shapes)
        frozen, batches = task.inputs(start)
        progress = stack.enter_context(progress_bar(start, task.steps))
        watch = Watch(config, task.source.batch_rows, state_of.schedules, progress, trackers, began)
        held_out = HeldOut(task, state_of.for_use, watch, start)

        def preview(step: int, state: State) -> None:
            watch.busy("drawing validation pictures")
            pictures = task.pictures(state_of.for_use(state))
            if trackers is not None:
                write_validation(folder, step, pictures, task.requests)
                trackers.images(step, "validation", pictures, [request.prompt for request in task.requests])

        def stopped() -> bool:
            checkpoints.check()  # a save that failed in the background is said at once
            return interruption.requested()

        hooks = loop.Hooks(
            watch=watch,
            preview=preview,
            preview_due=lambda step: bool(task.requests) and (held_out.ended or validation_due(task, step)),
            evaluate=held_out,
            evaluate_due=held_out.due,
            save=lambda step, state: checkpoints.save(step, state, state_of.extra(step)),
            save_due=lambda step: config.checkpointing_steps > 0 and step % config.checkpointing_steps == 0,
            stopped=stopped,
            last_good=lambda: str(checkpoints.latest() or "none"),
        )
        if start == 0:
            if held_out.due(0):
                held_out(0, state)
            if task.requests:
                preview(0, state)
        if start < task.steps:
            watch.busy("compiling")
        outcome = loop.run(step, state, frozen, batches, start=start, stop=task.steps, hooks=hooks)
        checkpoints.wait()
    if outcome.stopped:
        if primary:
            print(f"stopped after step {outcome.step}; go on with --resume_from_checkpoint latest")
        return interruption.exit_code
    result = on_host(state_of.result(outcome.state), task.mesh)  # every process takes part
    if primary:
        try:
            task.export(result)
        except OSError as error:
            error.add_note(
                "The training is complete and saved: with --resume_from_checkpoint latest only the model is written."
            )
            raise
        summary = watch.summary(outcome) | held_out.summary() | task.summary()
        (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        write_report(folder)
        print(f"model and report in {folder}; open {folder / 'report.html'}")
        publish(config, folder, task.model_folder)
    return 0


def total_steps(config: RunConfig, source: RowSource) -> int:
    """Optimizer steps of the run: max_train_steps, else the epochs'."""
    return config.max_train_steps or math.ceil(config.num_train_epochs * source.steps_per_epoch)


def validation_due(task: Task, step: int) -> bool:
    """Whether the step is one after which the model is looked at; the last one is."""
    if step == task.steps:
        return True
    every = task.config.validation_every(lambda: task.source.steps_per_epoch)
    return every > 0 and step % every == 0


class RunState:
    """The state of a run: where it comes from, where it lies, and the step that changes it."""

    def __init__(self, task: Task):
        self.task, self.config = task, task.config
        self._trained = as_they_lie(task.trained)
        self.schedules = schedules(self.config, list(task.trained), task.steps)
        self.optimizer = optimizer(self.config, self.schedules, task.steps)
        self.ema = ema_options(self.config)

    def start(self, checkpoints: Checkpoints, found: Path | None) -> tuple[State, int]:
        """The state to start from, sharded over the mesh: fresh, or that of a checkpoint.

        The task's `trained` are given up: they become part of the state, or that of the checkpoint takes their place.
        """
        if found is None:
            return jax.jit(self._fresh, donate_argnums=0, out_shardings=self._shardings())(self.task.trained), 0
        give_up(self.task.trained)
        wanted = self.abstract()
        saved = wanted | {"params": in_saved_types(found, wanted["params"])}
        state, extra = checkpoints.restore(found, saved)
        state |= {"params": in_types(state["params"], wanted["params"])}
        if jax.process_index() == 0:
            for line in differences(extra["config"], dataclasses.asdict(self.config)):
                print(f"resume: {line} The numbers differ from an unbroken run's.")
            if extra["data"] != self._fingerprint:
                print("resume: the pictures or captions are not those of the checkpoint; the order starts anew.")
            print(f"going on from {found}")
        stream_places.go_on(self.task.source, extra.get("stream"))
        return state, int(state["step"])

    def abstract(self) -> State:
        """The state's shapes, types and places, without an array."""
        shapes = jax.eval_shape(self._fresh, self._trained)
        return jax.tree.map(abstract, shapes, self._shardings())

    def extra(self, step: int) -> dict[str, Any]:
        """What a checkpoint after `step` steps remembers beside the state. All processes take part."""
        folder = str(self.task.model_folder.absolute())  # an export takes from there what did not train
        about = {"config": _json(dataclasses.asdict(self.config)), "data": self._fingerprint, "model_folder": folder}
        if isinstance(self.task.source, StreamedRows):
            about["stream"] = stream_places.of_all_hosts(self.task.source, step)
        return about

    def compiled_step(self) -> Any:
        """The jitted step; the state is donated."""
        here = self._shardings(offload=False)
        step = make_train_step(
            self.task.loss_of_rows(),
            self.optimizer,
            seed=self.config.seed,
            accumulation=self.config.gradient_accumulation_steps,
            ema=self.ema,
            groups=self.task.groups(),
            whole=WholeParams(here["params"], DTYPES[self.config.mixed_precision]) if self.config.fsdp > 1 else None,
        )

        def on_device(state: State, frozen: Params, batch: Any) -> Any:
            return step(jax.device_put(state, here), frozen, batch)

        offloads = self.config.offload_ema or self.config.offload_optimizer
        return jax.jit(
            on_device if offloads else step,
            donate_argnums=0,
            out_shardings=(self._shardings(), replicated(self.task.mesh)),
        )

    def result(self, state: State) -> Params:
        """The parameters that the run is about: the average where there is one."""
        return state["ema"].params if "ema" in state else evaluation_params(state["opt_state"], state["params"])

    def for_use(self, state: State) -> Params:
        """The result, whole on every device of this host."""
        return local_copy(self.result(state), self.task.mesh)

    @property
    def _fingerprint(self) -> str:
        return getattr(self.task.source, "fingerprint", "")

    def _fresh(self, trained: Params) -> State:
        ema = self.config.ema_dtype if self.config.use_ema else None
        return init_state(trained, self.optimizer, ema=ema, loss_scaling=self.config.mixed_precision == "fp16")

    def _shardings(self, *, offload: bool = True) -> Any:
        """Where the state lies between steps, or with `offload=False` during one."""
        shapes = jax.eval_shape(self._fresh, self._trained)
        places = state_shardings(shapes, param_shardings(self._trained, self.task.mesh))
        parts = {"ema": self.config.offload_ema, "opt_state": self.config.offload_optimizer}
        moved = [name for name, wanted in parts.items() if wanted and offload and name in places]
        return places | {name: in_host_memory(places[name]) for name in moved}


@contextlib.contextmanager
def _trackers(config: RunConfig, resume_step: int | None) -> Iterator[Trackers]:
    with Trackers(
        config.report_to,
        config.output_dir,
        dataclasses.asdict(config),
        resume_step,
        logging_dir=config.logging_dir,
        project=config.tracker_project_name,
    ) as trackers:
        yield trackers


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
