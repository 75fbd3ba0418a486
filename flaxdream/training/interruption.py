"""Leaving on a signal: the step under way is finished, the state is saved, and the exit code says why.

SIGTERM is what a spot machine and a cluster send before they take the machine away (30 s before, on a TPU), SIGINT
is Ctrl-C and a notebook's stop button.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

SIGNALS = (signal.SIGTERM, signal.SIGINT)
TWICE_AT_ONCE = 0.3  # seconds; a launcher that passes Ctrl-C on makes two of it


class Interruption:
    """While the block runs, the first SIGTERM or SIGINT is only noted, for `requested`; a second SIGINT leaves at once.

        with Interruption() as interruption:
            for step in ...:
                ...
                if interruption.requested():
                    save; break
        if interruption.exit_code: sys.exit(interruption.exit_code)

    Signals are received by a thread, as Python's own handlers wait until a compilation has ended. Outside of the
    main thread Python cannot receive any: that is said, and nothing changes. A signal that the process was
    started to ignore (nohup, a shell's background) stays ignored.
    """

    def __init__(self) -> None:
        self.exit_code = 0  # 143 after SIGTERM, 130 after SIGINT; the same on every process
        self._code = 0  # of this process
        self._since = 0.0
        self._receiving = False
        self._previous: dict[int, Any] = {}
        self._agreement: _Agreement | None = None

    def requested(self) -> bool:
        """Whether to save and leave now; called once after each step.

        With several processes, which all call it, they agree, one call late, so that no process waits for a step
        that another one does not take.
        """
        if jax.process_count() == 1:
            self.exit_code = self.exit_code or self._code
        else:
            self._agreement = self._agreement or _Agreement()
            self.exit_code = self.exit_code or self._agreement.highest(self._code)
        return self.exit_code != 0

    def __enter__(self) -> Interruption:
        if threading.current_thread() is not threading.main_thread():
            print("not in the main thread: SIGTERM and Ctrl-C end this run without saving", file=sys.stderr)
            return self
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._in_main_thread)
        self._receiver = threading.Thread(target=self._receive, name="signals", daemon=True)
        self._receiver.start()
        self._receiving = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._receiving:
            return
        self._receiving = False
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not Python's
        self._previous = {}
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._writer)  # ends the thread
        self._receiver.join()
        os.close(self._reader)

    def _receive(self) -> None:
        while data := os.read(self._reader, 1):
            if data[0] in SIGNALS:
                self._note(data[0])

    def _note(self, number: int) -> None:
        if not self._code:
            self._code, self._since = 128 + number, time.monotonic()
            again = ". Ctrl-C again leaves at once" if number == signal.SIGINT else ""
            print(f"\n{signal.Signals(number).name}: this step is finished, then saved{again}.", file=sys.stderr)
        elif number == signal.SIGINT and self._is_another() and not _is_interactive():
            print("\nleaving at once; the last complete checkpoint stays.", file=sys.stderr, flush=True)
            os._exit(128 + number)

    def _in_main_thread(self, number: int, frame: FrameType | None) -> None:
        """A notebook or a prompt has to live on, so there a second SIGINT is Python's own."""
        if number == signal.SIGINT and _is_interactive() and self._code and self._is_another():
            raise KeyboardInterrupt

    def _is_another(self) -> bool:
        return time.monotonic() - self._since > TWICE_AT_ONCE


class _Agreement:
    """The highest number that any process gave, one call late, so that the device is not waited for."""

    def __init__(self) -> None:
        devices = np.array(jax.devices())
        mesh = jax.sharding.Mesh(devices, ("all",), axis_types=(AxisType.Auto,))
        self._sharding = NamedSharding(mesh, PartitionSpec("all"))
        self._count = devices.size
        self._highest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._last: jax.Array | None = None

    def highest(self, number: int) -> int:
        mine = np.full(jax.local_device_count(), number, np.int32)
        numbers = jax.make_array_from_process_local_data(self._sharding, mine, (self._count,))
        last, self._last = self._last, self._highest(numbers)
        return 0 if last is None else int(jax.device_get(last))


def _is_interactive() -> bool:
    return hasattr(builtins, "__IPYTHON__") or hasattr(sys, "ps1")
