"""Which checkpoint a run goes on from, and what changed in its settings since."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from flaxdream.arrays import Params
from flaxdream.training.checkpoint_files import advice
from flaxdream.training.checkpoints import latest_checkpoint
from flaxdream.weights.checkpoint import DamagedCheckpointError, listed_checkpoints, read_checkpoint

# Settings that leave the weights as they would be: names, places, what is drawn, logged and kept on the way.
_WITHOUT_NUMBERS = re.compile(
    "output_dir|cache_dir|revision|hub_.*|push_to_hub|report_to|logging_dir|tracker_project_name|checkpoint.*|"
    "resume_from_checkpoint|compilation_cache_dir|fast_compile|dataloader_num_workers|validation_.*|"
    "num_validation_images|skip_save_text_encoder|class_sampler|class_num_inference_steps|class_guidance_scale|class_negative_prompt|"
    "prior_generation_precision|sample_batch_size|fsdp|offload_.*|gradient_checkpointing.*|attention|cache_latents|latents_cache_dir|"
    "vae_slicing|variant"
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


def in_saved_types(path: Path, params: Params) -> Params:
    """The shapes of what trains, each in the type that it has in the checkpoint, where that is float32 or bfloat16.

    So a run can go on with another params_dtype: what was read is then converted.
    """
    try:
        saved = read_checkpoint(path).arrays
    except DamagedCheckpointError:
        return params  # reading it says what is wrong

    def typed(keys: Any, leaf: Any) -> Any:
        _, name = saved.get("params." + jax.tree_util.keystr(keys, simple=True, separator="."), (None, None))
        dtype = jnp.dtype(name) if name in ("float32", "bfloat16") else leaf.dtype
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)

    return jax.tree.map_with_path(typed, params)


def in_types(params: Params, wanted: Params) -> Params:
    """The parameters in the types that are wanted, rounded to nearest where those are smaller."""
    if all(a.dtype == b.dtype for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(wanted), strict=True)):
        return params
    convert = jax.jit(
        lambda tree: jax.tree.map(lambda leaf, to: leaf.astype(to.dtype), tree, wanted),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, wanted),
    )
    return convert(params)


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
