"""SIGTERM and Ctrl-C of the whole command: it saves, leaves within seconds with a code of its own, and can go on."""

from __future__ import annotations

import signal
import time

import pytest

from tests.training.whole_runs import arguments, finish, make_inputs, metrics, start, weight_files

pytestmark = pytest.mark.slow

SETTINGS = {"checkpointing_steps": 0, "num_class_images": 4, "random_flip": True, "use_ema": True}
STEPS = 400  # far more than are taken until the signal


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("interrupted"))


def wait_for_steps(process, out, count):
    file = out / "metrics.jsonl"
    while not file.is_file() or file.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on_to_the_same_end(inputs, tmp_path, number, code):
    out = tmp_path / "out"
    process = start(arguments(inputs, out, max_train_steps=STEPS, **SETTINGS))
    wait_for_steps(process, out, 3)
    process.send_signal(number)
    sent = time.monotonic()
    text, _ = process.communicate(timeout=600)
    assert process.returncode == code, text
    assert time.monotonic() - sent < 15, text
    (checkpoint,) = out.glob("checkpoint-*")
    step = int(checkpoint.name.rpartition("-")[2])
    assert [row["step"] for row in metrics(out)] == list(range(1, step + 1))
    name = signal.Signals(number).name
    assert f"{name}: this step is finished, then saved" in text
    assert f"stopped after step {step}; go on with --resume_from_checkpoint latest" in text
    assert not (out / "model_index.json").exists() and not (out / "summary.json").exists()

    last = {"max_train_steps": step + 2, **SETTINGS}
    text = finish(arguments(inputs, out, resume_from_checkpoint="latest", **last))
    assert f"going on from {checkpoint}" in text
    assert f"--max_train_steps was {STEPS} and is {step + 2}" in text
    finish(arguments(inputs, tmp_path / "unbroken", **last))
    assert weight_files(out) == weight_files(tmp_path / "unbroken")
    assert [row["loss"] for row in metrics(out)] == [row["loss"] for row in metrics(tmp_path / "unbroken")]


def test_ctrl_c_before_the_first_step_leaves_without_a_traceback(inputs, tmp_path):
    process = start(arguments(inputs, tmp_path / "out", max_train_steps=STEPS, **SETTINGS))
    time.sleep(1.5)  # in the imports, or a little later
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 130 and "Traceback" not in text, text
