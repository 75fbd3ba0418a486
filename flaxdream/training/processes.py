"""Joining the other processes of a run: one command on every host, and they find each other.

A TPU pod, Slurm (srun) and Open MPI tell each process of the others. Anywhere else three variables do:
JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0).
"""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Mapping
from glob import glob
from typing import Any

import jax

NAMED = {"JAX_NUM_PROCESSES": "num_processes", "JAX_PROCESS_ID": "process_id"}
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # of srun and mpirun, not of an allocation around them
TPU_HOSTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"


def join_processes() -> None:
    """Joins the other processes, if there are any; to be called before JAX is asked for its devices.

    Raises ValueError when the surroundings tell of several processes and not enough to join them.
    """
    if jax.distributed.is_initialized() or not (options := _options(os.environ)):
        return
    try:
        jax.distributed.initialize(**options)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the other processes of this run cannot be joined: {error}. On every host set JAX_COORDINATOR_ADDRESS to "
            "host:port of the first, JAX_NUM_PROCESSES to their number and JAX_PROCESS_ID to 0, 1, ..."
        ) from error


def _options(variables: Mapping[str, str]) -> dict[str, Any]:
    """What to call `jax.distributed.initialize` with; nothing where this process is alone."""
    given = {option: _number(variables, name) for name, option in NAMED.items() if name in variables}
    if address := variables.get("JAX_COORDINATOR_ADDRESS"):
        return {"coordinator_address": address, **given}
    if given:
        names = " and ".join(name for name in NAMED if name in variables)
        raise ValueError(f"{names} without JAX_COORDINATOR_ADDRESS: set it to host:port of the first process.")
    several = any(_number(variables, name) > 1 for name in COUNTS if name in variables) or _tpu_hosts(variables) > 1
    return {"initialization_timeout": 300} if several else {}


def _number(variables: Mapping[str, str], name: str) -> int:
    try:
        return int(variables[name])
    except ValueError:
        raise ValueError(f"{name} is {variables[name]!r}; expected a whole number.") from None


def _tpu_hosts(variables: Mapping[str, str]) -> int:
    """How many hosts the TPU of this machine has; 0 without a TPU."""
    for name in TPU_HOSTS:
        if name in variables:
            return len([host for host in variables[name].split(",") if host.strip()])
    platforms = variables.get("JAX_PLATFORMS", "")
    has_tpu = bool(glob("/dev/accel*") or glob("/dev/vfio/[0-9]*"))
    if not has_tpu or (platforms and "tpu" not in platforms) or "TPU_SKIP_MDS_QUERY" in variables:
        return 0
    try:
        request = urllib.request.Request(METADATA, headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(request, timeout=2) as answer:
            return len(answer.read().decode().split(","))
    except OSError:  # not on Google's cloud
        return 0
