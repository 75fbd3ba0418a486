"""The weather of every test: 8 CPU devices, strict JAX, highest matmul precision, no network, shared programs."""

from __future__ import annotations

import os
import signal
import socket

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job, whose programs would not heed it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_default_matmul_precision", "highest")

COMPILE_SECONDS = 0.3  # of a program that is kept
LONGEST = ("test_killed_runs.py", "test_memory_tiers.py", "test_mixed_precision.py", "test_text_to_image.py")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A connection to anything but this machine is an error."""
    connect = socket.socket.connect

    def guarded(self, address):
        if isinstance(address, tuple) and address[0] not in LOOPBACK:
            raise AssertionError(f"a test tried to reach {address!r}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory):
    """Tests that need the same program share it, over all workers of this run; the next run starts without."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled-programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", COMPILE_SECONDS)
    compilation_cache.reset_cache()  # what was compiled before, at import, found none


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_file():
    """A worker holds the programs of one file of tests at a time: those of all take 6 GB."""
    yield
    jax.clear_caches()


def pytest_collection_modifyitems(items):
    """The longest files first, so that no worker is left alone with one in the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
