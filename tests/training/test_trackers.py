"""metrics.jsonl, TensorBoard and W&B: what is written, resumed, refused and left out."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from flaxdream.training import trackers
from flaxdream.training.metrics_file import MetricsFile, read_metrics
from flaxdream.training.trackers import Trackers, tracker_names, without_secrets

tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboardX") is None, reason="pip install 'flaxdream[tensorboard]'"
)
wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="pip install 'flaxdream[wandb]'")
PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def written(path, count):
    """A metrics.jsonl with the steps 1 to `count`."""
    file = MetricsFile(path)
    for step in range(1, count + 1):
        file.log(step, {"loss": 1 / step})
    file.close()
    return path


def test_a_line_is_in_the_file_as_soon_as_it_is_logged(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    before = time.time()
    file.log(1, {"loss": np.float32(0.5), "images": 8})
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    file.close()
    assert row["time"] == pytest.approx(before, abs=60)
    assert {name: row[name] for name in ("step", "loss", "images")} == {"step": 1, "loss": 0.5, "images": 8}


def test_numbers_of_one_step_that_come_in_several_calls_are_one_line(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.log(1, {"loss": 0.123456789})
    file.log(1, {"validation_loss": 0.25})
    file.log(2, {"loss": 0.5})
    file.log(2, {"loss": 0.25})  # shorter than what it replaces
    file.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines] == [
        {"step": 1, "loss": 0.123456789, "validation_loss": 0.25},
        {"step": 2, "loss": 0.25},
    ]


def test_numbers_that_are_not_finite_are_null_and_every_line_is_strict_json(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.log(1, {"loss": float("nan"), "grad_norm": np.float32("inf")})
    file.close()
    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert row["loss"] is None and row["grad_norm"] is None


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_half_a_last_line_is_dropped_at_the_next_start_and_its_step_logged_anew(tmp_path, cut):
    path = written(tmp_path / "metrics.jsonl", 5)
    path.write_bytes(path.read_bytes()[:-cut])
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]
    file = MetricsFile(path, resume_step=4)
    file.log(5, {"loss": 9.0})
    file.close()
    assert steps(path) == [1, 2, 3, 4, 5]


def test_a_resume_removes_the_lines_of_later_steps_and_a_fresh_start_removes_all(tmp_path):
    path = written(tmp_path / "metrics.jsonl", 7)
    file = MetricsFile(path, resume_step=3)
    assert steps(path) == [1, 2, 3]
    file.log(3, {"validation_loss": 1.0})
    file.log(4, {"loss": 1.0})
    file.close()
    assert steps(path) == [1, 2, 3, 4]
    assert read_metrics(path)[2].keys() == {"step", "time", "loss", "validation_loss"}
    MetricsFile(path).close()
    assert path.read_bytes() == b""


def test_lines_that_are_no_metrics_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 2, "loss": 1}\n\0\0\0\n[1]\n{"loss": 1}\n{"step": true}\n\xff\n{"step": 1, "loss": 2}\n'
    )
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    assert read_metrics(tmp_path / "missing.jsonl") == []


@pytest.mark.slow
def test_kill_minus_nine_loses_no_line_that_was_logged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    program = (
        "import sys; from flaxdream.training.metrics_file import MetricsFile\n"
        f"file = MetricsFile({str(path)!r})\n"
        "for step in range(1, 10**9):\n    file.log(step, {'loss': 0.5}); print(step, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            last = int(line)
            if last >= 200:
                process.kill()
                break
    logged = [row["step"] for row in read_metrics(path)]
    assert logged == list(range(1, len(logged) + 1)) and len(logged) >= last


def test_a_full_disk_is_an_error_of_the_metrics_file():
    file = MetricsFile.__new__(MetricsFile)  # /dev/full cannot be replaced by a fresh file
    file._file, file._last, file._start, file._end = open("/dev/full", "r+b", buffering=0), {}, 0, 0  # noqa: SIM115
    with pytest.raises(OSError, match="No space left"):
        file.log(1, {"loss": 1.0})
    file.close()


@pytest.mark.parametrize("report_to", ["comet_ml", "tensorboard,wandbb", "none,wandb", "all,none"])
def test_a_tracker_that_is_not_known_is_refused_with_the_list(report_to):
    with pytest.raises(ValueError, match="tensorboard, wandb, several .* all .* none") as error:
        tracker_names(report_to)
    assert repr(report_to) in str(error.value)


def test_none_and_all_and_lists_are_as_in_the_diffusers_scripts(monkeypatch):
    monkeypatch.setattr(trackers, "_installed", lambda name: True)
    assert tracker_names("none") == tracker_names("") == ()
    assert tracker_names("all") == tracker_names("wandb, TensorBoard,wandb")[::-1] == ("tensorboard", "wandb")
    assert tracker_names(None) == ("tensorboard",)


def test_a_missing_package_is_a_note_by_default_and_an_error_by_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(trackers, "_installed", lambda name: False)
    with pytest.raises(ValueError, match=r"pip install 'flaxdream\[tensorboard,wandb\]'"):
        tracker_names("tensorboard,wandb")
    assert tracker_names("all") == ()
    with Trackers(None, tmp_path, {}) as run:
        run.log(1, {"loss": 1.0})
    assert "pip install 'flaxdream[tensorboard]'" in capsys.readouterr().err
    assert steps(tmp_path / "metrics.jsonl") == [1]


def test_a_folder_of_the_packages_name_is_not_the_package(tmp_path, monkeypatch):
    """W&B leaves a folder `wandb` in the working directory of other scripts; Python would import it."""
    (tmp_path / "onlyafolder").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(trackers.PACKAGES, "wandb", "onlyafolder")
    with pytest.raises(ValueError, match="not installed"):
        tracker_names("wandb")


def test_tokens_are_kept_from_the_trackers(monkeypatch):
    assert without_secrets({"hub_token": "hf_x", "seed": 1}) == {"seed": 1}
    monkeypatch.setattr(trackers, "_installed", lambda name: True)
    monkeypatch.setattr(sys, "argv", ["flaxdream", "--hub_token=hf_x"])
    with pytest.raises(ValueError, match="hf auth login"):
        tracker_names("wandb", hub_token="hf_x")
    assert tracker_names("tensorboard", hub_token="hf_x") == ("tensorboard",)
    monkeypatch.setattr(sys, "argv", ["flaxdream"])
    assert tracker_names("wandb", hub_token="hf_x") == ("wandb",)


def test_a_tracker_that_fails_is_named_once_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    class Full:
        def __init__(self, *args):
            pass

        def log(self, step, metrics):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(trackers, "_installed", lambda name: True)
    monkeypatch.setattr(trackers, "TensorBoard", Full)
    with Trackers("tensorboard", tmp_path, {}) as run:
        assert run.names == ("tensorboard",)
        run.log(1, {"loss": 1.0})
        run.log(2, {"loss": 1.0})
        assert run.names == ()
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert steps(tmp_path / "metrics.jsonl") == [1, 2]


def test_pictures_without_captions_are_refused(tmp_path):
    with Trackers("none", tmp_path, {}) as run, pytest.raises(ValueError, match="2 pictures cannot have 1 captions"):
        run.images(1, "validation", [PICTURE, PICTURE], ["one"])


def events(folder):
    """All events of the folder's files, in the order of their writing."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=os.path.getmtime):
        data = path.read_bytes()
        while data:
            size = struct.unpack("<Q", data[:8])[0]
            found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


