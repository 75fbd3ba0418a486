"""The `flaxdream` command, as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from flaxdream.cli import COMMANDS, main
from tests.training.whole_runs import environment


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random") / "model"
    assert main(["random_model", "--output_dir", str(folder), "--architecture", "tiny-v"]) == 0
    return folder


def opened(path):
    with Image.open(path) as picture:
        picture.load()
        return picture


def sample(model, out, *flags):
    return main(
        ["sample", "--pretrained_model_name_or_path", str(model), "--output_dir", str(out)]
        + ["--compilation_cache_dir", "", "--num_inference_steps", "2", *flags]
    )


def test_pictures_and_a_sheet_are_written_with_their_settings(model, tmp_path, capsys):
    assert sample(model, tmp_path, "--prompt", "a fox", "a dog", "--seed", "5", "--sampler", "euler") == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["00000-seed5.png", "00001-seed6.png", "sheet-00000.png"]
    text = opened(tmp_path / names[1]).text
    assert text["prompt"] == "a dog" and text["seed"] == "6" and text["sampler"] == "euler"
    assert text["num_inference_steps"] == "2" and text["width"] == "128"
    assert "sheet-00000.png" in capsys.readouterr().out


def test_a_setting_for_tpus_says_that_it_has_no_effect_here(model, tmp_path, capsys):
    assert sample(model, tmp_path, "--prompt", "a fox", "--fast_compile") == 0
    assert "--fast_compile has no effect on a cpu" in capsys.readouterr().out


def test_a_second_run_adds_to_the_folder(model, tmp_path):
    for _ in range(2):
        assert sample(model, tmp_path, "--prompt", "a fox") == 0
    assert {"00000-seed0.png", "00001-seed0.png", "sheet-00000.png", "sheet-00001.png"} == {
        path.name for path in tmp_path.iterdir()
    }


def test_a_prompts_file_sets_size_seed_and_steps_line_by_line(model, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox --w 64 --h 128 --d 9 --s 3\na dog\na cat --l 1 --n blurry\n")
    assert sample(model, tmp_path / "out", "--prompts_file", str(prompts)) == 0
    pictures = [opened(path) for path in sorted((tmp_path / "out").glob("0*.png"))]
    assert [picture.size for picture in pictures] == [(64, 128), (128, 128), (128, 128)]
    assert pictures[0].text["num_inference_steps"] == "3" and pictures[0].text["seed"] == "9"
    assert pictures[2].text["negative_prompt"] == "blurry"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "usage"),
        (["--help"], 0, "usage"),
        (["--version"], 0, "flaxdream 0"),
        (["sampel"], 2, "perhaps you meant 'sample'"),
        (["sample", "--height", "100"], 2, "--height 100 is not a positive multiple of 8"),
        (["sample", "--prompts_file", "no.txt", "--prompt", "a"], 2, "no.txt cannot be read"),
        (["sample", "--prompt", "a", "--sampler", "eular"], 2, "Perhaps you meant euler"),
        (["sample", "--config"], 2, "needs the path"),
        (["sample", "--pretrained_model_name_or_path", "/no/such/folder", "--prompt", "a"], 2, "/no/such/folder"),
        (["random_model"], 2, "--output_dir is missing"),
    ],
)
def test_exit_codes_and_messages(arguments, code, message, capsys):
    assert main(arguments) == code
    output = capsys.readouterr()
    assert message in output.out + output.err


def test_a_model_that_cannot_be_read_leaves_no_output(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    assert sample(tmp_path / "model", tmp_path / "out", "--prompt", "a") == 2
    assert "model_index.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_random_model_never_overwrites(model, capsys):
    assert main(["random_model", "--output_dir", str(model)]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_flags(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    expected = {"plan": "--topology", "dataset": "check"}.get(command, "--output_dir")
    assert expected in capsys.readouterr().out


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "flaxdream", *arguments], capture_output=True, text=True, env=environment(), check=False
    )


@pytest.mark.slow
def test_the_real_command_prints_its_own_lines_and_nothing_else(model, tmp_path):
    done = run(
        "sample", "--pretrained_model_name_or_path", str(model), "--output_dir", str(tmp_path / "out"),
        "--prompt", "a fox", "--num_inference_steps", "2", "--compilation_cache_dir", str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    for line in done.stderr.replace("\r", "\n").splitlines():
        assert not line.strip() or line.startswith("sampling"), line
    assert any(Path(tmp_path / "cache").iterdir())
