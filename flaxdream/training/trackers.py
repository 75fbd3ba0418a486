"""Where a run's numbers and pictures go: metrics.jsonl always, TensorBoard and Weights & Biases if asked for.

A tracker that fails on the way (a full disk, a service that is gone) is named once and left out from then on: the
run goes on, and metrics.jsonl has every number.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flaxdream.config import SECRETS
from flaxdream.training.metrics_file import MetricsFile

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # tracker: the package that it needs
DEFAULT = "tensorboard"  # as in the diffusers scripts


class Tracker(Protocol):
    """What each tracker can take."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def images(self, step: int, name: str, pictures: Sequence[np.ndarray], captions: Sequence[str]) -> None: ...
    def close(self, failed: bool) -> None: ...


def tracker_names(report_to: str | None, hub_token: str | None = None) -> tuple[str, ...]:
    """The trackers that `--report_to` means: tensorboard, wandb, several with commas, all that are installed, none.

    None, the default, is TensorBoard where it is installed. Raises ValueError for an unknown name, for one that is
    given but not installed, and for W&B with a token on the command line, which it stores (as diffusers' scripts do).
    """
    names = _known_names(report_to)
    if "wandb" in names and hub_token and any(hub_token in argument for argument in sys.argv):
        raise ValueError(
            f"--report_to {report_to} and --hub_token: W&B stores the command line, and with it the token. "
            "Leave out --hub_token and log in with `hf auth login`."
        )
    return names


def _known_names(report_to: str | None) -> tuple[str, ...]:
    if report_to is None:
        return tuple(name for name in (DEFAULT,) if _installed(name))
    names = [name.strip().lower() for name in report_to.split(",") if name.strip()]
    unknown = [name for name in names if name not in PACKAGES and name not in ("all", "none")]
    if unknown or ("none" in names and len(set(names)) > 1):
        raise ValueError(
            f"--report_to {report_to!r} is not known. Expected {', '.join(PACKAGES)}, several of them with commas "
            "between, all (those that are installed) or none. metrics.jsonl is always written."
        )
    if "all" in names:
        return tuple(name for name in PACKAGES if _installed(name))
    wanted = tuple(dict.fromkeys(name for name in names if name != "none"))
    missing = [name for name in wanted if not _installed(name)]
    if missing:
        raise ValueError(
            f"--report_to {report_to!r} needs {' and '.join(PACKAGES[name] for name in missing)}, which is not "
            f"installed: pip install 'flaxdream[{','.join(missing)}]'  (or --report_to none)"
        )
    return wanted


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that may be shown and sent away."""
    return {name: value for name, value in config.items() if name not in SECRETS}


class Trackers:
    """metrics.jsonl in `folder`, and the trackers of `report_to`; made by the first process of a run alone.

    `config` is the run's flat settings. `resume_step` is the step of the checkpoint that the run goes on from, None
    for a fresh start; what was logged of later steps is removed (metrics.jsonl) or hidden (TensorBoard). In a `with`
    block an exception marks the run as failed.
    """

    def __init__(
        self,
        report_to: str | None,
        folder: str | Path,
        config: Mapping[str, Any],
        resume_step: int | None = None,
        *,
        logging_dir: str = "logs",
        project: str = "flaxdream",
        run_name: str | None = None,
    ):
        folder = Path(folder)
        names = tracker_names(report_to, config.get("hub_token"))
        if report_to is None and not names:
            _note("no TensorBoard logs, only metrics.jsonl. For them: pip install 'flaxdream[tensorboard]'")
        config, logs = without_secrets(config), folder / logging_dir
        self.metrics_file = MetricsFile(folder / "metrics.jsonl", resume_step)
        self._trackers: dict[str, Tracker] = {}
        if "tensorboard" in names:
            self._trackers["tensorboard"] = TensorBoard(logs, config, resume_step)
        if "wandb" in names:
            self._trackers["wandb"] = WeightsAndBiases(logs, config, resume_step, project, run_name)

    @property
    def names(self) -> tuple[str, ...]:
        """The trackers that are at work besides metrics.jsonl."""
        return tuple(self._trackers)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """The numbers of a step. They may come in several calls, as long as steps do not go back."""
        self.metrics_file.log(step, metrics)
        numbers = {name: float(value) for name, value in metrics.items()}
        self._each(lambda tracker: tracker.log(step, numbers))

    def images(self, step: int, name: str, pictures: Sequence[Any], captions: Sequence[str]) -> None:
        """Pictures (Pillow's, or uint8 arrays of height, width, colours), a caption each, under one name."""
        if len(pictures) != len(captions):
            raise ValueError(f"{len(pictures)} pictures cannot have {len(captions)} captions; give one for each.")
        arrays = [np.asarray(picture) for picture in pictures]
        self._each(lambda tracker: tracker.images(step, name, arrays, captions))

    def close(self, failed: bool = False) -> None:
        """Writes out what is left."""
        self._each(lambda tracker: tracker.close(failed))
        self._trackers.clear()
        self.metrics_file.close()

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                act(tracker)
            except Exception as error:
                del self._trackers[name]
                _note(f"{name} is left out from here on ({type(error).__name__}: {error}); metrics.jsonl goes on.")


class TensorBoard:
    """Event files that `tensorboard --logdir` shows, written in the calling thread.

    tensorboardX's SummaryWriter is not used: its queue blocks for ever once its thread has met a full disk.
    """

    FLUSH_SECONDS = 5.0

    def __init__(self, folder: Path, config: Mapping[str, Any], resume_step: int | None):
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._summary, self._protocol = summary, event_pb2
        folder.mkdir(parents=True, exist_ok=True)
        # The name has whole seconds: a restart within the same one would overwrite the file.
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns() % 10**9:09d}.{os.getpid()}")
        self._flushed = time.monotonic()
        first = 0 if resume_step is None else resume_step + 1
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # hides what is logged from `first` on
        self._writer.write_event(event_pb2.Event(wall_time=time.time(), step=first, session_log=start))
        self._add(resume_step or 0, summary.text("settings", _settings_table(config)))
        self._writer.flush()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._add(step, self._summary.scalar(name, value))
        if time.monotonic() - self._flushed > self.FLUSH_SECONDS:
            self._flush()

    def images(self, step: int, name: str, pictures: Sequence[np.ndarray], captions: Sequence[str]) -> None:
        for index, picture in enumerate(pictures):
            self._add(step, self._summary.image(f"{name}/{index:02d}", picture, dataformats="HWC"))
        lines = [f"{index:02d}  {_code(caption)}" for index, caption in enumerate(captions)]
        self._add(step, self._summary.text(f"{name}/captions", "  \n".join(lines)))
        self._flush()

    def close(self, failed: bool) -> None:
        self._writer.close()

    def _add(self, step: int, summary: Any) -> None:
        self._writer.write_event(self._protocol.Event(wall_time=time.time(), step=step, summary=summary))

    def _flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()


