"""A process knows when it is one of several."""

from __future__ import annotations

import jax
import pytest

from flaxdream.training import processes

ALONE = {"HOME": "/", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}  # an allocation without srun


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({}, {}),
        ({"JAX_COORDINATOR_ADDRESS": "h:1"}, {"coordinator_address": "h:1"}),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            {"coordinator_address": "h:1", "num_processes": 2, "process_id": 1},
        ),
        ({"SLURM_STEP_NUM_TASKS": "1"}, {}),
        ({"SLURM_STEP_NUM_TASKS": "4"}, {"initialization_timeout": 300}),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, {"initialization_timeout": 300}),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, {}),
        ({"TPU_PROCESS_ADDRESSES": "local"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, {"initialization_timeout": 300}),
    ],
)
def test_the_surroundings_tell_whether_there_are_others(variables, options):
    assert processes._options(ALONE | variables) == options


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES without JAX_COORDINATOR_ADDRESS: set it to host:port"),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_PROCESS_ID": "one"},
            "JAX_PROCESS_ID is 'one'; expected a whole number",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1"},
            "cannot be joined: .* On every host set JAX_COORDINATOR_ADDRESS",
        ),
    ],
)
def test_half_of_what_is_needed_is_an_error(monkeypatch, variables, message):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", *processes.COUNTS):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        processes.join_processes()
    assert not jax.distributed.is_initialized()


def test_alone_nothing_is_started():
    processes.join_processes()
    assert not jax.distributed.is_initialized() and jax.process_count() == 1
