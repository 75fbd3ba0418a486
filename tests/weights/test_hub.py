"""Hub ids: huggingface_hub itself talks to a server on this machine, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flaxdream.weights.hub import component_folder, files_to_fetch, model_folder
from tests.weights.hub_server import COMMIT, serving

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": [None, None],
}
UNET = "unet/diffusion_pytorch_model"

CALLS = """
import json, logging, sys
from flaxdream.weights import hub
logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
results = []
for call in json.loads(sys.argv[1]):
    try:
        results.append(str(getattr(hub, call.pop("function", "model_folder"))(**call)))
    except ValueError as error:
        results.append(f"ValueError: {error}")
print(json.dumps(results))
"""


def calls(cache: Path, endpoint: str, *arguments: dict, **environment: str) -> tuple[list[str], str]:
    """What each call returned or raised, in one new process; and what was logged."""
    clean = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", CALLS, json.dumps(arguments)]
    done = subprocess.run(command, env=clean | own | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture
def repository(tmp_path):
    present = {
        "README.md": "about",
        "v1-5-pruned.ckpt": "4 GB",
        f"{UNET}.safetensors": "plain",
        f"{UNET}.fp16.safetensors": "half",
        f"{UNET}.bin": "unet pickle",
        "unet/diffusion_flax_model.msgpack": "flax",
        "unet/config.json": "unet's",
        "unet/openvino/model.xml": "x",
        "vae/config.json": "vae's",
        "vae/diffusion_pytorch_model.safetensors": "vae",
        "safety_checker/pytorch_model.bin": "pickle",
        "safety_checker/config.json": "safety_checker's",
    }
    for name, content in present.items():
        (tmp_path / "repository" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repository" / name).write_text(content)
    (tmp_path / "repository" / "model_index.json").write_text(json.dumps(INDEX))
    return tmp_path / "repository"


def test_only_the_files_that_are_needed_are_fetched_once_and_found_again_offline(tmp_path, repository):
    cache = tmp_path / "cache"
    with serving(repository) as server:
        (first, again, at_commit, half), _ = calls(
            cache,
            server.endpoint,
            {"model": "owner/model"},
            {"model": "owner/model"},
            {"model": "owner/model", "revision": COMMIT, "token": "hf_mine"},
            {"model": "owner/model", "variant": "fp16", "components": ["unet"]},
        )
        fetched = list(server.asked)
        assert "Bearer hf_mine" in server.tokens
    assert first == again == at_commit == half
    assert sorted(fetched) == [
        "README.md",
        "model_index.json",
        "safety_checker/config.json",
        "safety_checker/pytorch_model.bin",
        "unet/config.json",
        f"{UNET}.fp16.safetensors",
        f"{UNET}.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert (Path(first) / f"{UNET}.safetensors").read_text() == "plain"

    # The server is gone.
    (unreachable, unknown), log = calls(cache, server.endpoint, {"model": "owner/model"}, {"model": "owner/none"})
    assert unreachable == first and "the Hub is out of reach" in log
    assert "owner/none is not a local folder and not in the cache" in unknown
    assert "the Hub is out of reach" in unknown and "Connect to the network" in unknown
    (offline, unknown), _ = calls(
        cache, server.endpoint, {"model": "owner/model"}, {"model": "owner/none"}, HF_HUB_OFFLINE="1"
    )
    assert offline == first
    assert "HF_HUB_OFFLINE is set" in unknown


def test_errors_of_the_hub_say_what_to_do(tmp_path, repository):
    with serving(repository) as server:
        results, _ = calls(
            tmp_path / "cache",
            server.endpoint,
            {"model": "owner/none"},
            {"model": "owner/gated"},
            {"model": "owner/model", "revision": "nope"},
            {"model": "owner/model", "variant": "bf16"},
            {"model": "owner/other", "local_files_only": True},
        )
        assert server.asked == ["model_index.json"]
    for result, part in zip(
        results,
        (
            "neither a local folder nor a model that the Hub shows you. Check the spelling",
            "owner/gated is gated: accept its licence",
            "owner/model has no revision 'nope'; expected a branch, tag or commit.",
            "no weights of variant 'bf16'. Choose: variant='fp16' or no variant.",
            "nothing can be downloaded: local_files_only is set",
        ),
    ):
        assert result.startswith("ValueError: ") and part in result


def test_a_component_may_stand_alone_or_in_a_model(tmp_path, repository):
    wanted = {"function": "component_folder", "source": "owner/model", "component": "vae"}
    with serving(repository) as server:
        (inside,), _ = calls(tmp_path / "a", server.endpoint, dict(wanted))
        assert sorted(server.asked) == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("config.json", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "README.md"):
        (alone / name).write_text(name)
    with serving(alone) as server:
        (outside, missing), _ = calls(tmp_path / "b", server.endpoint, dict(wanted), wanted | {"source": "owner/none"})
        assert sorted(server.asked) == ["README.md", "config.json", "diffusion_pytorch_model.safetensors"]
    assert (Path(inside).name, (Path(inside) / "config.json").read_text()) == ("vae", "vae's")
    assert (Path(outside) / "config.json").read_text() == "config.json"
    assert "neither a local folder nor a model that the Hub shows you" in missing
    for cache, folder in (("a", inside), ("b", outside)):
        (offline,), _ = calls(tmp_path / cache, server.endpoint, dict(wanted), HF_HUB_OFFLINE="1")
        assert offline == folder


def test_a_component_of_this_machine_is_its_folder_or_lies_in_a_models(tmp_path):
    (tmp_path / "model/vae").mkdir(parents=True)
    assert component_folder(tmp_path / "model", "vae") == component_folder(tmp_path / "model/vae", "vae")
    (tmp_path / "vae.safetensors").write_text("")
    with pytest.raises(ValueError, match="is a file; expected the folder of a vae with its config, or a Hub id"):
        component_folder(tmp_path / "vae.safetensors", "vae")


def test_a_repository_without_an_index_is_no_diffusers_model(tmp_path, repository):
    (repository / "model_index.json").unlink()
    with serving(repository) as server:
        (result,), _ = calls(tmp_path / "cache", server.endpoint, {"model": "owner/model"})
    assert "is not a diffusers model: it has no model_index.json" in result


def test_a_local_folder_comes_first(tmp_path, monkeypatch):
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_folder("owner/model") == Path("owner/model")


@pytest.mark.parametrize("model", ["./none", "/none/at/all", "a/b/c", "owner/", "-x", ""])
def test_what_can_be_neither_folder_nor_id_is_an_error(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="neither a folder that exists nor a Hub id"):
        model_folder(model)


def test_without_network_a_hub_id_is_one_clear_error(tmp_path):
    with pytest.raises(
        ValueError, match="owner/model is not a local folder and not in the cache .*HF_HUB_OFFLINE is set"
    ):
        model_folder("owner/model", cache_dir=tmp_path)


def test_the_variant_is_chosen_for_each_component():
    present = [
        "model_index.json",
        "LICENSE.md",
        "README.md",
        "unet/README.md",
        f"{UNET}.fp16.safetensors",
        f"{UNET}.safetensors",
        "vae/model.safetensors",
    ]
    chosen = files_to_fetch(present, INDEX, "fp16", None)
    names = ["model_index.json", "LICENSE.md", "README.md", "unet/README.md"]
    assert chosen == [*names, f"{UNET}.fp16.safetensors", "vae/model.safetensors"]


def test_networks_that_cannot_be_read_are_an_error_before_they_are_downloaded():
    with pytest.raises(ValueError, match=r"the model's unet has no weights that can be read.*\.bin.*Convert them once"):
        files_to_fetch(["model_index.json", f"{UNET}.bin", "unet/config.json"], INDEX, None, None)
    with pytest.raises(ValueError, match="Pass variant='fp16'"):
        files_to_fetch(["model_index.json", f"{UNET}.fp16.safetensors"], INDEX, None, None)
