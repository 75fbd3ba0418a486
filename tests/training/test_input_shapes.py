"""What a recipe says of a step's arguments before it makes them: exactly what it then makes."""

from __future__ import annotations

import jax
import pytest
from PIL import Image

from flaxdream.config import DreamBoothConfig
from flaxdream.config.text_to_image import TextToImageConfig
from flaxdream.training.recipes import dreambooth, text_to_image
from tests.training.whole_runs import make_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = make_inputs(tmp_path_factory.mktemp("shapes"))
    (folder / "captioned").mkdir()
    for number, size in enumerate([(48, 16), (16, 48), (32, 32), (30, 30)]):
        Image.new("RGB", size, (60 * number, 90, 40)).save(folder / "captioned" / f"{number}.png")
        (folder / "captioned" / f"{number}.txt").write_text(f"a ball, number {number}, grey")
    return folder


def dreambooth_task(monkeypatch, inputs, **changes):
    tasks = []
    monkeypatch.setattr(dreambooth, "run", lambda task: tasks.append(task) or 0)
    settings = {
        "pretrained_model_name_or_path": str(inputs / "model"),
        "instance_data_dir": str(inputs / "instance"),
        "instance_prompt": "a photo of sks ball",
        "resolution": 16,
        "max_train_steps": 3,
    } | changes
    dreambooth.train_dreambooth(DreamBoothConfig(**settings))
    return tasks[0]


def captioned_task(inputs, **changes):
    settings = {
        "pretrained_model_name_or_path": str(inputs / "model"),
        "train_data_dir": str(inputs / "captioned"),
        "resolution": 16,
        "max_train_steps": 3,
    } | changes
    return text_to_image._task(TextToImageConfig(**settings))


def assert_says_what_it_makes(task, start=0):
    shapes = task.input_shapes(start)
    frozen, batches = task.inputs(start)
    said, made = (dict(jax.tree.leaves_with_path(tree)) for tree in (shapes, (frozen, next(batches))))
    assert said.keys() == made.keys()
    for path, leaf in made.items():
        assert (said[path].shape, said[path].dtype) == (leaf.shape, leaf.dtype), path
        assert said[path].sharding.is_equivalent_to(leaf.sharding, leaf.ndim), path


@pytest.mark.parametrize(
    "changes",
    [
        {"center_crop": True},
        {"random_flip": True, "mixed_precision": "bf16"},
        {"center_crop": True, "train_text_encoder": True, "gradient_accumulation_steps": 2},
        {"center_crop": True, "mixed_precision": "bf16", "fsdp": 4, "params_dtype": "bfloat16"},
    ],
    ids=["cached", "live", "text_encoder", "bf16"],
)
def test_of_dreambooth(monkeypatch, inputs, changes):
    assert_says_what_it_makes(dreambooth_task(monkeypatch, inputs, **changes), start=1)


def test_of_dreambooth_with_class_pictures(monkeypatch, inputs):
    prior = {"with_prior_preservation": True, "class_data_dir": str(inputs / "class"), "class_prompt": "a ball"}
    task = dreambooth_task(monkeypatch, inputs, center_crop=True, num_class_images=4, **prior)
    assert_says_what_it_makes(task)


@pytest.mark.parametrize(
    "changes",
    [
        {"center_crop": True},
        {"shuffle_caption": True, "center_crop": True},
        {"use_aspect_ratio_bucket": True, "bucket_divisor": 8},
        {"center_crop": True, "latents_cache_dir": "cache"},
    ],
    ids=["fixed", "varying", "buckets", "on disk"],
)
def test_of_captioned_pictures(inputs, tmp_path, changes):
    if "latents_cache_dir" in changes:
        changes = changes | {"latents_cache_dir": str(tmp_path)}
    assert_says_what_it_makes(captioned_task(inputs, **changes))
