"""The held-out loss of a text-to-image run: as many rows at once as a forward pass has, and the mean over all."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from PIL import Image

from flaxdream.config.text_to_image import TextToImageConfig
from flaxdream.training.recipes import text_to_image
from tests.training.smallest_model import write_smallest_model

COUNT = 19


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held_out")
    write_smallest_model(folder / "model")
    (folder / "pictures").mkdir()
    for number in range(COUNT):
        noise = np.random.default_rng(number).integers(0, 256, (16, 21, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"pictures/{number:02d}.png")
        (folder / f"pictures/{number:02d}.txt").write_text(f"a ball, number {number}")
    return folder


def measured(inputs, **changes):
    settings = {
        "pretrained_model_name_or_path": str(inputs / "model"),
        "train_data_dir": str(inputs / "pictures"),
        "held_out_data_dir": str(inputs / "pictures"),
        "held_out_loss_steps": 1,
        "resolution": 16,
        "train_batch_size": 1,
        "max_train_steps": 1,
        "center_crop": True,
    } | changes
    task = text_to_image._task(TextToImageConfig(**settings))
    return task, task.held_out_loss(task.trained)


def test_accumulation_takes_no_more_memory_and_changes_no_number(inputs):
    plain, loss = measured(inputs)
    many, same = measured(inputs, gradient_accumulation_steps=3)
    assert many.source.batch_rows == 3 * plain.source.batch_rows
    assert many._held_out.rows == plain._held_out.rows == jax.local_device_count()
    assert same == loss
    wider, near = measured(inputs, train_batch_size=3)  # one batch, of which five rows are filled up
    assert wider._held_out.rows == 3 * jax.local_device_count()
    np.testing.assert_allclose(near, loss, rtol=1e-6)


def test_workers_decode_and_no_setting_moves_the_pictures(inputs):
    _, loss = measured(inputs)
    task, same = measured(inputs, dataloader_num_workers=2, random_flip=True, center_crop=False)
    assert task._held_out._loader.settings.num_workers == 2
    assert same == loss
