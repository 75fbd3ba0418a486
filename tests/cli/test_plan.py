"""`flaxdream plan`, from its flags to its table."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import pytest

from flaxdream.cli import main
from flaxdream.cli.plan import split
from flaxdream.planning import measuring
from flaxdream.planning.measuring import has_tpu_compiler
from tests.planning.test_table import PLAN

needs_tpu_compiler = pytest.mark.skipif(not has_tpu_compiler(), reason="the TPU compiler is not installed")
TINY = ["--pretrained_model_name_or_path=tiny", "--resolution=32", "--train_batch_size=1", "--compilation_cache_dir="]


def test_the_plans_flags_are_told_from_the_trainings():
    recipe, own, rest = split(
        [
            "text-to-image",
            "--use_ema",
            "--topology",
            "v5e-8",
            "--json",
            "--lr_warmup_steps",
            "0",
            "--what=sample",
            "--fsdp=2",
        ]
    )
    assert recipe == "text_to_image"
    assert own == ["--topology", "v5e-8", "--json", "--what=sample"]
    assert rest == ["--use_ema", "--lr_warmup_steps", "0", "--fsdp=2"]
    assert split(["--topology=cpu"]) == ("dreambooth", ["--topology=cpu"], [])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["dataset", "--topology", "v5e-8"], "'dataset' cannot be planned"),
        (["vae", *TINY, "--topology", "v5e-8", "--what", "train,sample"], "of a VAE's training only train is planned"),
        (TINY, "--topology is missing"),
        ([*TINY, "--topology", "v5e-9"], "'v5e-9' is not known"),
        ([*TINY, "--topology", "v5e-8", "--fsdp", "3"], "--fsdp 3 does not divide the 8 devices"),
        ([*TINY, "--topology", "cpu", "--largest_batch"], "JAX names none for a cpu"),
        ([*TINY, "--topology", "cpu", "--advise"], "--advise asks what fits the devices' memory, and JAX names none"),
        ([*TINY, "--topology", "cpu", "--image_count", "0"], "--image_count 0"),
        (["--topology", "v5e-8"], "--pretrained_model_name_or_path is missing"),
        ([*TINY, "--topology", "v5e-8", "--resolution", "33", "--what", "x"], "--resolution 33"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_compiled(argv, words, capsys):
    assert main(["plan", *argv]) == 2
    assert words in capsys.readouterr().err


def test_without_the_tpu_compiler_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    assert main(["plan", *TINY, "--topology", "v5e-8"]) == 2
    assert "pip install 'flaxdream[tpu]'" in capsys.readouterr().err


def test_the_help_shows_both_kinds_of_flags(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--largest_batch" in out and "the flags of that command" in out


@pytest.mark.slow
def test_a_vaes_training_is_planned_too(capsys):
    assert main(["plan", "vae", *TINY, "--topology", "cpu", "--no-train_encoder", "--crop_size", "16"]) == 0
    out = capsys.readouterr().out
    assert "train on cpu" in out and "what does not train" in out and "optimizer" in out


@pytest.mark.slow
def test_a_plan_for_this_machine_prints_a_table(capsys):
    assert main(["plan", "dreambooth", *TINY, "--topology", "cpu", "--use_ema", "--what", "encode,train"]) == 0
    out = capsys.readouterr().out
    assert out.index("encode on cpu") < out.index("train on cpu")
    assert "moving average" in out and "fits" in out


def test_a_compiler_that_fails_at_one_program_does_not_take_the_others_along(monkeypatch, capsys):
    monkeypatch.setattr(measuring, "measure", _fails_at_sample)
    assert main(["plan", *TINY, "--topology", "gpu", "--what", "train,sample", "--largest_batch", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [plan["program"] for plan in found["plans"]] == ["train"]
    assert found["failed"] == {"sample": "no space left"}
    assert found["largest_batch"] == 2
    assert {one["changes"]["train_batch_size"]: one["error"] for one in found["tried"]}[4] == "no space left"


def _fails_at_sample(request):
    if request.program == "sample" or request.config.train_batch_size == 4:
        raise measuring.CompileError("no space left")
    return dataclasses.replace(PLAN, fits=request.config.train_batch_size < 3)


def _grows_with_the_batch(request):
    """Training fits up to 4 pictures, encoding up to 2; 8-bit Adam makes room for all."""
    batch, room = request.config.train_batch_size, {"train": 4, "encode": 2, "sample": 99}[request.program]
    needed = batch * 2.0**30 * (0.1 if request.config.use_8bit_adam else 1)
    return dataclasses.replace(PLAN, program=request.program, needed=needed, fits=needed <= room * 2**30)


@pytest.mark.parametrize(("what", "largest"), [("train", 4), ("encode,train", 2), ("train,sample", 4)])
def test_the_largest_batch_is_one_of_which_all_that_is_asked_for_fits(what, largest, monkeypatch, capsys):
    monkeypatch.setattr(measuring, "measure", _grows_with_the_batch)
    assert main(["plan", *TINY, "--topology", "gpu", "--what", what, "--largest_batch"]) == 0
    out = capsys.readouterr().out
    assert f"Largest that fits: --train_batch_size {largest}" in out
    assert ("too big  --train_batch_size 4 (encode), 4.00 GiB" in out) is ("encode" in what)


def test_advice_is_printed_once_and_ends_with_what_is_enough(monkeypatch, capsys):
    monkeypatch.setattr(measuring, "measure", _grows_with_the_batch)
    asked = ["plan", *TINY[:2], "--compilation_cache_dir=", "--topology=gpu", "--advise", "--center_crop"]
    assert main([*asked, "--train_batch_size=8"]) == 0
    out, err = capsys.readouterr()
    assert "Enough: --train_batch_size 4 --gradient_accumulation_steps 2; or" in out and "--use_8bit_adam" in out
    assert out.count("fits     --use_8bit_adam, ") == 1 and "--use_8bit_adam" not in err
    assert main([*asked, "--train_batch_size=1"]) == 0
    assert "It fits as it is: nothing to advise." in capsys.readouterr().out
    assert main([*asked, "--train_batch_size=8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"use_8bit_adam": True} in [one["changes"] for one in found["advice"] if one["plan"]["fits"]]
    assert "+-20 %" in found["limits"]


def test_nothing_is_said_to_fit_where_the_compiler_failed(monkeypatch, capsys):
    monkeypatch.setattr(measuring, "measure", _fails_at_sample)
    flags = [*TINY[:2], "--compilation_cache_dir=", "--train_batch_size=4", "--topology=gpu", "--advise"]
    assert main(["plan", *flags, "--what=train"]) == 1
    assert "It fits as it is" not in capsys.readouterr().out


def test_a_training_is_planned_from_its_file_of_settings(monkeypatch, capsys, tmp_path):
    asked = []
    monkeypatch.setattr(measuring, "measure", lambda request: asked.append(request) or PLAN)
    (tmp_path / "run.yaml").write_text("resolution: 32\ntrain_batch_size: 3\nuse_aspect_ratio_bucket: true\n")
    flags = ["--pretrained_model_name_or_path=tiny", f"--config={tmp_path / 'run.yaml'}", "--bucket_divisor=8"]
    assert main(["plan", "text_to_image", *flags, "--topology=cpu", "--image_count=7", "--caption_count=3"]) == 0
    (request,) = asked
    assert (request.config.train_batch_size, request.config.resolution) == (3, 32)
    assert (request.image_count, request.caption_count) == (7, 3)
    err = capsys.readouterr().err
    assert "Assumed: 7 pictures with 3 different captions" in err and "largest bucket, " in err


def test_a_vaes_plan_assumes_nothing_and_says_what_is_in_vain(monkeypatch, capsys):
    monkeypatch.setattr(measuring, "measure", lambda request: PLAN)
    flags = ["plan", "vae", *TINY, "--topology=cpu"]
    assert main(flags) == 0
    assert "assumed" not in capsys.readouterr().err
    assert main([*flags, "--image_count=5"]) == 0
    assert "--image_count and --caption_count have no effect" in capsys.readouterr().err


@pytest.mark.slow
def test_json_is_all_that_standard_output_has(capsys):
    assert main(["plan", "text_to_image", *TINY, "--topology", "cpu", "--what", "encode", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)["plans"]
    assert plan["program"] == "encode" and plan["fits"] is None and plan["memory"]["kinds"]["parameters"] > 0


def test_a_setting_for_tpus_is_said_to_be_in_vain_for_others(monkeypatch, capsys):
    monkeypatch.setattr("flaxdream.planning.measuring.measure", lambda request: PLAN)
    assert main(["plan", *TINY, "--topology", "cpu", "--fast_compile"]) == 0
    assert "--fast_compile has no effect on a cpu" in capsys.readouterr().err
    monkeypatch.setattr("flaxdream.planning.measuring.require_tpu_compiler", lambda: None)
    assert main(["plan", *TINY, "--topology", "v5e-8", "--fast_compile"]) == 0
    assert "steps take longer" in capsys.readouterr().err


@pytest.mark.slow
@needs_tpu_compiler
def test_a_plan_for_a_tpu_that_is_not_here(capsys, tmp_path):
    flags = [*TINY[:-1], f"--compilation_cache_dir={tmp_path}", "--mixed_precision=bf16", "--topology=v5e-8", "--json"]
    assert main(["plan", *flags]) == 0
    (plan,) = json.loads(capsys.readouterr().out)["plans"]
    assert plan["fits"] and plan["devices"] == 8 and plan["estimate"]["seconds"] > 0
    assert plan["collectives"]["all-reduce"][1] > 0 and not plan["has_code"]
    assert main(["plan", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["plans"] == [plan]  # from the file: the compile time is the first one's
