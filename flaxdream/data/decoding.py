"""Processes that decode and resize pictures: Python's lock stops threads at about five cores, these use all.

Each is a fresh interpreter with numpy and Pillow alone: no fork under JAX's threads, no second run of the user's
script, and a decoder that crashes takes down neither the training nor the other workers. It gets paths, or the bytes of
a file, and answers in memory that it shares with its parent; it ends when the parent does, however that ends.
"""

from __future__ import annotations

import mmap
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flaxdream.data.images import BrokenPicture, read_to_cover

if TYPE_CHECKING:
    from jaxtyping import UInt8

SHARED = 2**25  # bytes for one picture; pages that no picture needs take no memory, and larger pictures go by the pipe
PROGRAM = "import sys; sys.path[:] = {path!r}; from flaxdream.data.decoding import serve; serve({pipe}, {memory})"
AVAILABLE = os.name == "posix"  # descriptors can be handed to a process


class Decoders:
    """Up to so many workers, started when they are needed. To be used in a `with`.

    As many threads may call `read_to_cover` at once, more wait.
    """

    def __init__(self, count: int):
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()  # None: not started
        self._count = count

    def __enter__(self) -> Decoders:
        for _ in range(self._count):
            self._idle.put(None)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [self._idle.get() for _ in range(self._count)]:
            if worker is not None:
                worker.close()

    def read_to_cover(
        self, path: Path, resolution: tuple[int, int], interpolation: str = "bilinear", data: bytes | None = None
    ) -> tuple[UInt8[np.ndarray, "H W 3"], tuple[int, int]]:
        """What `images.read_to_cover` gives, made by another process; a crash of the decoder is a BrokenPicture."""
        worker = self._idle.get()
        try:
            worker = worker or _Worker()
            try:
                return worker.read_to_cover(path, resolution, interpolation, data)
            except (EOFError, OSError) as error:
                code, worker = worker.close(), None
                raise BrokenPicture(path, f"its decoder ended the process that ran it (exit code {code})") from error
        finally:
            self._idle.put(worker)


class _Worker:
    """The parent's side of one process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        memory = _shared_memory()
        program = PROGRAM.format(path=sys.path, pipe=theirs.fileno(), memory=memory)
        self._process = subprocess.Popen([sys.executable, "-c", program], pass_fds=(theirs.fileno(), memory))
        theirs.close()
        self._pipe, self._memory = Connection(ours.detach()), mmap.mmap(memory, SHARED)
        os.close(memory)

    def read_to_cover(
        self, path: Path, resolution: tuple[int, int], interpolation: str, data: bytes | None
    ) -> tuple[UInt8[np.ndarray, "H W 3"], tuple[int, int]]:
        self._pipe.send((path, resolution, interpolation, data))
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        shape, size = answer
        count = int(np.prod(shape))
        if count > SHARED:
            return np.frombuffer(self._pipe.recv_bytes(), np.uint8).reshape(shape), size
        return np.frombuffer(self._memory, np.uint8, count).reshape(shape).copy(), size

    def close(self) -> int:
        """Ends the process; its exit code."""
        self._pipe.close()
        code = self._process.wait()
        self._memory.close()
        return code


def _shared_memory() -> int:
    """A descriptor of memory without a name: nothing is left over whoever dies, and /dev/shm may be small."""
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("flaxdream-picture")
    else:
        with tempfile.TemporaryFile() as file:
            memory = os.dup(file.fileno())
    os.truncate(memory, SHARED)
    return memory


def serve(pipe: int, memory: int) -> None:
    """The worker's side: reads pictures until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    with Connection(pipe) as parent, mmap.mmap(memory, SHARED) as shared:
        while True:
            try:
                task = parent.recv()
            except (EOFError, OSError):
                return
            _answer(parent, shared, *task)


def _answer(
    parent: Connection,
    shared: mmap.mmap,
    path: Path,
    resolution: tuple[int, int],
    interpolation: str,
    data: bytes | None,
) -> None:
    try:
        pixels, size = read_to_cover(path, resolution, interpolation, data)
    except Exception as error:
        parent.send(error)
        return
    if pixels.nbytes <= SHARED:
        np.frombuffer(shared, np.uint8, pixels.size)[:] = pixels.reshape(-1)
    parent.send((pixels.shape, size))
    if pixels.nbytes > SHARED:
        parent.send_bytes(pixels.tobytes())
