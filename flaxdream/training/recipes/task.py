"""What a run needs to know of the thing that it trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from flaxdream.arrays import Params
from flaxdream.data.rows import RowSource
from flaxdream.sampling.pictures import Picture
from flaxdream.sampling.prompts import Request
from flaxdream.training.step import Groups, LossOfRows


class Task(Protocol):
    """A recipe hands one to `run.run`; all is made before the first step."""

    config: Any  # a RunConfig
    source: RowSource
    mesh: Mesh
    steps: int
    model_folder: Path  # of the model that the run starts from
    trained: Params  # a tree for each component, in the config's params_dtype, on the mesh; the run takes them over
    requests: list[Request]  # what `pictures` draws; none, no validation pictures

    def examples(self) -> dict[str, list[np.ndarray]]:
        """A dozen training pictures [H, W, 3] for the report, by kind: `instance`, `class`."""

    def input_shapes(self, start: int) -> tuple[Params, dict[str, Any]] | None:
        """What `inputs` will give, and its first batch, as ShapeDtypeStructs; None where only the data can tell."""

    def inputs(self, start: int) -> tuple[Params, Iterator[dict[str, jax.Array]]]:
        """What does not train, as the step gets it, and the batches from step `start` on."""

    def loss_of_rows(self) -> LossOfRows:
        """The loss for `make_train_step`."""

    def groups(self) -> Groups | None:
        """Groups of rows whose losses are logged apart."""

    def held_out_loss(self, params: Params) -> float | None:
        """The loss of `params` on pictures that are not trained on; None where there are none."""

    def pictures(self, params: Params) -> list[Picture]:
        """A picture for each of `requests`, drawn with the trained parameters `params`."""

    def export(self, params: Params) -> None:
        """Writes the result into the run's folder; `params` are on the host."""

    def summary(self) -> dict[str, Any]:
        """What summary.json says of the task."""
