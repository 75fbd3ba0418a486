"""On a CPU, memory that a step frees is kept for the next one, and lies in huge pages.

XLA's CPU backend allocates a step's temporaries anew each time. glibc gives such large blocks back to the system and
gets them again page by page: a training step of the small UNet had 65,000 page faults and a quarter of its CPU time in
the kernel. With one arena that is never trimmed there are none. In pages of 4 KB a virtual machine may spend most of
its time on looking up where they are: the same step took 1.4 s in such pages and 0.36 s in those of 2 MB.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h
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
    return all([mallopt(M_ARENA_MAX, 1), mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, NEVER)])


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
