"""Which checkpoint a run goes on from, and what changed in its settings since."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from flaxdream.training.checkpoint_files import advice
from flaxdream.training.checkpoints import latest_checkpoint
from flaxdream.weights.checkpoint import DamagedCheckpointError, listed_checkpoints, read_checkpoint

# Settings that leave the weights as they would be: names, places, what is drawn, logged and kept on the way.
_WITHOUT_NUMBERS = re.compile(
    "output_dir|cache_dir|revision|hub_.*|push_to_hub|report_to|logging_dir|tracker_project_name|checkpoint.*|"
    "resume_from_checkpoint|compilation_cache_dir|dataloader_num_workers|validation_.*|num_validation_images|"
    "skip_save_text_encoder|class_sampler|class_num_inference_steps|class_guidance_scale|class_negative_prompt|"
    "prior_generation_precision|sample_batch_size|fsdp|offload_.*|gradient_checkpointing.*|attention|cache_latents|latents_cache_dir|variant"
)


def find_checkpoint(output_dir: str | Path, resume_from_checkpoint: str | None) -> Path | None:
    """The checkpoint that --resume_from_checkpoint means: `latest`, a name in output_dir, or a path.

    None means to start from scratch: without the flag, and for `latest` where there is none yet, which is said.
    """
    folder = Path(output_dir).expanduser().absolute()
    if not resume_from_checkpoint:
        return None
    if resume_from_checkpoint == "latest":
        found = latest_checkpoint(folder)
        if found is None and jax.process_index() == 0:
            print(f"--resume_from_checkpoint latest: {folder} holds no checkpoint yet, so training starts from scratch")
        return found
    for path in (folder / resume_from_checkpoint, Path(resume_from_checkpoint).expanduser().absolute()):
        if path.is_dir() and path != folder:
            return _checked(path)
    raise ValueError(
        f"--resume_from_checkpoint {resume_from_checkpoint}: there is no such checkpoint. {listed_checkpoints(folder)}"
    )


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """A sentence for each setting that changes the numbers and is not what it was; both are configs as plain dicts.

    A setting that the saved config does not know is one of a later version, and was at its default.
    """
    found = []
    for field in current:
        before, now = _plain(saved.get(field)), _plain(current[field])
        if before != now and field in saved and not _WITHOUT_NUMBERS.fullmatch(field):
            found.append(f"--{field} was {_shown(before)} and is {_shown(now)}.")
    return found


def _checked(path: Path) -> Path:
    try:
        read_checkpoint(path)
    except DamagedCheckpointError as error:
        raise DamagedCheckpointError(f"{error}{advice(path)}") from error
    except ValueError as error:
        raise ValueError(f"--resume_from_checkpoint: {error} {listed_checkpoints(path)}") from error
    return path


def _plain(value: Any) -> Any:
    """The value as it comes back from JSON or YAML: tuples are lists there."""
    return json.loads(json.dumps(value, default=str))


def _shown(value: Any) -> str:
    return "not set" if value is None else value if isinstance(value, str) and value else json.dumps(value)
