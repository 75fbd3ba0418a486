"""Checkpoints and signals of a run of two processes with four devices each."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from flaxdream.training.checkpoint_arrays import restore_checkpoint
from flaxdream.training.checkpoints import Checkpoints

pytestmark = pytest.mark.slow

RUN = """
import sys, time
import jax, jax.numpy as jnp, numpy as np
folder, port, process = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from flaxdream.training.checkpoints import Checkpoints
from flaxdream.training.interruption import Interruption

mesh = Mesh(np.array(jax.devices()), ("fsdp",), axis_types=(AxisType.Auto,))
place = {"step": NamedSharding(mesh, P()), "w": NamedSharding(mesh, P("fsdp")), "b": NamedSharding(mesh, P())}
shapes = {
    "step": jax.ShapeDtypeStruct((), jnp.int32, sharding=place["step"]),
    "w": jax.ShapeDtypeStruct((16, 3), jnp.bfloat16, sharding=place["w"]),
    "b": jax.ShapeDtypeStruct((5,), jnp.float32, sharding=place["b"]),
}
step = jax.jit(lambda s: {"step": s["step"] + 1, "w": s["w"] * 1.01, "b": s["b"] + 0.1}, out_shardings=place)
with Interruption() as interruption, Checkpoints(folder, 2) as checkpoints:
    state, extra = checkpoints.restore(checkpoints.latest(), shapes)
    start = int(state["step"])
    assert extra == {"at": start}
    for done in range(start + 1, 2000):
        state = step(state)
        if done == start + 3:
            checkpoints.save(done, state, {"at": done})
            print("going", flush=True)
        time.sleep(0.01)
        if interruption.requested():
            checkpoints.save(done, state, {"at": done})
            break
print("left", done, flush=True)
sys.exit(interruption.exit_code)
"""


def start_both(folder: Path) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen([sys.executable, "-c", RUN, str(folder), str(port), str(i)], **pipes) for i in range(2)]


def test_a_signal_to_one_process_makes_both_save_one_checkpoint_that_one_device_reads(tmp_path):
    one = SingleDeviceSharding(jax.devices()[0])
    r = np.random.default_rng(0)
    state = {
        "step": jnp.asarray(5, jnp.int32),
        "w": jnp.asarray(r.standard_normal((16, 3)), jnp.bfloat16),
        "b": jnp.asarray(r.standard_normal(5), jnp.float32),
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, jax.device_put(state, one), {"at": 5})

    both = start_both(tmp_path)
    try:
        for process in both:
            assert "going\n" in iter(process.stdout.readline, ""), process.stderr.read()[-3000:]
        both[1].send_signal(signal.SIGTERM)
        answers = [process.communicate(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [143, 143], answers
    (left,) = {out.split()[-1] for out, _ in answers}
    assert sorted(os.listdir(tmp_path)) == sorted(["checkpoint-8", f"checkpoint-{left}"])

    expected = state
    step = jax.jit(lambda s: {"step": s["step"] + 1, "w": s["w"] * 1.01, "b": s["b"] + 0.1})
    for _ in range(int(left) - 5):
        expected = step(expected)
    restored, extra = restore_checkpoint(tmp_path / f"checkpoint-{left}", state)
    assert extra == {"at": int(left)}
    for name in state:
        assert np.asarray(restored[name]).tobytes() == np.asarray(expected[name]).tobytes()
