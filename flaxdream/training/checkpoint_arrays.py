"""A training state and the arrays of a checkpoint: what they are called, and whether they are those of the state.

A state is saved as a flat dict from leaf names (`params.unet.conv_in.kernel`, `opt_state.0.m...`) to arrays, so
that names, shapes and dtypes are compared before a byte is read, and that a part can be read alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from flaxdream.arrays import PyTree
from flaxdream.training.checkpoint_files import advice
from flaxdream.weights.checkpoint import Arrays, DamagedCheckpointError, read_checkpoint
from flaxdream.weights.checkpoint_arrays import LISTED, read_arrays, some


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves by their names, in the tree's order."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }
    assert len(leaves) == len(jax.tree.leaves(tree)), "two leaves have the same name"
    return leaves


def describe(arrays: Mapping[str, Any]) -> Arrays:
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
            f"a training state holds jax.Arrays of numbers with a dtype of their own, but {some(wrong)}. "
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
        saved = read_checkpoint(path)
        if differences := _differences(saved.arrays, describe(wanted), partial):
            lines = "\n".join(f"  {line}" for line in differences)
            raise ValueError(
                f"{path} does not fit this run:\n{lines}\nResume with the settings that wrote it (what is trained, "
                "the optimizer, --use_ema, --mixed_precision), or start anew without --resume_from_checkpoint."
            )
        arrays = read_arrays(saved, wanted)
    except DamagedCheckpointError as error:
        raise DamagedCheckpointError(f"{error}{advice(path)}") from error
    return jax.tree.unflatten(jax.tree.structure(abstract_state), arrays.values()), saved.extra


def _differences(saved: Arrays, wanted: Arrays, partial: bool) -> list[str]:
    """A line for each way in which the arrays are not the same."""
    missing = _in_groups(wanted.keys() - saved.keys(), saved)
    unused = [] if partial else _in_groups(saved.keys() - wanted.keys(), wanted)
    changed = [name for name in wanted if name in saved and saved[name] != wanted[name]]
    lines = [f"this run has, and the checkpoint has not: {some(missing)}"] if missing else []
    lines += [f"the checkpoint has, and this run has not: {some(unused)}"] if unused else []
    lines += [
        f"{name} was saved as {_text(saved[name])} and is {_text(wanted[name])} here" for name in changed[:LISTED]
    ]
    return lines + ([f"and {len(changed) - LISTED} more of another shape or dtype"] if len(changed) > LISTED else [])


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
