"""Checkpoints: exact, complete or absent, and clear about what is wrong with them."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from flaxdream.training.adam_8bit import scale_by_adam_8bit
from flaxdream.training.checkpoint_arrays import restore_checkpoint
from flaxdream.training.checkpoints import CheckpointNotSavedError, Checkpoints, latest_checkpoint
from flaxdream.training.ema import init_ema
from flaxdream.training.resume import differences, find_checkpoint
from flaxdream.weights.checkpoint import MANIFEST, DamagedCheckpointError, list_checkpoints, read_checkpoint

ADAM_8BIT = optax.chain(optax.clip_by_global_norm(1.0), scale_by_adam_8bit(0.9, 0.999, 1e-8))


def shapes(optimizer: optax.GradientTransformation):
    def init():
        blocks = {str(i): {"scale": jnp.ones(8)} for i in range(11)}
        trained = {"unet": {"conv_in": {"kernel": jnp.ones((8, 64, 64)), "bias": jnp.ones(8)}, "blocks": blocks}}
        return {
            "step": jnp.zeros((), jnp.int32),
            "params": trained,
            "opt_state": optimizer.init(trained),
            "ema": init_ema(trained, jnp.bfloat16),
            "loss_scale": {"scale": jnp.ones(())},
        }

    return jax.eval_shape(init)


def state(seed: int = 0, optimizer: optax.GradientTransformation = ADAM_8BIT):
    """A training state of all dtypes, in all their bits: float32, bfloat16, int32, the uint16 codes of 8-bit Adam."""
    r = np.random.default_rng(seed)

    def fill(shape):
        bits = r.integers(0, 256, (*shape.shape, shape.dtype.itemsize), np.uint8)
        return jnp.asarray(bits.view(shape.dtype).reshape(shape.shape))

    return jax.tree.map(fill, shapes(optimizer))


def mesh():
    return jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def on_eight(tree):
    """Long axes are sharded, the rest lies on every device."""

    def put(x):
        sharded = x.ndim == 3 and x.shape[0] == 8
        return jax.device_put(x, NamedSharding(mesh(), PartitionSpec("fsdp") if sharded else PartitionSpec()))

    return jax.tree.map(put, tree)


def on_one(tree):
    return jax.device_put(tree, SingleDeviceSharding(jax.devices()[0]))


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def save_steps(folder: Path, *steps: int, limit: int | None = None) -> None:
    with Checkpoints(folder, limit) as checkpoints:
        for step in steps:
            checkpoints.save(step, {"step": jnp.asarray(step, jnp.int32)}, {"at": step})


@pytest.mark.parametrize("saved_on", [on_one, on_eight])
@pytest.mark.parametrize("restored_on", [on_one, on_eight])
def test_a_state_comes_back_bit_for_bit_on_any_number_of_devices(tmp_path, saved_on, restored_on):
    before = saved_on(state(3))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, before, {"config": {"seed": 1}, "pictures": ["a.jpg"]})
    wanted = restored_on(state(4))
    after, extra = restore_checkpoint(tmp_path / "checkpoint-3", abstract(wanted))
    assert_same(after, before)
    assert extra == {"config": {"seed": 1}, "pictures": ["a.jpg"]}
    for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(wanted), strict=True):
        assert x.sharding == y.sharding
    assert names(tmp_path) == ["checkpoint-3"]


@pytest.mark.parametrize("place", [on_one, on_eight])
def test_a_state_that_is_donated_right_after_the_save_is_saved_as_it_was(tmp_path, place):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1 if x.dtype == jnp.float32 else x, tree), donate_argnums=0)
    now = place(state(0))
    with Checkpoints(tmp_path) as checkpoints:
        for i in range(3):
            checkpoints.save(i, now, {})
            for _ in range(3):
                now = step(now)
    expected = place(state(0))
    for i in range(3):
        back, _ = restore_checkpoint(tmp_path / f"checkpoint-{i}", abstract(place(state(0))))
        assert_same(back, expected)
        for _ in range(3):
            expected, back = step(expected), step(back)  # a restored state can be donated, too
        assert_same(back, expected)


def test_a_part_of_a_state_can_be_read_alone(tmp_path):
    whole = state(1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, whole, {})
    part, _ = restore_checkpoint(tmp_path / "checkpoint-1", abstract({"ema": whole["ema"]}), partial=True)
    assert_same(part, {"ema": whole["ema"]})


def test_all_that_does_not_fit_is_named_in_one_error(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), {})
    other = state(1, optax.adam(1e-3))
    del other["loss_scale"]
    other["params"]["unet"]["conv_in"]["bias"] = jnp.ones(9)
    other["params"]["unet"]["blocks"]["3"]["scale"] = jnp.ones(8, jnp.bfloat16)
    with pytest.raises(ValueError) as error:
        restore_checkpoint(tmp_path / "checkpoint-1", abstract(other))
    assert str(error.value) == (
        f"{tmp_path}/checkpoint-1 does not fit this run:\n"
        "  this run has, and the checkpoint has not: opt_state.0 (27 arrays)\n"
        "  the checkpoint has, and this run has not: loss_scale, opt_state.1 (29 arrays)\n"
        "  params.unet.blocks.3.scale was saved as float32[8] and is bfloat16[8] here\n"
        "  params.unet.conv_in.bias was saved as float32[8] and is float32[9] here\n"
        "Resume with the settings that wrote it (what is trained, the optimizer, --use_ema, --mixed_precision), "
        "or start anew without --resume_from_checkpoint."
    )


def test_a_missing_average_is_not_replaced_by_anything(tmp_path):
    without = state(1)
    del without["ema"]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, without, {})
    with pytest.raises(ValueError, match=r"this run has, and the checkpoint has not: ema \(14 arrays\)"):
        restore_checkpoint(tmp_path / "checkpoint-1", abstract(state(1)))


@pytest.mark.parametrize(
    ("leaf", "what"),
    [(1.0, "lr is a float"), (np.ones(2), "lr is a ndarray"), (jnp.asarray(1.0), "lr is a weakly typed float32")],
)
def test_a_leaf_that_would_not_come_back_as_it_is_is_refused(tmp_path, leaf, what):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match=what):
        checkpoints.save(1, {"lr": leaf}, {})
    assert names(tmp_path) == []


def test_what_is_saved_beside_the_state_must_be_json(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="must be JSON"):
        checkpoints.save(1, state(), {"path": tmp_path})


def test_the_oldest_goes_when_there_are_more_than_the_limit(tmp_path):
    save_steps(tmp_path, 1, 2, 10, 3, limit=2)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-3"]
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_keeps_nothing_is_refused(tmp_path, limit):
    with pytest.raises(ValueError, match="would keep no checkpoint"):
        Checkpoints(tmp_path, limit)


def test_an_old_checkpoint_goes_only_after_the_new_one_is_in_its_place(tmp_path, monkeypatch):
    save_steps(tmp_path, 1)
    seen = []
    rename = Path.rename

    def recording(path, target):
        seen.append((names(tmp_path), path.name, Path(target).name))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", recording)
    save_steps(tmp_path, 2, limit=1)
    ours = [entry for entry in seen if entry[2].endswith(("checkpoint-2", ".removed"))]
    assert ours == [
        ([".checkpoint-2.writing", "checkpoint-1"], ".checkpoint-2.writing", "checkpoint-2"),
        (["checkpoint-1", "checkpoint-2"], "checkpoint-1", ".checkpoint-1.removed"),
    ]


def test_after_going_on_from_an_earlier_step_the_newest_is_the_one_written_last(tmp_path):
    save_steps(tmp_path, 100, 200, 300)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(tmp_path / "checkpoint-100", {"step": jnp.zeros((), jnp.int32)})
        checkpoints.save(150, {"step": jnp.asarray(150, jnp.int32)}, {})
        assert checkpoints.latest() == tmp_path / "checkpoint-150"
        checkpoints.save(200, {"step": jnp.asarray(-200, jnp.int32)}, {})
        assert checkpoints.latest() == tmp_path / "checkpoint-200"
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "checkpoint-100", "checkpoint-300", "checkpoint-150", "checkpoint-200",
    ]  # fmt: skip
    back, _ = restore_checkpoint(tmp_path / "checkpoint-200", {"step": jnp.zeros((), jnp.int32)})
    assert back["step"] == -200
    assert names(tmp_path) == [f"checkpoint-{step}" for step in (100, 150, 200, 300)]


def test_the_state_just_saved_or_restored_is_not_written_again(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"step": jnp.asarray(1, jnp.int32)}, {})
        checkpoints.save(1, {"step": jnp.asarray(1, jnp.int32)}, {"again": True})
    assert read_checkpoint(tmp_path / "checkpoint-1").extra == {}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(tmp_path / "checkpoint-1", {"step": jnp.zeros((), jnp.int32)})
        checkpoints.save(1, {"step": jnp.asarray(1, jnp.int32)}, {"again": True})
    assert read_checkpoint(tmp_path / "checkpoint-1").extra == {}


def test_a_checkpoint_of_accelerate_is_neither_taken_nor_overwritten(tmp_path):
    foreign = tmp_path / "checkpoint-500"
    foreign.mkdir()
    (foreign / "optimizer.bin").write_bytes(b"torch")
    assert latest_checkpoint(tmp_path) is None
    with pytest.raises(ValueError, match="PyTorch's accelerate wrote it"):
        find_checkpoint(tmp_path, "checkpoint-500")
    with pytest.raises(ValueError, match="is in the way"):
        save_steps(tmp_path, 500)
    assert names(foreign) == ["optimizer.bin"]


# Damage


@pytest.fixture
def three(tmp_path):
    save_steps(tmp_path, 100, 200, 300)
    return tmp_path


def largest_file(checkpoint: Path) -> Path:
    files = (file for file in checkpoint.rglob("*") if file.is_file() and file.name != MANIFEST)
    return max(files, key=lambda file: file.stat().st_size)


def test_a_missing_file_is_named_and_so_is_the_checkpoint_to_resume_from(three):
    file = largest_file(three / "checkpoint-300")
    file.unlink()
    assert latest_checkpoint(three) == three / "checkpoint-300"
    with pytest.raises(DamagedCheckpointError) as error:
        restore_checkpoint(three / "checkpoint-300", {"step": jnp.zeros((), jnp.int32)})
    assert f"{file.relative_to(three / 'checkpoint-300')} is missing" in str(error.value)
    assert str(error.value).endswith("--resume_from_checkpoint checkpoint-200")


def test_a_truncated_file_is_named_and_damaged_ones_are_not_recommended(three):
    for name in ("checkpoint-300", "checkpoint-200"):
        file = largest_file(three / name)
        os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(DamagedCheckpointError, match=r"has \d+ bytes instead of \d+.*checkpoint-100$"):
        restore_checkpoint(three / "checkpoint-300", {"step": jnp.zeros((), jnp.int32)})


def test_a_manifest_that_cannot_be_read_is_damage_and_keeps_its_place(three):
    (three / "checkpoint-300" / "checkpoint.json").write_text('{"format": 1, "st')
    assert latest_checkpoint(three) == three / "checkpoint-300"
    with pytest.raises(DamagedCheckpointError, match=r"checkpoint.json cannot be read.*checkpoint-200$"):
        find_checkpoint(three, "checkpoint-300")


def test_a_file_of_the_right_size_with_other_bytes_in_its_index_is_damage(three):
    for file in (three / "checkpoint-300").rglob("*.ocdbt"):
        file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(DamagedCheckpointError, match="could not be read.*checkpoint-200$"):
        restore_checkpoint(three / "checkpoint-300", {"step": jnp.zeros((), jnp.int32)})


def test_a_checkpoint_of_a_later_format_is_not_guessed_at(three):
    manifest = three / "checkpoint-300" / "checkpoint.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 2}))
    with pytest.raises(ValueError, match="has format 2, and this version of flaxdream reads 1"):
        restore_checkpoint(three / "checkpoint-300", {"step": jnp.zeros((), jnp.int32)})


def test_what_a_killed_save_left_is_ignored_and_then_deleted(three):
    shutil.copytree(three / "checkpoint-300", three / ".checkpoint-400.writing")
    shutil.copytree(three / "checkpoint-300", three / ".checkpoint-400.writing.orbax-checkpoint-tmp")
    shutil.copytree(three / "checkpoint-100", three / ".checkpoint-50.removed")
    (three / "checkpoint-100").rename(three / ".checkpoint-100.replaced")
    shutil.copytree(three / "checkpoint-200", three / ".checkpoint-200.replaced")
    assert latest_checkpoint(three) == three / "checkpoint-300"
    Checkpoints(three).close()
    assert names(three) == ["checkpoint-100", "checkpoint-200", "checkpoint-300"]


# Failing writes


def test_a_failed_save_is_raised_by_the_next_call_and_leaves_the_earlier_ones(three, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Checkpoints(three) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", no_space)
            checkpoints.save(400, {"step": jnp.asarray(400, jnp.int32)}, {})
            with pytest.raises(CheckpointNotSavedError) as error:
                while True:
                    checkpoints.check()
                    time.sleep(0.01)
        assert "checkpoint-400 could not be written" in str(error.value)
        assert "free there): No space left on device" in str(error.value)
        assert "as they were: checkpoint-100, checkpoint-200, checkpoint-300." in str(error.value)
        assert names(three) == ["checkpoint-100", "checkpoint-200", "checkpoint-300"]
        checkpoints.save(400, {"step": jnp.asarray(400, jnp.int32)}, {})
    assert latest_checkpoint(three) == three / "checkpoint-400"


FULL_DISK = """
import resource, sys
import jax, jax.numpy as jnp
jax.config.update("jax_platforms", "cpu")
from flaxdream.training.checkpoints import Checkpoints, CheckpointNotSavedError
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
checkpoints = Checkpoints(sys.argv[1], 2)
checkpoints.save(1, {"x": jnp.ones(1000)}, {})
checkpoints.save(2, {str(i): jnp.ones(100_000) for i in range(10)}, {})
try:
    checkpoints.save(3, {"x": jnp.ones(1000)}, {})
