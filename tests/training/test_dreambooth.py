"""DreamBooth as a whole: the command, its result, and a run that goes on."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import jax
import pytest

from flaxdream import FlaxStableDiffusionPipeline
from flaxdream.cli import main
from flaxdream.training.recipes import run
from tests.training.whole_runs import arguments, make_inputs, metrics, weight_files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("dreambooth"))


SETTINGS = {"train_text_encoder": True, "checkpointing_steps": 2, "use_ema": True, "center_crop": True}


@pytest.fixture(scope="module")
def unbroken(inputs):
    """The folder of a run, and in `inputs / printed` what it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        assert main(arguments(inputs, inputs / "unbroken", **SETTINGS)) == 0
    (inputs / "printed").write_text(said.getvalue())
    return inputs / "unbroken"


def test_a_run_says_what_lies_in_the_memory_and_how_long_the_device_waited(inputs, unbroken):
    words = " ".join((inputs / "printed").read_text().split())
    for line in ("memory of a device: ", "parameters ", "optimizer ", "moving average ", "temporaries "):
        assert line in words, words
    assert 0 <= json.loads((unbroken / "summary.json").read_text())["host_wait_share"] < 1


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def losses(folder):
    return [row["loss"] for row in metrics(folder)]


def test_the_result_loads_in_torch_and_only_what_trained_has_changed(inputs, unbroken):
    import diffusers

    diffusers.StableDiffusionPipeline.from_pretrained(unbroken)
    before, after = weight_files(inputs / "model"), weight_files(unbroken)
    assert {name for name in before if before[name] != after[name]} == {"unet", "text_encoder"}
    assert (unbroken / "report.html").is_file() and (unbroken / "summary.json").is_file()
    assert len(losses(unbroken)) == 4


def test_a_resumed_run_ends_bit_for_bit_as_the_unbroken_one(inputs, unbroken, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.loop, "run", until(2, run.loop.run))
        assert main(arguments(inputs, tmp_path, **SETTINGS)) == 0
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]
    assert main(arguments(inputs, tmp_path, resume_from_checkpoint="latest", **SETTINGS)) == 0
    assert weight_files(tmp_path) == weight_files(unbroken)
    assert losses(tmp_path) == losses(unbroken)


def until(step, run):
    """The loop, cut off after some steps, as a kill would."""
    return lambda *args, stop, **rest: run(*args, stop=step, **rest)


def test_the_last_checkpoint_exported_is_the_model_that_the_run_wrote(unbroken, tmp_path):
    assert main(["export", "--run", str(unbroken), "--output_dir", str(tmp_path / "exported")]) == 0
    exported = files_of(tmp_path / "exported")
    about = json.loads(exported.pop("export.json"))
    assert (about["step"], about["weights"]) == (4, "moving average")
    assert exported == {name: data for name, data in files_of(unbroken).items() if name in exported}
    assert {"model_index.json", "unet/config.json", "tokenizer/vocab.json"} < exported.keys()


def test_a_checkpoint_has_the_parameters_of_the_model_of_its_step(unbroken):
    _, written = FlaxStableDiffusionPipeline.from_pretrained(unbroken)
    _, last = FlaxStableDiffusionPipeline.from_pretrained(unbroken / "checkpoint-4")
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), last, written))
    _, earlier = FlaxStableDiffusionPipeline.from_pretrained(unbroken / "checkpoint-2")
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), earlier, written))


def test_another_vae_is_that_of_the_result(inputs, unbroken, tmp_path):
    other = Path(shutil.copytree(inputs / "model/vae", tmp_path / "vae"))
    config = json.loads((other / "config.json").read_text()) | {"scaling_factor": 0.5}
    (other / "config.json").write_text(json.dumps(config))
    changes = {"pretrained_vae_name_or_path": other, "max_train_steps": 1, "checkpointing_steps": 1}
    assert main(arguments(inputs, tmp_path / "out", **SETTINGS | changes)) == 0
    assert losses(tmp_path / "out")[0] != losses(unbroken)[0]  # latents are larger
    assert files_of(tmp_path / "out/vae") == files_of(other)
    assert main(["export", "--run", str(tmp_path / "out"), "--output_dir", str(tmp_path / "exported")]) == 0
    assert files_of(tmp_path / "exported/vae") == files_of(other)
    pipeline, _ = FlaxStableDiffusionPipeline.from_pretrained(tmp_path / "out/checkpoint-1")
    assert pipeline.vae.config.scaling_factor == 0.5


def test_every_problem_is_named_before_anything_starts(inputs, tmp_path, capsys):
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    (tmp_path / "pics/notes.doc").write_text("x")
    argv = arguments(inputs, tmp_path / "out", instance_data_dir=tmp_path / "pics", with_prior_preservation=None)
    assert main(argv) == 2
    text = capsys.readouterr().err
    assert "broken.png" in text and "--skip_broken_images" in text
    assert not (tmp_path / "out").exists()
