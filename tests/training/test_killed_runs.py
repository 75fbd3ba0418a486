"""The whole command, killed at 25 moments in a row and started again each time, ends as if it never had been."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.training.whole_runs import arguments, finish, make_inputs, metrics, start, weight_files

pytestmark = pytest.mark.slow

STEPS = 90
SETTINGS = {
    "max_train_steps": STEPS,
    "checkpointing_steps": 3,
    "checkpoints_total_limit": 2,
    "train_text_encoder": True,
    "use_ema": True,
    "random_flip": True,
    "num_class_images": 16,
    "sample_batch_size": 1,
    "class_num_inference_steps": 2,
    "validation_prompt": "a sks ball",
    "num_validation_images": 1,
    "validation_steps": 30,
    "validation_num_inference_steps": 2,
    "resume_from_checkpoint": "latest",
}
# What a run is waited for to begin, and how many seconds later, at most, it is killed.
# On a quick machine a moment may no longer come, since the run is done; the early starts at the end make up for it.
MOMENTS = [
    *[("class picture", 0.03)] * 4,
    *[("start", 4.0)] * 2,
    *[("step", 0.1), ("save", 0.02), ("step", 0.02), ("save", 0.05)] * 3,
    *[("start", 3.0)] * 3,
    *[("export", 0.02), ("export", 0.1), ("export", 0.5)],
    ("export", 0.3),
    *[("start", 0.5)] * 8,
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("killed"), class_pictures=0)


@pytest.fixture(scope="module")
def unbroken(inputs):
    """The run that nothing disturbs."""
    finish(arguments(inputs, inputs / "unbroken", class_data_dir=inputs / "unbroken-class", **SETTINGS))
    return inputs / "unbroken"


def signs(kind: str, out: Path, classes: Path) -> set[str]:
    """What there is on the disk of the kind of moment; a new one is the moment."""
    if kind == "class picture":
        return {path.name for path in classes.glob("*.png")}
    if kind == "step":
        file = out / "metrics.jsonl"
        return {line for line in file.read_text().split("\n")[:-1]} if file.is_file() else set()  # each has its time
    if kind == "save":
        return {path.name for path in out.glob(".checkpoint-*.writing*")}
    return {path.name for path in out.parent.glob(f".{out.name}.*")}


def killed(argv: list[str], kind: str, out: Path, classes: Path, delay: float, log: Path) -> bool:
    """Starts the run and kills it `delay` seconds after something of the kind appears; False if it was quicker."""
    before = set() if kind == "start" else signs(kind, out, classes)
    with start(argv, log=log) as process:
        while process.poll() is None and kind != "start" and not signs(kind, out, classes) - before:
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
    return process.returncode == -signal.SIGKILL


def test_25_kills_in_a_row_change_nothing(inputs, unbroken, tmp_path):
    out, classes, log = tmp_path / "out", tmp_path / "class", tmp_path / "log.txt"
    argv = arguments(inputs, out, class_data_dir=classes, **SETTINGS)
    draw, kills = random.Random(3), 0
    for kind, most in MOMENTS:
        delay = draw.uniform(0, most)
        while not (done := killed(argv, kind, out, classes, delay, log)) and delay > 0.005:
            delay /= 4
        kills += done
    finish(argv)
    assert kills >= 25, log.read_text()[-3000:]
    assert weight_files(out) == weight_files(unbroken)
    ours, theirs = metrics(out), metrics(unbroken)
    assert [row["step"] for row in ours] == list(range(1, STEPS + 1))
    assert [row["loss"] for row in ours] == [row["loss"] for row in theirs]
    assert {path.name for path in classes.iterdir()} == {path.name for path in (inputs / "unbroken-class").iterdir()}
    left = [path.name for folder in (out, tmp_path) for path in folder.iterdir() if path.name.startswith(".")]
    assert left == []
