"""Files -> the parameters of a network, a tensor at a time, each straight to its devices."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

import jax

from flaxdream.arrays import Array, Params, Shapes, np
from flaxdream.weights import files, names
from flaxdream.weights.msgpack import open_msgpack
from flaxdream.weights.safetensors import DTYPES, open_safetensors
from flaxdream.weights.tensors import Tensor, contiguous

Source = str | Path | Sequence[str | Path]
Placement = jax.sharding.Sharding | Mapping[str, Any] | Callable[[str], jax.sharding.Sharding] | None

IN_FLIGHT = 192 * 2**20  # bytes that may be on their way to the devices at once
SHOWN = 20  # names of each kind in an error


def read_params(
    source: Source,
    shapes: Shapes,
    *,
    dtype: Any = None,
    sharding: Placement = None,
    variant: str | None = None,
) -> Params:
    """The parameters of the network with these `shapes`, from a component's folder, a file or several files.

    Each gets the dtype that it has in `shapes`, or `dtype` when given. `sharding` is one for all, a tree like
    `shapes`, or a function of the path; without it they go to the default device. Host memory holds a few
    tensors at a time; every tensor must be used once, every parameter filled once and all shapes be equal, else
    ValueError names those that differ, and nothing is loaded.
    """
    found = open_weights(source, variant)
    wanted = dict(names.leaves(shapes))
    pairs = _matched(found, wanted, _described(source))
    place = placement(sharding)
    # A `with jax.default_device(...)` counts for one thread only: it is handed on to those that load.
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    in_file_order = sorted(pairs, key=lambda path: (str(found[pairs[path]].file.path), found[pairs[path]].start))

    def load(path: str) -> Array:
        target = np.dtype(dtype or wanted[path].dtype)
        with jax.default_device(device):
            return _load(path, found[pairs[path]], target, wanted[path].shape, place(path))

    sizes = {path: prod(wanted[path].shape) * np.dtype(dtype or wanted[path].dtype).itemsize for path in wanted}
    loaded = dict(_in_turn(load, in_file_order, sizes))
    return names.nested({path: loaded[path] for path in wanted})


def open_weights(source: Source, variant: str | None = None) -> dict[str, Tensor]:
    """All tensors of a component's folder, a file or several files, by their names there; none is read yet."""
    found: dict[str, Tensor] = {}
    for path in _paths(source, variant):
        opened = open_msgpack(path) if path.suffix == ".msgpack" else open_safetensors(path)
        twice = sorted(found.keys() & opened.keys())
        if twice:
            raise ValueError(f"{path} repeats tensors of the files before it: {_listed(twice)}. Give each file once.")
        found |= opened
    return found


def _paths(source: Source, variant: str | None) -> list[Path]:
    if not isinstance(source, str | Path):
        return [path for entry in source for path in _paths(entry, variant)]
    path = Path(source).expanduser()
    if path.is_dir() or not path.suffix:
        return [path / name for name in files.weight_files(path, variant).files]
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Expected a component's folder, a .safetensors or a .msgpack file.")
    if path.name.endswith(".json"):
        return [path.parent / name for name in files.shards_of_index(path)]
    if path.suffix not in (".safetensors", ".msgpack"):
        hint = files.CONVERT if path.suffix in (".bin", ".ckpt", ".pt", ".pth") else ""
        raise ValueError(f"{path} has the ending {path.suffix!r}; .safetensors and .msgpack are read here. {hint}")
    return [path]


