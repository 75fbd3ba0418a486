"""The arrays of a checkpoint: what they are called, whether they are those of a state, and how they are read.

A state is saved as a flat dict from leaf names (`params.unet.conv_in.kernel`, `opt_state.0.m...`) to arrays, so
that names, shapes and dtypes are compared before a byte is read, and that a part can be read alone.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from flaxdream.arrays import PyTree
from flaxdream.training import checkpoint_files as files

_LISTED = 6  # differences of each kind that an error lists


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves by their names, in the tree's order."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }
    assert len(leaves) == len(jax.tree.leaves(tree)), "two leaves have the same name"
    return leaves


def describe(arrays: Mapping[str, Any]) -> files.Arrays:
    """The shape and the dtype of each."""
    return {name: (tuple(array.shape), str(array.dtype)) for name, array in arrays.items()}


def refuse_unsavable(arrays: Mapping[str, Any]) -> None:
    """A ValueError that names the leaves that would not come back as they are."""
    wrong = [
        f"{name} is {_kind(leaf)}"
        for name, leaf in arrays.items()
        if not isinstance(leaf, jax.Array) or leaf.weak_type or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
    ]
    if wrong:
        raise ValueError(
            f"a training state holds jax.Arrays of numbers with a dtype of their own, but {_some(wrong)}. "
            "Make them with jnp.asarray(value, dtype)."
        )


def restore_checkpoint(
    path: str | Path, abstract_state: PyTree, *, partial: bool = False
) -> tuple[PyTree, dict[str, Any]]:
    """The state as it was saved, bit for bit, and its `extra`.

    `abstract_state` has the structure of the state, with arrays or ShapeDtypeStructs that have the shardings wanted,
    whatever those of the saved arrays were; without a sharding an array goes to the first device. With
    `partial` it may be a part, `{"params": shapes}` say, and the rest is not read.
    """
    path = Path(path).expanduser().absolute()
    wanted = named_leaves(abstract_state)
    try:
        saved = files.read_checkpoint(path)
        if faults := files.faults(saved):
            raise files.DamagedCheckpointError(f"{path} is damaged: {_some(faults)}.")
        if differences := _differences(saved.arrays, describe(wanted), partial):
            lines = "\n".join(f"  {line}" for line in differences)
            raise ValueError(
                f"{path} does not fit this run:\n{lines}\nResume with the settings that wrote it (what is trained, "
                "the optimizer, --use_ema, --mixed_precision), or start anew without --resume_from_checkpoint."
            )
        arrays = _read(path, wanted)
    except files.DamagedCheckpointError as error:
        raise files.DamagedCheckpointError(f"{error}{files.advice(path)}") from error
    return jax.tree.unflatten(jax.tree.structure(abstract_state), arrays.values()), saved.extra


@functools.cache
def import_orbax() -> Any:
    """orbax.checkpoint, imported when first needed (0.8 s), and without its lines in the user's terminal.

    When a write fails, that is its log, and what becomes of the other writes: the failure is raised by the save.
    """
    import orbax.checkpoint

    logging.getLogger("absl").addFilter(lambda record: "orbax" not in Path(record.pathname).parts)
    logging.getLogger("asyncio").addFilter(_is_no_lost_write)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None if _is_late_write(unraisable) else hook(unraisable)
    return orbax.checkpoint


def array_handler(orbax: Any) -> Any:
    """What writes and reads the flat dict.

    Not compressed: zstd takes four times as long, for 7 % less on the disk. And each shard is taken whole from one
    device; cut into parts from all devices that have it, a replicated state would need a compilation for each
    shape and part, and memory for the parts, at the first save.
    """
    kinds = orbax.type_handlers
    registry = kinds.create_type_handler_registry((jax.Array, kinds.ArrayHandler(use_replica_parallel=False)))
    return orbax.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)


def _is_no_lost_write(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not ("never retrieved" in message and "orbax" in message)


def _is_late_write(unraisable: sys.UnraisableHookArgs) -> bool:
    error = unraisable.exc_value
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed" and unraisable.object is None


def _read(path: Path, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
    orbax = import_orbax()
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or first)
        for name, leaf in wanted.items()
    }
    to = {
        name: orbax.ArrayRestoreArgs(sharding=shape.sharding, global_shape=shape.shape)
        for name, shape in shapes.items()
    }
    arguments = orbax.args.PyTreeRestore(shapes, restore_args=to, partial_restore=True)
    try:
        with orbax.Checkpointer(array_handler(orbax)) as checkpointer:
            arrays = checkpointer.restore(path, args=arguments)
    except Exception as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise files.DamagedCheckpointError(f"{path} could not be read: {reason[:300]}.") from error
    return {name: arrays[name] for name in wanted}


def _differences(saved: files.Arrays, wanted: files.Arrays, partial: bool) -> list[str]:
    """A line for each way in which the arrays are not the same."""
    missing = _in_groups(wanted.keys() - saved.keys(), saved)
    unused = [] if partial else _in_groups(saved.keys() - wanted.keys(), wanted)
    changed = [name for name in wanted if name in saved and saved[name] != wanted[name]]
    lines = [f"this run has, and the checkpoint has not: {_some(missing)}"] if missing else []
    lines += [f"the checkpoint has, and this run has not: {_some(unused)}"] if unused else []
    lines += [
        f"{name} was saved as {_text(saved[name])} and is {_text(wanted[name])} here" for name in changed[:_LISTED]
    ]
    return lines + ([f"and {len(changed) - _LISTED} more of another shape or dtype"] if len(changed) > _LISTED else [])


def _in_groups(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The names, but the root alone of a whole tree of which the others have nothing."""
    theirs = {prefix for other in others for prefix in _prefixes(other)}
    counts: dict[str, int] = {}
    for name in sorted(names):
        root = next((prefix for prefix in _prefixes(name) if prefix not in theirs), name)
        counts[root] = counts.get(root, 0) + 1
    return [root if count == 1 else f"{root} ({count} arrays)" for root, count in counts.items()]


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _text(array: tuple[tuple[int, ...], str]) -> str:
    shape, dtype = array
    return f"{dtype}[{','.join(map(str, shape))}]"


def _kind(leaf: Any) -> str:
    if not isinstance(leaf, jax.Array):
        return f"a {type(leaf).__name__}"
    return f"a weakly typed {leaf.dtype}" if leaf.weak_type else f"a {leaf.dtype}"


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more
