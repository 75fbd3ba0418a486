"""On a CPU, memory that a step frees is kept for the next one, and lies in huge pages.

XLA's CPU backend allocates a step's temporaries anew each time. glibc gives such large blocks back to the system and
gets them again page by page: a training step of a small UNet had 65,000 page faults and a quarter of its CPU time in
the kernel. So glibc is to keep its memory, and JAX to run a program in the thread that calls it: that thread's heap can
grow to any size, while those of others give up large blocks whatever they are told. One heap for all threads would do
too, but compiling leaves that in pieces, in which each of a step's thousand small blocks is searched for under one
lock. In pages of 4 KB a virtual machine may spend most of its time on looking up where they are. Training steps of two
small UNets, compiled in the same process, in milliseconds:

    glibc and JAX left alone                293    520
    one heap for all that is kept           363    675
    kept, run by the thread that calls      296    530
    huge pages                              250    480
    huge pages, one heap that is kept       324    622
    huge pages, kept, by the thread         236    455
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = 2**31 - 1
SETTING = "glibc.malloc.hugetlb"
ACCELERATORS = ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0", "/dev/kfd")


def keep_freed_memory() -> bool:
    """Tells glibc so, if there is glibc and no accelerator; to be called before threads start. Whether it did."""
    if not _computes_on_cpu():
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, NEVER)])


def run_in_caller() -> None:
    """Tells JAX so, if there is no accelerator; to be called before it has devices.

    A program for several devices runs in threads of its own all the same, as they wait for each other.
    """
    if _computes_on_cpu():
        import jax

        jax.config.update("jax_cpu_enable_async_dispatch", False)


def start_with_huge_pages() -> None:
    """Starts this process anew with huge pages for glibc's malloc, which reads that setting at the start only.

    Nothing happens where it has been set, by this function or by the user, or cannot be.
    """
    known, tunables = Path("/sys/kernel/mm/transparent_hugepage/enabled"), os.environ.get("GLIBC_TUNABLES", "")
    if SETTING in tunables or not _computes_on_cpu() or not known.is_file() or "[never]" in known.read_text():
        return
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{SETTING}=1"]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _computes_on_cpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return platforms == "cpu" or not (platforms or any(Path(device).exists() for device in ACCELERATORS))