def _matched(found: Mapping[str, Tensor], wanted: Mapping[str, Any], where: str) -> dict[str, str]:
    """The tensor's name for each parameter's path; ValueError when they do not pair off exactly."""
    by_name: dict[str, str] = {}
    unused, twice = [], []
    for name, tensor in found.items():
        key = names.matching_name(name)
        if key in by_name:
            twice.append(f"{name} {_shape(tensor)}, as {by_name[key]}")
        elif key is not None:
            by_name[key] = name
    written = names.file_names(wanted)
    pairs = {path: by_name.pop(str(names.matching_name(name)), "") for path, name in written.items()}
    unused = [f"{name} {_shape(found[name])}" for name in by_name.values()]
    missing = [f"{written[path]} {_expected(path, wanted)}" for path, name in pairs.items() if not name]
    filled = {path: found[name] for path, name in pairs.items() if name}
    shaped = [
        f"{pairs[path]} {_shape(tensor)}, expected {_expected(path, wanted)}"
        for path, tensor in filled.items()
        if _our_shape(path, tensor) != tuple(wanted[path].shape)
    ]
    typed = [f"{pairs[path]} {tensor.dtype}" for path, tensor in filled.items() if isinstance(tensor.dtype, str)]
    problems = [
        f"{len(entries)} {text}: {_listed(entries)}."
        for entries, text in (
            (missing, "parameter(s) of the network are not in the file"),
            (unused, "tensor(s) of the file have no place in the network"),
            (twice, "tensor(s) are there under two names"),
            (shaped, "tensor(s) have another shape"),
            (typed, f"tensor(s) have a type that is not read ({', '.join(DTYPES)} are)"),
        )
        if entries
    ]
    if problems:
        raise ValueError(
            f"{where} does not hold exactly the {len(wanted)} parameters of the network that its config describes:\n"
            + "\n".join(f"- {problem}" for problem in problems)
            + "\nShapes are those of PyTorch's layout. Check that config.json and weights belong to the same model, "
            "and that the weights are of this component."
        )
    return pairs


def _our_shape(path: str, tensor: Tensor) -> tuple[int, ...]:
    return tuple(_in_our_layout(path, tensor, np.broadcast_to(np.uint8(0), tensor.shape)).shape)


def _in_our_layout(path: str, tensor: Tensor, view: np.ndarray) -> np.ndarray:
    if tensor.flax_path is not None:
        return view
    return names.from_file_layout(path, view.reshape(names.without_unit_window(names.file_name(path), view.shape)))


def _load(path: str, tensor: Tensor, dtype: np.dtype, shape: tuple[int, ...], sharding: Any) -> Array:
    view = _in_our_layout(path, tensor, tensor.view())
    try:
        if sharding is None:
            return jax.device_put(contiguous(view, dtype))
        shards: dict[str, np.ndarray] = {}  # devices with the same part get it from one copy

        def part(index: Any) -> np.ndarray:
            if str(index) not in shards:
                shards[str(index)] = contiguous(view[index], dtype)
            return shards[str(index)]

        return jax.make_array_from_callback(shape, sharding, part)
    except FloatingPointError:
        raise ValueError(f"{path} has values too large for {dtype}; read it as bfloat16 or float32.") from None
    finally:
        tensor.release()


def _in_turn(
    load: Callable[[str], Array], paths: Iterable[str], sizes: Mapping[str, int]
) -> Iterable[tuple[str, Array]]:
    """Loads the paths on a few threads, with at most about IN_FLIGHT bytes between file and device."""
    waiting: deque[tuple[str, Future[Array]]] = deque()
    flying = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for path in paths:
            while waiting and flying + sizes[path] > IN_FLIGHT:
                flying -= sizes[waiting[0][0]]
                yield _landed(*waiting.popleft())
            waiting.append((path, pool.submit(load, path)))
            flying += sizes[path]
        while waiting:
            yield _landed(*waiting.popleft())


def _landed(path: str, future: Future[Array]) -> tuple[str, Array]:
    return path, jax.block_until_ready(future.result())


def placement(sharding: Placement) -> Callable[[str], Any]:
    """Where the parameter of each path goes; None is the default device."""
    if sharding is None or isinstance(sharding, jax.sharding.Sharding):
        return lambda path: sharding
    if isinstance(sharding, Mapping):
        flat = dict(names.leaves(sharding))
        return lambda path: flat[path]
    return sharding


def _described(source: Source) -> str:
    return str(source) if isinstance(source, str | Path) else ", ".join(map(str, source))


def _expected(path: str, wanted: Mapping[str, Any]) -> str:
    return str(list(names.file_shape(path, tuple(wanted[path].shape))))


def _shape(tensor: Tensor) -> str:
    shape = tensor.shape
    return str(list(shape if tensor.flax_path is None else names.file_shape(tensor.flax_path, shape)))


def _listed(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
    return "; ".join(entries[:SHOWN]) + more