class WeightsAndBiases:
    """A run of wandb, online or, with WANDB_MODE=offline, in `folder` alone.

    Its id is kept in the folder, so that a resumed run is the same run; wandb leaves out steps that it has already,
    and those of a resumed run are equal.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], resume_step: int | None, project: str, run_name: str | None
    ):
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        remembered = folder / "wandb_run_id.txt"
        fresh = resume_step is None or not remembered.exists()
        run_id = secrets.token_hex(4) if fresh else remembered.read_text(encoding="utf-8").strip()
        remembered.write_text(run_id, encoding="utf-8")
        self._picture = wandb.Image
        self._run = wandb.init(
            project=project, name=run_name, dir=str(folder), config=dict(config), id=run_id, resume="allow"
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def images(self, step: int, name: str, pictures: Sequence[np.ndarray], captions: Sequence[str]) -> None:
        shown = [self._picture(picture, caption=caption) for picture, caption in zip(pictures, captions, strict=True)]
        self._run.log({name: shown}, step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def _installed(name: str) -> bool:
    """Whether the package can be imported; a folder `wandb` that some run left in the working directory is none."""
    spec = importlib.util.find_spec(PACKAGES[name])
    return spec is not None and spec.origin is not None


def _settings_table(config: Mapping[str, Any]) -> str:
    """Markdown, as TensorBoard's text page shows it."""
    shown = {name: _code(str(value)).replace("|", "\\|") for name, value in config.items()}  # a bare | ends a cell
    rows = "".join(f"| {name} | {value} |\n" for name, value in shown.items())
    return f"| setting | value |\n|---|---|\n{rows}"


def _code(text: str) -> str:
    """The text as it stands: in Markdown between marks that it does not contain."""
    plain = " ".join(text.split())
    marks = "``" if "`" in plain else "`"
    return f"{marks} {plain} {marks}" if plain else ""


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
