"""What the compiler is told: only what it knows."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from flaxdream.training.compiler_options import compiler_options

PROGRAM = """
import jax, jax.numpy as jnp
from jax.experimental.topologies import get_topology_desc
from flaxdream.planning.topologies import MACHINES
from flaxdream.training.compiler_options import compiler_options

for name in ("v2-8", "v3-8", "v4-8", "v5e-8", "v5p-8", "v6e-8"):
    machine = MACHINES[name]
    device = get_topology_desc(topology_name=machine.layout, platform="tpu", **machine.options).devices[0]
    x = jax.ShapeDtypeStruct((8, 8), jnp.bfloat16, sharding=jax.sharding.SingleDeviceSharding(device))
    assert compiler_options(device.platform)
    jax.jit(lambda x: x @ x).lower(x).compile(compiler_options(device.platform))
"""


def test_other_platforms_than_tpus_are_told_nothing():
    assert compiler_options("cpu") == compiler_options("gpu") == {}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None and not os.environ.get("TPU_LIBRARY_PATH"),
    reason="the TPU compiler is not installed",
)
def test_the_compiler_of_every_generation_knows_the_options():
    """It refuses those that it does not."""
    quiet = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
