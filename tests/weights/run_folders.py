"""Folders of trainings with checkpoints, as `flaxdream dreambooth` leaves them, made without a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxdream.arrays import Params
from flaxdream.training.checkpoints import Checkpoints
from flaxdream.training.optimizer import evaluation_params, make_optimizer
from flaxdream.training.step import init_state


def trained_state(params: Mapping[str, Params], names: Sequence[str], ema: Any = None, optimizer: str = "adamw") -> Any:
    """A state whose arrays are all different, the average from the parameters too."""
    method = make_optimizer(optimizer, dict.fromkeys(names, lambda step: jnp.float32(0.1)))
    shapes = jax.eval_shape(
        lambda trained: init_state(trained, method, ema=ema), {name: params[name] for name in names}
    )
    draw = np.random.default_rng(1)

    def fill(path: Any, leaf: Any) -> jax.Array:
        is_b1 = jax.tree_util.keystr(path).endswith(".b1")  # of schedule_free: its own value
        values = np.full(leaf.shape, 0.9) if is_b1 else draw.standard_normal(leaf.shape)
        return jnp.asarray(values.astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(fill, shapes)


def result(state: Any) -> Params:
    """What a run with this state writes."""
    return state["ema"].params if "ema" in state else evaluation_params(state["opt_state"], state["params"])


def write_run(folder: Path, model: Path | str, states: Mapping[int, Any], **settings: Any) -> Path:
    """A run folder with these states as its checkpoints."""
    config = {"pretrained_model_name_or_path": str(model), "variant": None, "tokenizer_name": None} | settings
    with Checkpoints(folder) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"config": config, "data": "", "model_folder": str(Path(model).absolute())})
    return folder
