"""Uploads: huggingface_hub itself talks to a server on this machine, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flaxdream.weights.push import final_files, last_grid, push_model
from tests.weights.hub_uploads import READ_ONLY, TOKEN, receiving

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
FINAL = ["LICENSE.md", "README.md", "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", WEIGHTS]
GRID = "validation/step-000020/grid.png"
OTHERS = [
    "config.yaml", "metrics.jsonl", "report.html", "checkpoint-20/state/data", "logs/events", "thumbs/instance-00.jpg",
    "validation/step-000010/grid.png", "validation/step-000020/00-00.png", "unet/.partial", "old/unet.bin",
]  # fmt: skip

CALLS = """
import json, sys
from flaxdream.weights.push import push_model
results = []
for call in json.loads(sys.argv[1]):
    try:
        results.append(push_model(**call))
    except ValueError as error:
        results.append(f"ValueError: {error}")
print(json.dumps(results))
"""


def in_new_process(code: str, endpoint: str, home: Path, argument: object, **environment: str) -> list[str]:
    """What `code` printed, as JSON, given the argument; its Hub is at the endpoint."""
    left_out = ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    clean = {name: value for name, value in os.environ.items() if name not in left_out}
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    own |= {"HF_HUB_DISABLE_XET": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, json.dumps(argument)]
    done = subprocess.run(command, env=clean | own | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(entry.relative_to(folder)): entry.read_bytes() for entry in folder.rglob("*") if entry.is_file()}


def make_model(folder: Path) -> Path:
    """A run folder whose model is a few words."""
    for name in (*FINAL, GRID, *OTHERS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    index |= {"scheduler": ["diffusers", "DDIMScheduler"], "safety_checker": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    for name in ("unet/config.json", "scheduler/scheduler_config.json"):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text("---\nlibrary_name: diffusers\n---\n")
    return folder


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "my-dog")


def test_only_the_model_its_card_and_the_last_grid_are_final_files(model):
    assert final_files(model) == sorted([*FINAL, GRID])
    assert last_grid(model) == GRID
    assert "validation/step-1000000/grid.png" not in final_files(model)
    (model / "validation/step-1000000").mkdir()
    (model / "validation/step-1000000/grid.png").write_text("later")
    assert last_grid(model) == "validation/step-1000000/grid.png"


def test_extra_files_are_named_and_stay_inside_the_folder(model):
    assert set(final_files(model, ["checkpoint-*", "metrics.jsonl"])) - set(final_files(model)) == {
        "checkpoint-20/state/data",
        "metrics.jsonl",
    }
    with pytest.raises(ValueError, match="'nothing' matches nothing in"):
        final_files(model, ["nothing"])
    for outside in ("../secret", "/etc/passwd"):
        with pytest.raises(ValueError, match="leads out of"):
            final_files(model, [outside])


def test_a_folder_without_a_finished_model_is_not_uploaded(tmp_path):
    with pytest.raises(ValueError, match="is not a diffusers model folder"):
        push_model(tmp_path, "me/model")


def test_uploads_arrive_byte_for_byte_as_one_commit_each(tmp_path, model):
    before = contents(model)
    with receiving() as server:
        server.make("me/open")
        own = {"folder": str(model), "token": TOKEN}
        results = in_new_process(
            CALLS,
            server.endpoint,
            tmp_path,
            [
                own,
                own | {"repo_id": "cat", "private": True, "commit_message": "A cat"},
                own | {"repo_id": "me/my-dog", "extra": ["metrics.jsonl"]},
                own | {"repo_id": "me/open", "private": True},
            ],
        )
        found = server.repositories
    assert results[:3] == [f"{server.endpoint}/me/{name}" for name in ("my-dog", "cat", "my-dog")]
    assert found["me/cat"]["files"] == {name: before[name] for name in (*FINAL, GRID)}
    assert found["me/cat"]["private"] and found["me/cat"]["commits"] == ["A cat"]
    assert not found["me/my-dog"]["private"] and len(found["me/my-dog"]["commits"]) == 2
    assert set(found["me/my-dog"]["files"]) == {*FINAL, GRID, "metrics.jsonl"}
    assert "me/open is there already and public" in results[3] and not found["me/open"]["files"]
    assert contents(model) == before


def test_errors_say_what_to_do_and_leave_the_folder_alone(tmp_path, model):
    before = contents(model)
    with receiving() as server:
        server.fails_at = "me/full/commit"
        own = {"folder": str(model)}
        results = in_new_process(
            CALLS,
            server.endpoint,
            tmp_path,
            [
                own,
                own | {"token": "hf_wrong"},
                own | {"token": READ_ONLY, "repo_id": "me/model"},
                own | {"token": TOKEN, "repo_id": "you/model"},
                own | {"token": TOKEN, "repo_id": "a/b/c"},
                own | {"token": TOKEN, "repo_id": "me/full"},
            ],
        )
        found = server.repositories
    parts = (
        "there is no token. Run `hf auth login`",
        "the Hub does not accept the token. Make one with write access",
        "the token may not write there. Give it write access",
        "the token may not write there. Give it write access",
        "'a/b/c' can be no repository: expected owner/name",
        "storage is full",
    )
    for result, part in zip(results, parts, strict=True):
        assert result.startswith("ValueError: ") and part in result, result
        assert "hf_wrong" not in result and READ_ONLY not in result and TOKEN not in result
    assert f"The model in {model} is complete; to upload it later: python -c" in results[5]
    assert found.keys() == {"me/full"} and not found["me/full"]["files"]

    # The server is gone.
    (gone,) = in_new_process(CALLS, server.endpoint, tmp_path, [own | {"token": TOKEN}])
    assert "the Hub is out of reach" in gone and "Connect to the network and upload again" in gone
    (offline,) = in_new_process(CALLS, server.endpoint, tmp_path, [own | {"token": TOKEN}], HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set. Unset it" in offline
    assert contents(model) == before
