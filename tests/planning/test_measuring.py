"""Compiling in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from flaxdream.compiler_options import compiler_options
from flaxdream.config import DreamBoothConfig
from flaxdream.models.architectures import ARCHITECTURES
from flaxdream.planning import compiling, measuring
from flaxdream.planning.child import main as child_process
from flaxdream.planning.measuring import CompileError, has_tpu_compiler, measure
from flaxdream.planning.request import Request
from tests.planning.programs_text import LOOP
from tests.planning.test_memory import ASSIGNMENT, USAGE

SMALL = DreamBoothConfig(resolution=32, train_batch_size=1, max_train_steps=1, compilation_cache_dir="")
ARGUMENTS = {path: 512 for path in ("batch['x']", *(f"state['params']['{n}']" for n in range(4)))}
ASKED = Request("dreambooth", SMALL, ARCHITECTURES["tiny"], "cpu", "train", 1, False)
needs_tpu_compiler = pytest.mark.skipif(not has_tpu_compiler(), reason="the TPU compiler is not installed")


def child(monkeypatch, program):
    """Puts a program of ours in the place of the one that compiles; it finds the folder in `folder`."""
    start = f"import sys, json, time, pathlib; folder = pathlib.Path(sys.argv[1])\n{program}"
    popen = measuring.subprocess.Popen
    monkeypatch.setattr(
        measuring.subprocess, "Popen", lambda argv, **rest: popen([sys.executable, "-c", start, argv[-1]], **rest)
    )


def test_settings_that_cannot_be_are_told_as_the_child_tells_them(monkeypatch):
    child(monkeypatch, "(folder / 'error.json').write_text(json.dumps({'message': 'fsdp 3 does not divide'}))")
    with pytest.raises(ValueError, match="fsdp 3 does not divide"):
        measure(ASKED)


def test_a_child_that_dies_is_an_error_with_its_last_words(monkeypatch):
    child(monkeypatch, "raise SystemExit('no space left in the compiler')")
    with pytest.raises(CompileError, match="no space left in the compiler"):
        measure(ASKED)


def test_a_child_that_was_killed_says_what_is_to_be_done(monkeypatch):
    child(monkeypatch, "import os; print('half of a line', flush=True); os.kill(os.getpid(), 9)")
    with pytest.raises(CompileError, match=r"half of a line\nIt was ended by signal 9: .* too little memory"):
        measure(ASKED)


def test_a_gpu_that_is_not_here_is_answered_with_what_is():
    with pytest.raises(ValueError, match="--topology gpu: JAX finds no such device .* Choose cpu, or a TPU such as"):
        compiling.devices_of("gpu")


def test_a_compile_for_a_tpu_ends_when_the_memory_is_planned(monkeypatch):
    monkeypatch.setenv("TPU_LIBRARY_PATH", "somewhere")
    monkeypatch.setenv("XLA_FLAGS", "")
    facts = {
        "program": "train",
        "arguments": ARGUMENTS,
        "kept": list(ARGUMENTS),
        "images": 8,
        "lower_seconds": 1.0,
    }
    chip = {"name": "c", "peak": 1e12, "bandwidth": 1e9, "memory": 1e9, "links": 1e9, "float32_share": 1.0}
    machine = {"name": "v5e-8", "chip": chip, "devices": 8, "layout": "v5e:2x4", "options": {}}
    program = f"""
dump = folder / 'dump'; dump.mkdir()
(folder / 'facts.json').write_text(json.dumps({{'facts': {facts!r}, 'machine': {machine!r}}}))
stem = 'module_0000.jit_step.cl_1.after_optimizations'
(dump / (stem + '-buffer-assignment.txt')).write_text({ASSIGNMENT!r})
(dump / (stem + '-memory-usage-report.txt')).write_text({USAGE!r})
(dump / (stem + '_after_buffer_assignment.txt')).write_text({LOOP!r})
time.sleep(600)  # the code generation
"""
    child(monkeypatch, program)
    plan = measure(dataclasses.replace(ASKED, topology="v5e-8"))
    assert plan.fits and not plan.has_code and plan.needed == 2800000
    assert plan.estimate.seconds > 0 and plan.collectives["all-reduce"][0] == 4


@pytest.mark.slow
@needs_tpu_compiler
def test_the_plan_before_code_generation_is_that_of_the_whole_compile():
    asked = dataclasses.replace(ASKED, topology="v5e-1", config=dataclasses.replace(SMALL, mixed_precision="bf16"))
    early, whole = measure(asked), measure(dataclasses.replace(asked, full=True))
    assert (early.has_code, whole.has_code) == (False, True)
    assert early.memory.kinds == whole.memory.kinds
    assert whole.memory.code > 0 and early.memory.code is None
    np.testing.assert_allclose(early.estimate.flops, whole.estimate.flops, rtol=1e-6)


@pytest.mark.slow
@needs_tpu_compiler
def test_recomputing_blocks_lowers_the_temporaries_on_a_tpu():
    """At a batch whose activations do not stay on the chip."""
    found = {}
    for policy in ("none", "blocks"):
        config = dataclasses.replace(
            SMALL, mixed_precision="bf16", resolution=128, train_batch_size=64, gradient_checkpointing_policy=policy
        )
        found[policy] = measure(dataclasses.replace(ASKED, topology="v5e-1", config=config))
    assert found["blocks"].memory.temporaries < found["none"].memory.temporaries
    assert found["blocks"].estimate.flops > found["none"].estimate.flops


@pytest.mark.slow
@needs_tpu_compiler
def test_what_does_not_fit_is_refused_with_its_bytes():
    config = dataclasses.replace(SMALL, mixed_precision="bf16", resolution=128, train_batch_size=4096)
    plan = measure(dataclasses.replace(ASKED, topology="v2-8", config=config))
    assert not plan.fits and plan.needed > plan.limit
    assert json.dumps(plan.as_dict())


def test_the_child_compiles_as_the_run_would(tmp_path, monkeypatch):
    tpu, told = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite"), []
    monkeypatch.setattr(compiling, "answer", lambda *arguments: told.append(compiler_options(tpu)))
    for fast in (True, False):
        config = dataclasses.replace(SMALL, fast_compile=fast)
        (tmp_path / "request.json").write_text(dataclasses.replace(ASKED, config=config).as_json())
        child_process(tmp_path)
    assert told[0] != told[1] == compiler_options(tpu)


@pytest.mark.slow
@needs_tpu_compiler
def test_a_fast_compile_makes_less_code():
    """At a size that has something to tile."""
    config = dataclasses.replace(SMALL, mixed_precision="bf16", resolution=64, train_batch_size=4)
    asked = dataclasses.replace(ASKED, config=config, topology="v5e-1", full=True)
    usual = measure(asked)
    fast = measure(dataclasses.replace(asked, config=dataclasses.replace(config, fast_compile=True)))
    assert fast.has_code and fast.memory.code < usual.memory.code