@tensorboard
def test_tensorboard_gets_numbers_pictures_captions_and_settings(tmp_path):
    with Trackers("tensorboard", tmp_path, {"prompt": "a | `b`", "hub_token": "hf_x"}) as run:
        run.log(3, {"loss": 0.25})
        run.images(3, "validation", [PICTURE, PICTURE[:2]], ["one", "two"])
    found = events(tmp_path / "logs")
    values = {value.tag: (event.step, value) for event in found for value in event.summary.value}
    assert values["loss"][0] == 3 and values["loss"][1].simple_value == 0.25
    assert (values["validation/01"][1].image.width, values["validation/01"][1].image.height) == (6, 2)
    captions = values["validation/captions/text_summary"][1].tensor.string_val[0].decode()
    assert captions == "00  ` one `  \n01  ` two `"
    settings = values["settings/text_summary"][1].tensor.string_val[0].decode()
    assert r"| prompt | `` a \| `b` `` |" in settings and "hf_x" not in settings


@tensorboard
def test_tensorboard_hides_the_steps_that_a_resumed_run_takes_again(tmp_path):
    for resume_step in (None, 7):  # two starts within a second are two files
        Trackers("tensorboard", tmp_path, {}, resume_step).close()
    starts = [event.step for event in events(tmp_path / "logs") if event.HasField("session_log")]
    assert starts == [0, 8] and len(list((tmp_path / "logs").iterdir())) == 2


@tensorboard
def test_tensorboard_files_are_readable_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.TensorBoard, "FLUSH_SECONDS", 0.0)
    run = Trackers("tensorboard", tmp_path, {})
    run.log(1, {"loss": 0.5})
    tags = [value.tag for event in events(tmp_path / "logs") for value in event.summary.value]
    run.close()
    assert "loss" in tags


@wandb
@pytest.mark.slow
def test_wandb_offline_keeps_one_run_id_over_a_resume(tmp_path, monkeypatch):
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(name, value)
    for resume_step in (None, 1):
        with Trackers("wandb", tmp_path, {"prompt": "sks dog"}, resume_step) as run:
            step = 1 if resume_step is None else 2
            run.log(step, {"loss": 0.5})
            run.images(step, "validation", [PICTURE], ["a caption"])
            assert run.names == ("wandb",)
    files = list((tmp_path / "logs/wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and len({path.name for path in files}) == 1
    assert steps(tmp_path / "metrics.jsonl") == [1, 2]
