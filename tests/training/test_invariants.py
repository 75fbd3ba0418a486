"""What must not change the numbers of the whole command: devices, accumulation, sharding, caching, processes."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flaxdream.cli import main
from flaxdream.training import mesh
from tests.training.whole_runs import arguments, environment, finish, make_inputs, metrics, tensors

pytestmark = pytest.mark.slow

# 8 instance and 8 class rows a step, on 8 devices one of each.
SETTINGS = {"train_batch_size": 1, "center_crop": True, "train_text_encoder": True, "max_train_steps": 4}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("invariants"))


@pytest.fixture(scope="module")
def plain(inputs):
    """The run on 8 devices with cached latents."""
    assert main(arguments(inputs, inputs / "plain", **SETTINGS)) == 0
    return inputs / "plain"


def assert_same_run(inputs: Path, run: Path, other: Path) -> None:
    """Losses within 1e-6, and final weights that differ by a thousandth of what the training moved at most."""
    losses, others = ([row["loss"] for row in metrics(folder)] for folder in (run, other))
    np.testing.assert_allclose(others, losses, rtol=1e-6)
    before, ours, theirs = tensors(inputs / "model"), tensors(run), tensors(other)
    assert ours.keys() == theirs.keys()
    distance = sum(float(np.abs(ours[name] - theirs[name]).sum()) for name in ours)
    moved = sum(float(np.abs(ours[name] - before[name]).sum()) for name in ours)
    print("losses", np.abs(np.array(others) / losses - 1).max(), "weights", distance / moved)
    assert moved > 0 and distance < 1e-3 * moved


@pytest.mark.parametrize(
    "changes",
    [{"fsdp": 4}, {"fsdp": 8}, {"cache_latents": "no"}, {"gradient_checkpointing": True}],
    ids=["data 2 x fsdp 4", "fsdp 8", "live latents", "gradient checkpointing"],
)
def test_on_the_same_devices_these_change_nothing(inputs, plain, tmp_path, changes, monkeypatch):
    monkeypatch.setattr(mesh, "SMALLEST_SHARDED", 1)  # the smallest model has no parameter that would be cut
    assert main(arguments(inputs, tmp_path, **SETTINGS | changes)) == 0
    assert_same_run(inputs, plain, tmp_path)


@pytest.mark.parametrize("parts", [1, 4])
def test_one_device_gives_what_eight_do_with_and_without_accumulation(inputs, plain, tmp_path, parts):
    changes = {"train_batch_size": 8 // parts, "gradient_accumulation_steps": parts}
    finish(arguments(inputs, tmp_path, **SETTINGS | changes), devices=1)
    assert_same_run(inputs, plain, tmp_path)


def test_accumulation_on_eight_devices_gives_what_a_larger_batch_does(inputs, tmp_path):
    for parts in (1, 4):
        changes = {"train_batch_size": 4 // parts, "gradient_accumulation_steps": parts, "max_train_steps": 2}
        assert main(arguments(inputs, tmp_path / str(parts), **SETTINGS | changes)) == 0
    assert_same_run(inputs, tmp_path / "1", tmp_path / "4")


def test_two_processes_give_what_one_does(inputs, plain, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    argv = arguments(inputs, tmp_path, **SETTINGS | {"fsdp": 4, "checkpointing_steps": 2})
    common = environment(4) | {
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [
        subprocess.Popen([sys.executable, "-m", "flaxdream", *argv], env=common | {"JAX_PROCESS_ID": str(i)}, **pipes)
        for i in range(2)
    ]
    try:
        texts = [process.communicate(timeout=1800)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], texts
    assert "model and report in" in texts[0]
    ours = [line for line in texts[1].splitlines() if line and "[Gloo]" not in line and "peer ranks" not in line]
    assert ours == []  # lines of Gloo, which its threads may write into each other
    assert_same_run(inputs, plain, tmp_path)