except CheckpointNotSavedError as error:
    print(error)
checkpoints.save(4, {"x": jnp.ones(1000)}, {})
checkpoints.close()
"""


def test_a_disk_that_is_full_in_the_middle_of_a_save_costs_only_that_save(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), "limit"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/checkpoint-2 could not be written (4.0 MB" in done.stdout
    assert "File too large" in done.stdout and "as they were: checkpoint-1." in done.stdout
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-4"]
    assert done.stderr == ""


def test_a_failure_at_the_end_does_not_hide_the_error_that_ended_the_run(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RuntimeError, match="diverged") as error, Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"step": jnp.asarray(1, jnp.int32)}, {})
        raise RuntimeError("diverged")
    assert "checkpoint-1 could not be written" in error.value.__notes__[0]


# Resuming


def test_latest_starts_from_scratch_where_there_is_nothing_and_says_so(tmp_path, capsys):
    assert find_checkpoint(tmp_path / "new", "latest") is None
    assert "holds no checkpoint yet, so training starts from scratch" in capsys.readouterr().out
    assert find_checkpoint(tmp_path / "new", None) is None
    assert capsys.readouterr().out == ""


def test_a_checkpoint_is_found_by_latest_by_name_and_by_path(three, tmp_path, monkeypatch):
    assert find_checkpoint(three, "latest") == three / "checkpoint-300"
    assert find_checkpoint(three, "checkpoint-100") == three / "checkpoint-100"
    assert find_checkpoint(tmp_path / "other run", str(three / "checkpoint-200")) == three / "checkpoint-200"
    monkeypatch.chdir(three.parent)
    assert find_checkpoint("other run", f"{three.name}/checkpoint-200") == three / "checkpoint-200"


def test_what_is_no_checkpoint_is_answered_with_what_is_there(three, tmp_path):
    with pytest.raises(ValueError, match="no such checkpoint.*holds checkpoint-300, checkpoint-200, checkpoint-100"):
        find_checkpoint(three, "checkpoint-400")
    with pytest.raises(ValueError, match="is no checkpoint of flaxdream.*holds checkpoint-300, checkpoint-200"):
        find_checkpoint(tmp_path / "other run", str(three))


def test_settings_that_changed_are_told_one_by_one():
    saved = {"learning_rate": 5e-6, "betas": [0.9, 0.999], "seed": 1, "use_ema": False, "output_dir": "a"}
    now = {"learning_rate": 1e-5, "betas": (0.9, 0.999), "seed": 1, "use_ema": True, "output_dir": "b", "later": 3}
    assert differences(saved | {"snr_gamma": None}, now | {"snr_gamma": 5}) == [
        "--learning_rate was 5e-06 and is 1e-05.",
        "--use_ema was false and is true.",
        "--snr_gamma was not set and is 5.",
    ]


# The terminal, and kills


def test_orbax_says_nothing_and_other_users_of_its_logger_are_heard(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    save_steps(tmp_path, 1)
    restore_checkpoint(tmp_path / "checkpoint-1", {"step": jnp.zeros((), jnp.int32)})
    assert [record for record in caplog.records if "orbax" in record.pathname] == []
    logging.getLogger("absl").warning("of somebody else")
    assert "of somebody else" in caplog.text


SAVING = """
import sys
import jax, jax.numpy as jnp
jax.config.update("jax_platforms", "cpu")
from flaxdream.training.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1], 2)
start = checkpoints.latest()
step = 0 if start is None else int(start.name.rpartition("-")[2])
while True:
    step += 1
    w = {str(i): jnp.full((512, 256), step, jnp.float32) for i in range(8)}
    checkpoints.save(step, {"step": jnp.asarray(step, jnp.int32), "w": w}, {"at": step})
    print("saving", flush=True)
