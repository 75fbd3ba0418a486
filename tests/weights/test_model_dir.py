from __future__ import annotations

import json
import logging
import os
import shutil
import warnings

import diffusers
import flax.serialization
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flaxdream.models import build
from flaxdream.models.architectures import ARCHITECTURES
from flaxdream.weights import model_dir, names
from flaxdream.weights.model_dir import read_model_dir, write_model_dir
from flaxdream.weights.safetensors import open_safetensors, write_safetensors
from tests.twins import torch_pipeline
from tests.weights.conftest import NETWORKS, assert_equal, random_params
from tests.weights.test_msgpack import CONFIGS, flax_keys, flax_tree


def files_of(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def read_all(folder, networks, variant=None):
    model = read_model_dir(folder)
    return {name: model.read_params(name, networks[name].shapes, variant=variant) for name in NETWORKS}


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """A PyTorch pipeline and the folder that diffusers wrote of it."""
    folder = tmp_path_factory.mktemp("twin")
    pipeline = torch_pipeline("tiny", folder / "tokenizer")
    pipeline.save_pretrained(folder / "model")
    return pipeline, folder / "model"


class _Records(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def load_with_torch(folder):
    """The PyTorch pipeline of a folder; a warning, printed or logged, fails the test."""
    records = _Records()
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(records)
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    finally:
        for logger, level in zip(loggers, levels):
            logger.removeHandler(records)
            logger.setLevel(level)
    assert records.messages == []
    return pipeline


def test_a_model_of_diffusers_is_read_and_written_tensor_for_tensor(twin, networks, tmp_path):
    pipeline, source = twin
    write_model_dir(tmp_path / "out", source=source, params=read_all(source, networks))
    loaded = load_with_torch(tmp_path / "out")
    for name in NETWORKS:
        left, right = getattr(pipeline, name).state_dict(), getattr(loaded, name).state_dict()
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    before, after = files_of(source), files_of(tmp_path / "out")
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"text_encoder/model.safetensors"}  # prefix


def test_written_text_encoders_have_the_names_of_the_hub(model):
    found = open_safetensors(model / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in found)
    assert "text_model.embeddings.position_ids" not in found


def test_a_model_without_source_loads_in_torch_with_equal_tensors(model, networks, params):
    loaded = load_with_torch(model)
    for name in NETWORKS:
        state = {names.matching_name(key): value for key, value in getattr(loaded, name).state_dict().items()}
        for path, leaf in names.leaves(params[name]):
            tensor = state.pop(names.matching_name(names.file_name(path))).numpy()
            np.testing.assert_array_equal(names.from_file_layout(path, tensor), leaf)
        assert not state


def test_reading_what_was_written_is_exact_key_for_key(model, networks, params, tmp_path):
    assert_equal(read_all(model, networks), params)
    write_model_dir(tmp_path / "out", source=model, params=params)
    assert files_of(tmp_path / "out") == files_of(model)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_type_of_the_written_weights_can_be_chosen(model, params, tmp_path, dtype):
    write_model_dir(tmp_path / "out", source=model, params={"unet": params["unet"]}, dtype=dtype)
    found = open_safetensors(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {jnp.dtype(dtype)}
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "out" / vae).read_bytes() == (model / vae).read_bytes()


def test_components_that_nobody_trained_are_copied_byte_for_byte(model, params, tmp_path):
    (model / "safety_checker").mkdir()
    (model / "safety_checker" / "config.json").write_text('{ "odd":   "spacing"}')
    (model / "safety_checker" / "pytorch_model.bin").write_bytes(b"a pickle")
    (model / "feature_extractor").mkdir()
    (model / "feature_extractor" / "preprocessor_config.json").write_text("{}\n\n")
    (model / "LICENSE.md").write_text("text")
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not needed")
    index = json.loads((model / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (model / "model_index.json").write_text(json.dumps(index))
    assert read_model_dir(model).carried == ("feature_extractor", "safety_checker")
    write_model_dir(tmp_path / "out", source=model, params={"unet": params["unet"]})
    expected = files_of(model)
    del expected["unet/diffusion_pytorch_model.bin"]
    assert files_of(tmp_path / "out") == expected
    assert not any(os.path.samefile(model / name, tmp_path / "out" / name) for name in expected)


def test_a_component_of_another_folder_takes_the_place_of_the_models_own(model, params, networks, tmp_path):
    other = tmp_path / "better-vae"
    shutil.copytree(model / "vae", other)
    config = json.loads((other / "config.json").read_text()) | {"scaling_factor": 0.5}
    (other / "config.json").write_text(json.dumps(config))
    write_safetensors(other / "diffusion_pytorch_model.safetensors", random_params(networks["vae"].shapes, 9))
    opened = read_model_dir(model, replaced={"vae": other})
    assert opened.configs["vae"]["scaling_factor"] == 0.5
    assert_equal(opened.read_params("vae", networks["vae"].shapes), random_params(networks["vae"].shapes, 9))
    assert_equal(opened.read_params("unet", networks["unet"].shapes), params["unet"])
    write_model_dir(tmp_path / "out", source=model, params={"unet": params["unet"]}, replaced={"vae": other})
    expected = {name: data for name, data in files_of(model).items() if not name.startswith("vae/")}
    assert files_of(tmp_path / "out") == expected | {f"vae/{name}": data for name, data in files_of(other).items()}
    (other / "config.json").unlink()
    with pytest.raises(ValueError, match=rf"vae: {other}/config.json is missing"):
        read_model_dir(model, replaced={"vae": other})


def test_a_carried_component_that_was_not_downloaded_is_left_out_with_a_warning(model, tmp_path, caplog):
    index = json.loads((model / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["requires_safety_checker"] = True
    (model / "model_index.json").write_text(json.dumps(index))
    write_model_dir(tmp_path / "out", source=model, params={})
    assert "safety_checker is not in the source folder" in caplog.text
    written = read_model_dir(tmp_path / "out").index
    assert written["safety_checker"] == [None, None] and written["requires_safety_checker"] is False
    load_with_torch(tmp_path / "out")


def test_a_config_can_be_replaced(model, params, tmp_path):
    scheduler = ARCHITECTURES["tiny-v"]["scheduler"]
    write_model_dir(tmp_path / "out", source=model, params={}, configs={"scheduler": scheduler})
    written = read_model_dir(tmp_path / "out")
    assert written.configs["scheduler"] == scheduler
    assert written.index["scheduler"] == ["diffusers", "DDIMScheduler"]
    assert isinstance(load_with_torch(tmp_path / "out").scheduler, diffusers.DDIMScheduler)


def test_writing_over_the_source_itself_is_right(model, params, networks):
    changed = random_params(networks["unet"].shapes, seed=9)
    write_model_dir(model, source=model, params={"unet": changed})
    assert_equal(read_all(model, networks), params | {"unet": changed})


def test_a_failed_write_leaves_the_old_model_as_it_was(model, params):
    before = files_of(model)
    too_large = {"unet": {"conv_in": {"bias": jnp.full(3, 1e6)}}}
    with pytest.raises(ValueError, match="beyond float16"):
        write_model_dir(model, source=model, params=too_large, dtype=jnp.float16)
    assert files_of(model) == before and [entry.name for entry in model.parent.iterdir()] == ["model"]


def test_params_without_a_config_are_an_error(tmp_path, params):
    with pytest.raises(ValueError, match="no config for unet, vae: pass it in `configs`, or a `source`"):
        write_model_dir(tmp_path / "out", params={"vae": params["vae"], "unet": params["unet"]})
    assert not list(tmp_path.iterdir())


def test_a_source_that_lacks_a_network_is_an_error_when_written(model, tmp_path):
    shutil.rmtree(model / "vae")
    with pytest.raises(ValueError, match="the source model lacks vae/"):
        write_model_dir(tmp_path / "out", source=model, params={})
    assert not (tmp_path / "out").exists()


# Variants


def half_precision(model, component, *, keep=False):
    plain = next((model / component).glob("*.safetensors"))
    target = plain.with_name(plain.name.replace(".safetensors", ".fp16.safetensors"))
    shutil.copyfile(plain, target)
    if not keep:
        plain.unlink()


def test_variants_are_read_and_those_without_one_are_read_plain(model, networks, params, caplog):
    for name in ("unet", "text_encoder"):
        half_precision(model, name)
    assert_equal(read_all(model, networks, variant="fp16"), params)
    assert "vae has no weights of variant 'fp16'" in caplog.text
    with pytest.raises(ValueError, match="weights of a variant only.*Pass variant='fp16'"):
        read_all(model, networks)


def test_a_variant_that_no_component_has_is_an_error(model, networks):
    with pytest.raises(ValueError, match="no weights of variant 'bf16'"):
        read_all(model, networks, variant="bf16")


def test_carried_variants_get_the_plain_name_under_which_they_will_be_looked_for(model, params, tmp_path):
    half_precision(model, "vae", keep=True)
    (model / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"another")
    half_precision(model, "text_encoder")
    write_model_dir(tmp_path / "out", source=model, params={"unet": params["unet"]}, variant="fp16")
    carried = (model / "vae" / "diffusion_pytorch_model.fp16.safetensors").read_bytes()
    assert (tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == carried
    assert not list((tmp_path / "out").rglob("*fp16*"))
    load_with_torch(tmp_path / "out")


def test_sharded_components_of_a_variant_are_carried(twin, networks, params, tmp_path):
    pipeline, source = twin
    shutil.copytree(source, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "unet")
    pipeline.unet.save_pretrained(tmp_path / "model" / "unet", variant="fp16", max_shard_size="300KB")
    pipeline.text_encoder.save_pretrained(tmp_path / "model" / "text_encoder", max_shard_size="1MB")
    (tmp_path / "model" / "text_encoder" / "model.safetensors").unlink()
    assert len(list((tmp_path / "model" / "unet").glob("*.fp16-0000*.safetensors"))) > 1
    assert len(list((tmp_path / "model" / "text_encoder").glob("model-0000*.safetensors"))) > 1
    expected = read_all(source, networks)
    assert_equal(read_all(tmp_path / "model", networks, variant="fp16"), expected)
    write_model_dir(tmp_path / "out", source=tmp_path / "model", params={"vae": expected["vae"]}, variant="fp16")
    assert_equal(read_all(tmp_path / "out", networks), expected)
    loaded = load_with_torch(tmp_path / "out")
    assert torch.equal(loaded.unet.conv_in.weight, pipeline.unet.conv_in.weight)


# Flax folders


def flax_folder(folder, tokenizer):
    index = {"_class_name": "FlaxStableDiffusionPipeline", "safety_checker": [None, None]}
    index |= {"feature_extractor": [None, None], "requires_safety_checker": False}
    for name, file in (
        ("unet", "diffusion_flax_model"),
        ("vae", "diffusion_flax_model"),
        ("text_encoder", "flax_model"),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / f"{file}.msgpack").write_bytes(flax.serialization.to_bytes(flax_tree(name)))
        kind = CONFIGS[name].get("_class_name", "FlaxCLIPTextModel")
        index[name] = ["transformers" if name == "text_encoder" else "diffusers", kind]
        only_flax = {"split_head_dim": False, "use_memory_efficient_attention": False} if name == "unet" else {}
        extra = (
            {"model_type": "clip_text_model", "eos_token_id": 2, "bos_token_id": 0} if name == "text_encoder" else {}
        )
        (folder / name / "config.json").write_text(json.dumps(CONFIGS[name] | only_flax | extra))
    (folder / "scheduler").mkdir()
    scheduler = ARCHITECTURES["tiny"]["scheduler"] | {"_class_name": "FlaxPNDMScheduler"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    shutil.copytree(tokenizer, folder / "tokenizer")
    index |= {"scheduler": ["diffusers", "FlaxPNDMScheduler"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    (folder / "model_index.json").write_text(json.dumps(index))


def test_a_legacy_flax_folder_becomes_one_that_torch_loads(model_source, tmp_path):
    flax_folder(tmp_path / "flax", model_source / "tokenizer")
    networks = {
        name: build(config) for name, config in read_model_dir(tmp_path / "flax").configs.items() if name in NETWORKS
    }
    before = read_all(tmp_path / "flax", networks)
    write_model_dir(tmp_path / "out", source=tmp_path / "flax", params={"unet": before["unet"]})
    assert_equal(read_all(tmp_path / "out", networks), before)
    assert not [name for name, content in files_of(tmp_path / "out").items() if "msgpack" in name or b"Flax" in content]
    loaded = load_with_torch(tmp_path / "out")
    for name in NETWORKS:
        assert len(getattr(loaded, name).state_dict()) == len(flax_keys(name))


# Bad input


def test_one_error_lists_all_that_a_folder_lacks(model):
    shutil.rmtree(model / "vae")
    (model / "unet" / "config.json").unlink()
    next((model / "text_encoder").glob("*.safetensors")).unlink()
    (model / "scheduler" / "scheduler_config.json").unlink()
    index = json.loads((model / "model_index.json").read_text())
    del index["tokenizer"]
    (model / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError) as raised:
        read_model_dir(model)
    assert str(raised.value) == (
        f"the model in {model} is not complete:\n"
        "- tokenizer: not in model_index.json\n"
        "- scheduler: the folder scheduler/ is missing or empty\n"
        "- text_encoder: no weights in text_encoder/ (there is: config.json)\n"
        "- unet: unet/config.json is missing\n"
        "- vae: the folder vae/ is missing or empty\n"
        "model_index.json lists: scheduler, text_encoder, unet, vae. Needed: unet, vae, text_encoder, tokenizer, "
        "scheduler. Download or copy what is missing, or the whole folder again."
    )


def test_a_folder_that_is_no_model_is_an_error_that_says_what_is_there(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_model_dir(tmp_path / "none")
    (tmp_path / "v1-5.safetensors").write_text("")
    with pytest.raises(ValueError, match=r"no model_index\.json\. There is: v1-5\.safetensors"):
        read_model_dir(tmp_path)


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json"])
@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_broken_json_is_named(model, name, content):
    (model / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}.*Download or copy it again"):
        read_model_dir(model)


def test_a_component_cannot_be_outside_of_the_folder(model, tmp_path):
    index = json.loads((model / "model_index.json").read_text()) | {"../model": ["diffusers", "X"]}
    (model / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names cannot be folders: '\.\./model'"):
        write_model_dir(tmp_path / "out", source=model, params={})


def test_a_finished_copy_that_was_not_moved_in_is_moved_in_when_the_model_is_read(model, networks, params):
    os.rename(model, model.with_name(".model.ready"))
    assert_equal(read_all(model, networks), params)
    assert [entry.name for entry in model.parent.iterdir()] == ["model"]


def test_needed_components_are_those_that_we_run():
    assert set(model_dir.NEEDED) == {*NETWORKS, "tokenizer", "scheduler"}
