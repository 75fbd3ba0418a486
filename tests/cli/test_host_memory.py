"""Memory that was freed is kept on a CPU, and left alone beside an accelerator."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from flaxdream.cli.host_memory import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else False)
np.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how, platforms="cpu"):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        capture_output=True, text=True, check=True, env=os.environ | {"JAX_PLATFORMS": platforms},
    )  # fmt: skip
    kept, count = done.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has another allocator")
def test_blocks_that_come_again_cost_no_page_faults():
    kept, few = faults("keep")
    left_alone, many = faults("leave")
    assert kept and not left_alone
    assert few < 0.1 * many


CALLED = """
import sys
from flaxdream.cli.host_memory import run_in_caller
if sys.argv[1] == "in caller":
    run_in_caller()
import jax, jax.numpy as jnp
program = jax.jit(lambda x: jax.lax.fori_loop(0, 200, lambda _, y: jnp.tanh(y @ y), x))
x = jax.block_until_ready(program(jnp.ones((500, 500))))
print(program(x).is_ready())
"""


def test_programs_run_in_the_thread_that_calls_them():
    def in_caller(how):
        done = subprocess.run(
            [sys.executable, "-c", CALLED, how],
            capture_output=True, text=True, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}, timeout=120,
        )  # fmt: skip
        return done.stdout.strip() == "True"

    assert in_caller("in caller")
    assert not in_caller("as JAX does")


PROCESS = """
import os, sys
from flaxdream.cli.host_memory import start_with_huge_pages
start_with_huge_pages()
print(os.environ.get("GLIBC_TUNABLES", ""), sys.argv[1:])
"""


@pytest.mark.skipif(platform.libc_ver() < ("glibc", "2.35"), reason="glibc has huge pages since 2.35")
def test_a_process_starts_anew_once_with_huge_pages_and_the_same_arguments():
    def tunables(**environ):
        plain = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        done = subprocess.run(
            [sys.executable, "-c", PROCESS, "a b", "--c"],
            capture_output=True, text=True, check=True, env=plain | {"JAX_PLATFORMS": "cpu"} | environ, timeout=60,
        )  # fmt: skip
        return done.stdout.strip()

    assert tunables() == "glibc.malloc.hugetlb=1 ['a b', '--c']"
    assert tunables(GLIBC_TUNABLES="glibc.malloc.hugetlb=0") == "glibc.malloc.hugetlb=0 ['a b', '--c']"
    assert tunables(JAX_PLATFORMS="tpu") == "['a b', '--c']"


def test_nothing_changes_where_another_platform_is_named():
    assert faults("keep", "tpu")[0] is False
