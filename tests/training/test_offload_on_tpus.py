"""Optimizer states in the memory of a TPU's host: the TPU compiler takes every optimizer's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flaxdream.config.run_checks import OPTIMIZERS
from flaxdream.planning.measuring import has_tpu_compiler

PROGRAM = """
import sys
import jax, jax.numpy as jnp
from jax.experimental.topologies import get_topology_desc
from flaxdream.planning.topologies import MACHINES
from flaxdream.training.learning_rate import make_schedule
from flaxdream.training.optimizer import make_optimizer
from flaxdream.training.state_shardings import in_host_memory

machine = MACHINES[sys.argv[1]]
device = get_topology_desc(topology_name=machine.layout, platform="tpu", **machine.options).devices[0]
place = jax.sharding.SingleDeviceSharding(device)
shaped = lambda tree, place: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)
params = shaped({"kernel": jnp.zeros((3, 3, 64, 64)), "bias": jnp.zeros(64)}, place)

for name in sys.argv[2:]:
    optimizer = make_optimizer(name, make_schedule("constant", 1e-4))
    state = shaped(jax.eval_shape(optimizer.init, params), in_host_memory(place))

    def step(params, gradients, state):
        updates, state = optimizer.update(gradients, jax.device_put(state, place), params)
        return jax.tree.map(jnp.add, params, updates), state

    jitted = jax.jit(step, donate_argnums=(0, 2), out_shardings=(place, in_host_memory(place)))
    jitted.lower(params, params, state).compile()
    print("compiled", name)
"""


@pytest.mark.slow
@pytest.mark.skipif(not has_tpu_compiler(), reason="the TPU compiler is not installed")
@pytest.mark.parametrize("machine", ["v4-8", "v5e-8", "v6e-8"])
def test_states_in_host_memory_compile(machine):
    quiet = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, machine, *OPTIMIZERS], env=os.environ | quiet, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [word for name in OPTIMIZERS for word in ("compiled", name)]