"""


@pytest.mark.slow
def test_runs_killed_at_random_moments_leave_complete_checkpoints_alone(tmp_path):
    moments, last, leftovers = random.Random(7), 0, set()
    wanted = {"step": jnp.zeros((), jnp.int32), "w": {str(i): jnp.zeros((512, 256)) for i in range(8)}}
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", SAVING, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as saving:
            assert saving.stdout.readline() == b"saving\n", saving.stderr.read()
            time.sleep(moments.uniform(0, 0.8))
            saving.send_signal(signal.SIGKILL)
        leftovers |= {name.rpartition(".")[2] for name in names(tmp_path) if name.startswith(".")}
        survivors = list_checkpoints(tmp_path)
        for path in survivors:
            restored, extra = restore_checkpoint(path, wanted)
            step = int(path.name.rpartition("-")[2])
            assert int(restored["step"]) == step and extra == {"at": step}
            assert all(np.array_equal(w, np.full((512, 256), step, np.float32)) for w in restored["w"].values())
        steps = [int(path.name.rpartition("-")[2]) for path in survivors]
        assert steps == sorted(steps) and max(steps, default=0) >= last
        last = max(steps, default=0)
    assert last > 0 and leftovers  # some were killed in the middle of a save
    Checkpoints(tmp_path).close()
    assert not [name for name in names(tmp_path) if name.startswith(".")]
