"""A training checkpoint read as a model: what trained comes from it, the rest from the model that the run started from.

The manifest's `extra` tells of the run: `config` its settings, and `model_folder` where that model lay.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from flaxdream.arrays import Params, Shapes
from flaxdream.weights import hub, names
from flaxdream.weights.checkpoint import (
    MANIFEST,
    NAME,
    DamagedCheckpointError,
    SavedCheckpoint,
    list_checkpoints,
    listed_checkpoints,
    read_checkpoint,
    whole_one_beside,
)
from flaxdream.weights.checkpoint_arrays import read_arrays, some
from flaxdream.weights.model_dir import NEEDED, ModelDir, read_model_dir
from flaxdream.weights.params import Placement, placement
from flaxdream.weights.replace import INDEX

_UNFINISHED = re.compile(r"\.(checkpoint-\d+)\.(writing|replaced|removed).*")


@dataclass(frozen=True)
class CheckpointModel(ModelDir):
    """The model that a run would have written at a checkpoint. `path` is the folder of the model it started from."""

    saved: SavedCheckpoint
    use_ema: bool = True

    @property
    def trained(self) -> tuple[str, ...]:
        """The components whose parameters are in the checkpoint."""
        return trained_components(self.saved)

    @property
    def changed_configs(self) -> dict[str, dict[str, Any]]:
        """The configs that the run would write otherwise than the starting model has them."""
        return {"scheduler": self.configs["scheduler"]} if self.saved.extra["config"].get("prediction_type") else {}

    @property
    def has_ema(self) -> bool:
        """Whether the run keeps a moving average of what trains."""
        return any(name.startswith("ema.params.") for name in self.saved.arrays)

    def read_params(
        self,
        component: str,
        shapes: Shapes,
        *,
        dtype: Any = None,
        sharding: Placement = None,
        variant: str | None = None,
    ) -> Params:
        """The parameters of one component, as those of a model folder; the optimizer's state is not read.

        Of what trained it is the moving average where the run keeps one and `use_ema` is set, or schedule_free's
        average, else what trained itself.
        """
        if component not in self.trained:
            return super().read_params(component, shapes, dtype=dtype, sharding=sharding, variant=variant)
        root, free = self._roots(component)
        if free is None:
            return self._read(root, shapes, dtype, sharding)
        y_tree, z_tree = (self._read(name, shapes, jnp.float32, sharding) for name in (root, f"{free}.z"))
        b1 = float(read_arrays(self.saved, {f"{free}.b1": jax.ShapeDtypeStruct((), jnp.float32)})[f"{free}.b1"])
        # x, the average of all z; twin: optax.contrib.schedule_free_eval_params
        return jax.tree.map(
            lambda y, z, leaf: ((y - (1.0 - b1) * z) / b1).astype(dtype or leaf.dtype), y_tree, z_tree, shapes
        )

    def saved_shapes(self, component: str, shapes: Shapes) -> Shapes:
        """The shapes of a component in the types in which the run would write it; what did not train keeps its own."""
        root, free = self._roots(component)

        def typed(path: str, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            kind = self.saved.arrays.get(f"{root}.{path}", (None, leaf.dtype))[1]
            return jax.ShapeDtypeStruct(leaf.shape, jnp.float32 if free else jnp.dtype(kind))

        return names.nested({path: typed(path, leaf) for path, leaf in names.leaves(shapes)})

    def _roots(self, component: str) -> tuple[str, str | None]:
        """What the arrays of a component's parameters begin with; with schedule_free also its state's."""
        if self.has_ema and self.use_ema:
            return f"ema.params.{component}", None
        free = f"opt_state.rules.{component}"
        return f"params.{component}", free if f"{free}.b1" in self.saved.arrays else None

    def _read(self, root: str, shapes: Shapes, dtype: Any, sharding: Placement) -> Params:
        """The arrays under `root` as a tree like `shapes`, of the types there or `dtype`.

        Whole branches of which there is nothing (a VAE's encoder that did not train) are the starting model's.
        """
        expected = dict(names.leaves(shapes))
        saved = {n.removeprefix(f"{root}."): a for n, a in self.saved.arrays.items() if n.startswith(f"{root}.")}
        branches = {path.partition(".")[0] for path in saved}
        wanted_here = {path: leaf for path, leaf in expected.items() if path.partition(".")[0] in branches}
        wrong = [
            f"{path} {list(leaf.shape)}"
            for path, leaf in wanted_here.items()
            if saved.get(path, ((), ""))[0] != leaf.shape
        ]
        if wrong or saved.keys() - expected.keys():
            unlike = f"has no {root} with {some(wrong)}" if wrong else f"has more in {root}"
            raise ValueError(
                f"{self.saved.path} was not trained from the model in {self.path}: it {unlike}. Give the model that "
                f"the training started from: {self.saved.extra['config']['pretrained_model_name_or_path']}."
            )
        place = placement(sharding)
        wanted = {
            f"{root}.{path}": jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype or leaf.dtype), sharding=place(path))
            for path, leaf in wanted_here.items()
        }
        try:
            arrays = read_arrays(self.saved, wanted)
        except DamagedCheckpointError as error:
            other = whole_one_beside(self.saved.path)
            advice = f" Whole, and the newest but this one, is {other}." if other else ""
            raise DamagedCheckpointError(f"{error}{advice}") from error
        for name, array in arrays.items():
            if array.dtype == jnp.float16 and not bool(jnp.isfinite(array).all()):
                raise ValueError(f"{name} has values too large for float16; read it as bfloat16 or float32.")
        found = {path: arrays[f"{root}.{path}"] for path in wanted_here}
        if len(found) < len(expected):
            own = super().read_params(root.rpartition(".")[2], shapes, dtype=dtype, sharding=sharding)
            found = dict(names.leaves(own)) | found
        return names.nested({path: found[path] for path in expected})


def trained_components(saved: SavedCheckpoint) -> tuple[str, ...]:
    """The components whose parameters are in a checkpoint."""
    return tuple(sorted({name.split(".")[1] for name in saved.arrays if name.startswith("params.")}))


def find_checkpoint(source: str | Path) -> SavedCheckpoint | None:
    """The checkpoint that `source` is; None for a model folder or a Hub id.

    Raises ValueError for what is named like a checkpoint and is none, with those that are there.
    """
    path = Path(source).expanduser()
    if (path / MANIFEST).is_file():
        return read_checkpoint(path.absolute())
    there = listed_checkpoints(path.absolute().parent)
    if _UNFINISHED.fullmatch(path.name):
        raise ValueError(f"{path} is not a finished checkpoint. {there}")
    if not NAME.fullmatch(path.name) or (path / INDEX).is_file():
        return None
    if path.is_dir():
        raise ValueError(f"{path} is no checkpoint of flaxdream: it has no {MANIFEST}. {there}")
    if list_checkpoints(path.absolute().parent) or path.is_absolute():
        raise ValueError(f"{path}: there is no such checkpoint. {there}")
    return None


def checkpoint_model(
    saved: SavedCheckpoint,
    *,
    starting_model: str | None = None,
    needed: Collection[str] = NEEDED,
    components: Collection[str] | None = None,
    use_ema: bool = True,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> CheckpointModel:
    """The model of a checkpoint, with what did not train from the run's starting model.

    `starting_model` is another place of that one. Of a Hub model `components` are downloaded where they are not in
    the cache. Raises ValueError that says where it was expected.
    """
    where = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only, "components": components}
    folder = _starting_folder(saved, starting_model, where)
    config: Mapping[str, Any] = saved.extra["config"]
    given = {"vae": config.get("pretrained_vae_name_or_path"), "tokenizer": config.get("tokenizer_name")}
    places: dict[str, Any] = {
        "token": token,
        "cache_dir": cache_dir or config.get("cache_dir"),
        "local_files_only": local_files_only,
    }
    replaced = {
        name: hub.component_folder(source, name, **places) for name, source in given.items() if source is not None
    }
    model = read_model_dir(folder, needed, replaced)
    configs = dict(model.configs)
    if prediction_type := config.get("prediction_type"):
        configs["scheduler"] = configs["scheduler"] | {"prediction_type": prediction_type}
    return CheckpointModel(model.path, model.index, configs, model.needed, replaced, saved, use_ema)


def _starting_folder(saved: SavedCheckpoint, given: str | None, where: dict[str, Any]) -> Path:
    config: Mapping[str, Any] = saved.extra["config"]
    where |= {"variant": config.get("variant"), "cache_dir": where["cache_dir"] or config.get("cache_dir")}
    if given is not None:
        return hub.model_folder(given, **where)
    name, recorded = config["pretrained_model_name_or_path"], saved.extra.get("model_folder")
    if recorded is None:
        return hub.model_folder(name, revision=config.get("revision"), **where)
    folder = Path(recorded)
    if (folder / INDEX).is_file():
        return folder
    elsewhere = (
        f"If it is elsewhere now: flaxdream export --checkpoint {saved.path} --pretrained_model_name_or_path PLACE "
        "--output_dir NEW_FOLDER"
    )
    if folder.parent.name != "snapshots":  # of the Hub's cache; the folder's name is the commit
        raise ValueError(
            f"{saved.path} holds what was trained; the rest is in the model that the training started from, and "
            f"{folder} is gone ({name!r} in its settings). {elsewhere}"
        )
    try:
        return hub.model_folder(name, revision=folder.name, **where)
    except ValueError as error:
        raise ValueError(
            f"{saved.path} was trained from {name}, which is no longer in {folder}: {error} {elsewhere}"
        ) from error
