"""Text-to-image training as a whole: the command on captioned folders, its held-out loss, buckets and captions."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
from PIL import Image

from flaxdream.cli import main
from flaxdream.training.recipes import cached, step_inputs
from flaxdream.weights.safetensors import open_safetensors
from tests.training.smallest_model import write_smallest_model

pytestmark = pytest.mark.slow
COLOURS = ("red", "green", "blue", "yellow", "black", "white")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A model, twelve captioned pictures of two shapes, and four that are held out."""
    folder = tmp_path_factory.mktemp("text_to_image")
    write_smallest_model(folder / "model")
    for kind, count in (("train", 12), ("held_out", 4)):
        (folder / kind).mkdir()
        lines = []
        for number in range(count):
            colour, size = COLOURS[number % 6], ((32, 32), (64, 32))[number % 2]
            Image.new("RGB", size, colour).save(folder / kind / f"{number}.png")
            lines.append(json.dumps({"file_name": f"{number}.png", "text": f"{colour}, plain, picture"}))
        (folder / kind / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def run(data, name, code=0, command="text_to_image", **changes):
    settings = {
        "pretrained_model_name_or_path": data / "model",
        "train_data_dir": data / "train",
        "output_dir": data / name,
        "resolution": 32,
        "center_crop": True,
        "train_batch_size": 1,
        "max_train_steps": 4,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 0,
        "report_to": "none",
        "compilation_cache_dir": "",
        "checkpointing_steps": 0,
    } | changes
    argv = [command]
    for key, value in settings.items():
        argv += [f"--{key}"] if value is True else [f"--{key}={value}"] if value is not None else []
    assert main(argv) == code
    return data / name


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    return [row["loss"] for row in rows(folder) if "loss" in row]


def unet(folder):
    tensors = open_safetensors(folder / "unet/diffusion_pytorch_model.safetensors")
    return {name: tensor.view() for name, tensor in tensors.items()}


def test_captions_tokenized_ahead_or_row_by_row_and_latents_cached_or_not_give_the_same_numbers(data):
    """Tags that are shuffled are not known ahead; with one tag kept first and the rest dropped nothing is random."""
    ahead = losses(run(data, "ahead", train_text_encoder=True))
    live = losses(run(data, "live", train_text_encoder=True, cache_latents="no"))
    np.testing.assert_allclose(live, ahead, rtol=1e-6)
    by_row = losses(run(data, "by_row", train_text_encoder=True, shuffle_caption=True, keep_tokens=3))
    np.testing.assert_allclose(by_row, ahead, rtol=1e-6)


def test_buckets_train_each_shape_at_its_own_size_cached_and_live(data):
    settings = {
        "use_aspect_ratio_bucket": True, "bucket_divisor": 16, "num_train_epochs": 2, "max_train_steps": None,
        "train_batch_size": 1,
    }  # fmt: skip
    cached = run(data, "buckets", **settings)
    live = run(data, "live_buckets", cache_latents="no", **settings)
    np.testing.assert_allclose(losses(cached), losses(live), rtol=1e-6)
    assert len(losses(cached)) == 4  # two shapes of six pictures, one batch of 8 rows each, two epochs


def test_latents_and_text_kept_on_disk_give_the_same_numbers_and_are_made_once(data, capsys, monkeypatch):
    plain = losses(run(data, "plain"))
    cache = {"latents_cache_dir": data / "cache"}
    run(data, "ahead_of_it", command="cache", **cache)
    assert not (data / "ahead_of_it/model_index.json").exists()
    np.testing.assert_array_equal(losses(run(data, "kept", **cache)), plain)
    files = {path: path.stat().st_mtime_ns for path in (data / "cache").iterdir()}
    assert len(files) == 4
    monkeypatch.setattr(cached, "encode_pictures", None)  # would fail if it were called
    monkeypatch.setattr(step_inputs, "CONTEXT_ON_DEVICE", 0)
    np.testing.assert_allclose(losses(run(data, "again", **cache)), plain, rtol=1e-6)
    assert {path: path.stat().st_mtime_ns for path in (data / "cache").iterdir()} == files


def test_the_held_out_loss_is_the_same_for_the_same_weights_whatever_the_run(data):
    held_out = {"held_out_data_dir": data / "held_out", "held_out_loss_steps": 2}
    first = rows(run(data, "first", snr_gamma=5.0, seed=1, **held_out))
    second = rows(run(data, "second", noise_offset=0.1, seed=2, train_batch_size=2, **held_out))
    assert [row["step"] for row in first if "held_out_loss" in row] == [0, 2, 4]
    np.testing.assert_allclose(first[0]["held_out_loss"], second[0]["held_out_loss"], rtol=1e-6)
    assert first[-1]["held_out_loss"] != second[-1]["held_out_loss"]
    summary = json.loads((data / "first/summary.json").read_text())
    assert summary["held_out_loss"]["first"] == first[0]["held_out_loss"]


def test_training_ends_early_when_the_held_out_loss_no_longer_falls(data):
    held_out = {"held_out_samples": 3, "held_out_loss_steps": 1, "early_stopping_patience": 2}
    folder = run(data, "early", learning_rate=0, max_train_steps=30, **held_out)
    assert len(losses(folder)) == 2
    assert (folder / "report.html").is_file() and (folder / "model_index.json").is_file()


@pytest.fixture(scope="module")
def parquet(data):
    """The twelve pictures in two parquet files, one of them without a caption."""
    (data / "parquet").mkdir()
    for part in range(2):
        numbers = range(6 * part, 6 * part + 6)
        pictures = [{"bytes": (data / f"train/{n}.png").read_bytes(), "path": f"{n}.png"} for n in numbers]
        texts = [None if n == 7 else f"{COLOURS[n % 6]} picture" for n in numbers]
        datasets.Dataset.from_dict({"image": pictures, "text": texts}).cast_column(
            "image", datasets.Image()
        ).to_parquet(data / f"parquet/train-{part}.parquet")
    return data / "parquet"


def test_a_stream_trains_and_a_checkpoint_remembers_its_place(data, parquet, capsys):
    stream = {
        "streaming": True, "shuffle_buffer_size": 4, "train_data_dir": parquet, "max_train_steps": 6,
        "lr_scheduler": "constant", "seed": 3,
    }  # fmt: skip
    whole = run(data, "stream", **stream)
    assert "rows without caption" in capsys.readouterr().out
    run(
        data, "stream_resumed", **stream | {"max_train_steps": 3, "checkpointing_steps": 2, "dataloader_num_workers": 1}
    )
    resumed = run(data, "stream_resumed", resume_from_checkpoint="latest", **stream)
    assert losses(resumed) == losses(whole)
    assert len(set(losses(whole))) == 6


def test_what_needs_all_pictures_does_not_go_with_a_stream(data, parquet, capsys):
    stream = {"streaming": True, "train_data_dir": parquet}
    run(data, "wrong", code=2, use_aspect_ratio_bucket=True, cache_latents="yes", latents_cache_dir="x", **stream)
    text = capsys.readouterr().err
    assert all(f"--{name} needs all pictures" in text for name in ("use_aspect_ratio_bucket", "cache_latents yes"))
    run(data, "wrong", code=2, **stream | {"max_train_steps": None})
    assert "unknown length: give --max_train_steps" in capsys.readouterr().err
    run(data, "wrong", code=2, validation_prompt="a", **stream)
    assert "--validation_steps" in capsys.readouterr().err
    run(data, "wrong", code=2, **stream | {"train_data_dir": data / "train"})
    assert "leave --streaming out" in capsys.readouterr().err


def test_another_prediction_type_is_trained_and_written_down(data):
    folder = run(data, "v", prediction_type="v_prediction", dream_training=True, multires_noise_iterations=3)
    assert json.loads((folder / "scheduler/scheduler_config.json").read_text())["prediction_type"] == "v_prediction"
    before, after = unet(data / "model"), unet(folder)
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_average_and_optimizer_state_in_host_memory_change_nothing_and_resume(data):
    plain = run(data, "on_device", use_ema=True, train_batch_size=2)
    settings = {"use_ema": True, "train_batch_size": 2, "offload_ema": True, "offload_optimizer": True}
    run(data, "offloaded", max_train_steps=2, lr_scheduler="constant", checkpointing_steps=2, **settings)
    offloaded = run(data, "offloaded", resume_from_checkpoint="latest", **settings)
    assert losses(offloaded) == losses(plain)
    ours, theirs = unet(offloaded), unet(plain)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_all_problems_are_told_at_once(data, capsys):
    run(
        data, "wrong", code=2, train_data_dir=data / "nowhere", proportion_empty_prompts=2, validation_scheduler="x",
        held_out_loss_steps=5,
    )  # fmt: skip
    text = capsys.readouterr().err
    assert "proportion_empty_prompts 2" in text and "held_out_loss_steps" in text
    run(data, "wrong", code=2, train_data_dir=data / "nowhere", validation_scheduler="x")
    text = capsys.readouterr().err
    assert "nowhere" in text and "'x'" in text
    assert not (data / "wrong").exists()


def test_latents_of_pictures_that_move_are_not_kept(data, capsys):
    run(data, "wrong", code=2, center_crop=None, random_flip=True, latents_cache_dir=data / "cache")
    assert "a kept latent cannot be flipped" in capsys.readouterr().err
    run(data, "wrong", code=2, center_crop=None, cache_latents="yes")
    assert "room for a random crop: add --center_crop" in capsys.readouterr().err
