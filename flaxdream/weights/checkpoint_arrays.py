"""The arrays of a checkpoint through Orbax, each straight to its place and type; only those that are asked for."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from flaxdream.weights.checkpoint import DamagedCheckpointError, SavedCheckpoint, faults

LISTED = 6  # things of one kind that an error lists


def read_arrays(saved: SavedCheckpoint, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The named arrays, bit for bit where the type is the one that was saved.

    `wanted` holds arrays or ShapeDtypeStructs with the shapes that were saved; without a sharding an array goes to
    the first device. Raises DamagedCheckpointError when the files are not as they were written.
    """
    if found := faults(saved):
        raise DamagedCheckpointError(f"{saved.path} is damaged: {some(found)}.")
    orbax = import_orbax()
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or first)
        for name, leaf in wanted.items()
    }
    to = {
        name: orbax.ArrayRestoreArgs(dtype=shape.dtype, sharding=shape.sharding, global_shape=shape.shape)
        for name, shape in shapes.items()
    }
    arguments = orbax.args.PyTreeRestore(shapes, restore_args=to, partial_restore=True)
    try:
        with orbax.Checkpointer(array_handler(orbax)) as checkpointer:
            arrays = checkpointer.restore(saved.path, args=arguments)
    except Exception as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DamagedCheckpointError(f"{saved.path} could not be read: {reason[:300]}.") from error
    return {name: arrays[name] for name in wanted}


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


def some(items: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return ", ".join(items[:LISTED]) + more


def _is_no_lost_write(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not ("never retrieved" in message and "orbax" in message)


def _is_late_write(unraisable: sys.UnraisableHookArgs) -> bool:
    error = unraisable.exc_value
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed" and unraisable.object is None
