"""Our parameters' paths and layouts <-> the names and layouts of PyTorch files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flaxdream.arrays import Params, np

WEIGHT_LEAVES = ("kernel", "scale", "embedding")  # `weight` in files; every other leaf keeps its name

# CLIPTextModel files have this prefix, except those that transformers >= 5.6 writes; both kinds load everywhere.
CLIP_PREFIX = "text_model."
_CLIP_MARK = "embeddings.token_embedding"
_CLIP_ENCODER = re.compile(r"(embeddings|encoder|final_layer_norm)\.")

_UNUSED = re.compile(r"(.*\.)?embeddings\.position_ids")  # 0, 1, 2, ... in SD 1.x text encoders; never learnt
_OLD_ATTENTION = re.compile(r"(.*\battentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))")
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_VAE_PROJECTION = re.compile(r"(.*\battentions\.\d+\.)(to_q|to_k|to_v|to_out\.0)\.weight")


def file_name(path: str) -> str:
    """The state dict's name of the parameter at `path`, in which list indices and attributes are joined by "."."""
    parent, _, leaf = path.rpartition(".")
    return (f"{parent}.weight" if parent else "weight") if leaf in WEIGHT_LEAVES else path


def file_names(paths: Iterable[str]) -> dict[str, str]:
    """The name under which each parameter of one network is written, by path.

    A CLIP text model gets the prefix `text_model.` that its files on the Hub have: every version of
    transformers reads those.
    """
    names = {path: file_name(path) for path in paths}
    if any(name.startswith(_CLIP_MARK) for name in names.values()):
        return {path: CLIP_PREFIX + name if _CLIP_ENCODER.match(name) else name for path, name in names.items()}
    return names


def matching_name(name: str) -> str | None:
    """What a tensor is known by, whichever way its file spells it; None for one that has no use.

    Equal for the old and the new names of the VAE's attention, and with and without `text_model.`.
    """
    if _UNUSED.fullmatch(name):
        return None
    old = _OLD_ATTENTION.fullmatch(name)
    if old:
        name = f"{old[1]}{_NEW_ATTENTION[old[2]]}{old[3]}"
    return name.removeprefix(CLIP_PREFIX)


def file_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that our parameter has in a PyTorch file."""
    return tuple(shape[axis] for axis in _file_axes(path, len(shape)))


def to_file_layout(path: str, array: np.ndarray) -> np.ndarray:
    """A view of our parameter as PyTorch has it: convolutions (out, in, height, width), linear (out, in)."""
    return array.transpose(_file_axes(path, array.ndim))


def from_file_layout(path: str, array: np.ndarray) -> np.ndarray:
    """A view of PyTorch's tensor as we have it: convolutions (height, width, in, out), linear (in, out)."""
    return array.transpose(np.argsort(_file_axes(path, array.ndim)))


def without_unit_window(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a VAE attention's projection, which some files hold as a 1x1 convolution; others as they are."""
    if len(shape) == 4 and shape[2:] == (1, 1) and _VAE_PROJECTION.fullmatch(name):
        return shape[:2]
    return shape


def leaves(tree: Mapping[str, Any], parent: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of each leaf of a nested dict."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{parent}{key}.")
        else:
            yield f"{parent}{key}", value


def nested(flat: Mapping[str, Any]) -> Params:
    """The nested dict of which `leaves` gives these paths and values."""
    tree: Params = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[leaf] = value
    return tree


def _file_axes(path: str, rank: int) -> tuple[int, ...]:
    """(window..., in, out) -> (out, in, window...) for kernels; the rest stays."""
    if path.rpartition(".")[2] == "kernel" and rank >= 2:
        return (rank - 1, rank - 2, *range(rank - 2))
    return tuple(range(rank))
