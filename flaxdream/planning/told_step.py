"""A training step that says what memory it takes, when it is compiled."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from jax.sharding import Mesh

from flaxdream import compile_threads
from flaxdream.compiler_options import with_options
from flaxdream.planning.held_bytes import bytes_by_path
from flaxdream.planning.memory import Memory, kind_of
from flaxdream.planning.table import memory_lines, size
from flaxdream.training.prefetch import AHEAD
from flaxdream.training.recipes.step_inputs import as_they_lie
from flaxdream.training.step import batch_shapes


class ToldStep:
    """Runs a jitted step (state, frozen, batch). Each shape of batch is compiled once, when it first comes.

    After the first compile `say` gets the table of a device's memory: the arrays that lie there, and what the
    compiler adds for temporaries and code. Later it gets the sum, if a batch of another shape needs more.
    """

    def __init__(self, step: Any, say: Callable[[str], Any]):
        self._step, self._say = step, say
        self._compiled: dict[Any, Any] = {}
        self._most = 0  # bytes on a device, of the shapes that came
        self._ahead: tuple[Any, Future[Any]] | None = None

    def compile_ahead(self, state: Any, frozen: Any, batch: Any) -> None:
        """Begins to compile for arguments as these, arrays or shapes with their places, while other work goes on.

        A first call with such arguments waits for it and gets its errors; one with others compiles for itself.
        """
        worker = ThreadPoolExecutor(1, thread_name_prefix=compile_threads.PREFIX)
        arguments = as_they_lie((state, frozen, batch))
        self._ahead = arguments, worker.submit(self._compile, *arguments)
        worker.shutdown(wait=False)

    def __call__(self, state: Any, frozen: Any, batch: Any) -> Any:
        shapes = batch_shapes(batch)
        if shapes not in self._compiled:
            compiled = self._from_ahead(state, frozen, batch) or self._compile(state, frozen, batch)
            self._tell(compiled, {"state": state, "frozen": frozen, "batch": batch, "waiting": [batch] * AHEAD})
            self._compiled[shapes] = compiled
        return self._compiled[shapes](state, frozen, batch)

    def _tell(self, compiled: Any, arguments: dict[str, Any]) -> None:
        lies = step_memory(compiled, arguments)
        if lies.total <= self._most:
            return
        total = f"{size(lies.total)}{_of_limit()}"
        if self._compiled:
            self._say(f"memory of a device, for batches of another shape: {total}")
        else:
            self._say("\n".join([f"memory of a device: {total}", *memory_lines(lies, "gradients, activations")]))
        self._most = lies.total

    def _compile(self, state: Any, frozen: Any, batch: Any) -> Any:
        with mesh_in_use(state):
            return with_options(jax.devices()[0], self._step.lower(state, frozen, batch).compile)

    def _from_ahead(self, *arguments: Any) -> Any:
        if self._ahead is None:
            return None
        (expected, future), self._ahead = self._ahead, None
        return future.result() if _same(expected, arguments) else None


def _same(expected: Any, found: Any) -> bool:
    """Whether the trees have the same leaves, in shape, type and place."""
    known, here = dict(jax.tree.leaves_with_path(expected)), dict(jax.tree.leaves_with_path(found))
    return known.keys() == here.keys() and all(
        a.shape == b.shape and a.dtype == b.dtype and a.sharding.is_equivalent_to(b.sharding, len(a.shape))
        for a, b in ((known[path], here[path]) for path in known)
    )


def mesh_in_use(state: Any) -> contextlib.AbstractContextManager[Any]:
    """Tells a trace the devices that the state lies on: kernels that the compiler cannot spread spread themselves."""
    mesh = getattr(jax.tree.leaves(state)[0].sharding, "mesh", None)  # only a NamedSharding has one
    return jax.set_mesh(mesh) if isinstance(mesh, Mesh) else contextlib.nullcontext()


def step_memory(compiled: Any, arguments: dict[str, Any]) -> Memory:
    """A device's memory while the compiled step runs on these arrays."""
    kinds: dict[str, int] = {}
    for path, count in bytes_by_path(arguments).items():
        kinds[kind_of(path)] = kinds.get(kind_of(path), 0) + count
    stats = compiled.memory_analysis()
    results = max(0, stats.output_size_in_bytes - stats.alias_size_in_bytes)
    host = stats.host_argument_size_in_bytes + stats.host_temp_size_in_bytes
    return Memory(kinds, 0, results, stats.temp_size_in_bytes, stats.generated_code_size_in_bytes, host)


def _of_limit() -> str:
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return f" of {size(limit)}" if limit else ""
