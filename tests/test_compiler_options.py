"""What the compiler is told: only what it knows."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdream import compiler_options as told
from flaxdream.compiler_options import ToldJit, compiler_options, configure_compiler, with_options
from flaxdream.planning.measuring import has_tpu_compiler

PROGRAM = """
import itertools

import jax, jax.numpy as jnp
from jax.experimental.topologies import get_topology_desc
from flaxdream.planning.topologies import MACHINES
from flaxdream.compiler_options import compiler_options, configure_compiler

for fast, name in itertools.product((False, True), ("v2-8", "v3-8", "v4-8", "v5e-8", "v5p-8", "v6e-8")):
    configure_compiler(cache_dir=None, fast=fast)
    machine = MACHINES[name]
    device = get_topology_desc(topology_name=machine.layout, platform="tpu", **machine.options).devices[0]
    x = jax.ShapeDtypeStruct((8, 8), jnp.bfloat16, sharding=jax.sharding.SingleDeviceSharding(device))
    assert compiler_options(device)
    jax.jit(lambda x: x @ x).lower(x).compile(compiler_options(device))
"""


def device(platform, kind):
    return SimpleNamespace(platform=platform, device_kind=kind)


TPU = device("tpu", "TPU v5 lite")


def test_a_told_function_is_compiled_with_the_options(monkeypatch):
    """A value that this platform's compiler refuses shows that it got it."""
    double = ToldJit(lambda x: 2 * x)
    assert double(3) == 6
    monkeypatch.setattr(told, "compiler_options", lambda device: {"xla_cpu_enable_fast_math": "maybe"})
    with pytest.raises(Exception, match="xla_cpu_enable_fast_math"):
        double(3)


def test_options_that_the_compiler_does_not_know_are_left_out(monkeypatch, capfd):
    monkeypatch.setattr(told, "_unknown", set())
    monkeypatch.setattr(told, "_TPU", {"no_such_option": "1", "xla_cpu_enable_fast_math": True, "nor_this": "2"})
    seen = []

    def compiled(options):
        seen.append(sorted(options))
        return jax.jit(lambda x: 2 * x).lower(3).compile(options)(3)

    assert [with_options(TPU, compiled) for _ in range(2)] == [6, 6]
    assert seen[-2:] == [["xla_cpu_enable_fast_math"]] * 2 and len(seen) == 4
    said = capfd.readouterr().err
    assert said.count("no_such_option") == said.count("nor_this") == 1


@pytest.mark.parametrize(
    "said", ["INVALID_ARGUMENT: No such compile option: 'two'", "Failed to parse 'maybe' into flag two: not a bool"]
)
def test_both_ways_in_which_the_tpu_compiler_refuses_an_option_are_read(said, monkeypatch):
    monkeypatch.setattr(told, "_unknown", set())
    monkeypatch.setattr(told, "_TPU", {"one": "1", "two": "maybe"})

    def compiled(options):
        if "two" in options:
            raise RuntimeError(said)
        return options

    assert with_options(TPU, compiled) == {"one": "1"}


def test_other_errors_of_the_compiler_are_errors(monkeypatch):
    monkeypatch.setattr(told, "_TPU", {"xla_cpu_enable_fast_math": "maybe"})
    with pytest.raises(Exception, match="xla_cpu_enable_fast_math"):
        with_options(TPU, jax.jit(lambda x: 2 * x).lower(3).compile)


def test_within_another_compiled_function_a_told_one_is_a_part_of_that(monkeypatch):
    monkeypatch.setattr(told, "compiler_options", lambda device: {"no_such_option": "1"})
    double = ToldJit(lambda x: 2 * x)
    assert jax.jit(lambda x: double(x) + 1)(3) == 7
    assert jax.jit(lambda x: double(3) + x)(1) == 7
    assert jax.grad(lambda x: double(x))(3.0) == 2
    assert double.lower(3).compile()(3) == 6


def test_settings_of_jit_are_kept(monkeypatch):
    monkeypatch.setattr(told, "compiler_options", lambda device: {"xla_cpu_enable_fast_math": True})
    scaled = ToldJit(lambda x, *, by: by * x, static_argnames="by")
    assert [scaled(2, by=by) for by in (3, 4, 3)] == [6, 8, 6]


def test_gpus_are_told_nothing():
    assert compiler_options(device("gpu", "NVIDIA H100 80GB HBM3")) == {}


def test_cpus_are_told_what_they_know(capfd):
    x = jnp.linspace(-80.0, 0.0, 4096)
    exponentials = with_options(jax.devices()[0], jax.jit(jnp.exp).lower(x).compile)(x)
    assert compiler_options(jax.devices()[0])
    assert not capfd.readouterr().err
    np.testing.assert_allclose(exponentials, np.exp(np.asarray(x, np.float64)), rtol=5e-7)


def test_a_fast_compile_is_for_tpus_and_until_the_next_choice():
    usual, on_cpus = compiler_options(TPU), compiler_options(device("cpu", "cpu"))
    configure_compiler(cache_dir=None, fast=True)
    try:
        fast = compiler_options(TPU)
        assert fast != usual and usual.keys() <= fast.keys()
        assert compiler_options(device("cpu", "cpu")) == on_cpus
        kinds = "TPU v2", "TPU v3", "TPU v4", "TPU v5 lite", "TPU v5", "TPU v5p", "TPU v6 lite", "TPU7x"
        tiles = [compiler_options(device("tpu", kind))["xla_tpu_scoped_vmem_limit_kib"] for kind in kinds]
        assert tiles == ["6144"] * 4 + ["12288"] * 4
    finally:
        configure_compiler(cache_dir=None, fast=False)
    assert compiler_options(TPU) == usual


@pytest.mark.slow
@pytest.mark.skipif(not has_tpu_compiler(), reason="the TPU compiler is not installed")
def test_the_compiler_of_every_generation_knows_the_options():
    """It refuses those that it does not."""
    quiet = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
