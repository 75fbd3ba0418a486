"""`flaxdream dataset check`, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFilter

from flaxdream.cli import main
from flaxdream.cli.dataset_text import report_text
from tests.data.photos import photo


@pytest.fixture
def good(tmp_path):
    """Four captioned pictures with nothing wrong."""
    folder = tmp_path / "good"
    folder.mkdir()
    for seed, name in enumerate("abcd"):
        photo(seed, 130, 160).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a photo of thing {seed}")
    return folder


@pytest.fixture
def mess(good):
    """The same with every kind of problem beside it."""

    def add(name, image, caption="a thing", **options):
        image.save(good / name, **options)
        if caption:
            (good / name).with_suffix(".txt").write_text(caption)

    (good / "copy.png").write_bytes((good / "a.png").read_bytes())
    (good / "copy.txt").write_text("a thing")
    add("alike.jpg", photo(1, 260, 320))
    add("tiny.png", photo(10, 30, 40))
    add("soft.png", photo(11, 256, 256).filter(ImageFilter.GaussianBlur(6)))
    add("wide.png", photo(12, 128, 500))
    add("blank.png", Image.new("RGB", (200, 200), "navy"))
    add("silent.png", photo(13, 200, 200), caption=None)
    add("long.png", photo(14, 200, 200), caption="dog " * 75 + "never seen")
    exif = Image.Exif()
    exif[0x0112] = 6
    add("phone.jpg", photo(15, 200, 200), exif=exif)
    (good / "cut.png").write_bytes((good / "b.png").read_bytes()[:3000])
    (good / "cut.txt").write_text("a thing")
    (good / "empty.png").touch()
    (good / "lost.txt").write_text("a thing")
    return good


def check(*flags):
    return main(["dataset", "check", *map(str, flags), "--resolution", "128"])


def report(capsys, *flags):
    code = check(*flags, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == code
    return found


def kinds(found, level):
    return {finding["kind"]: finding for finding in found["findings"] if finding["level"] == level}


def named(finding):
    return [name for case in finding["cases"] for name in case["names"]]


def test_a_good_set_has_exit_code_0_and_says_so(good, capsys):
    assert check(good) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{good}: 4 pictures, checked for --resolution 128\nNothing is wrong with them.")
    assert "4 PNG" in text and "photo" in text and "1125" in text and "As squares" in text


def test_every_problem_of_a_mess_is_found(mess, capsys):
    found = report(capsys, mess)
    assert found["exit_code"] == 1 and found["pictures"] == 14
    errors, warnings, notes = (kinds(found, level) for level in ("error", "warning", "note"))
    assert {kind: named(finding) for kind, finding in errors.items()} == {
        "broken": ["cut.png"], "left_out": ["empty.png"], "no_caption": ["silent.png"],
    }  # fmt: skip
    assert {kind: named(finding) for kind, finding in warnings.items()} == {
        "copies": ["a.png", "copy.png"],
        "alike": ["alike.jpg", "b.png"],
        "small": ["tiny.png"],
        "blurred": ["soft.png"],
        "blank": ["blank.png"],
        "cropped": ["wide.png"],
        "long_captions": ["long.png"],
    }
    assert warnings["long_captions"]["cases"][0]["detail"] == "cut off: 'never seen'"
    assert {kind: named(finding) for kind, finding in notes.items()} == {
        "turned": ["phone.jpg"], "lost_texts": ["lost.txt"],
    }  # fmt: skip
    assert (found["errors"], found["warnings"]) == (3, 7)
    assert found["captions"]["tokens"]["most"] == 79 and found["captions"]["too_long"] == 1


def test_the_text_names_what_matters_most_first(mess, capsys):
    assert check(mess) == 1
    text = capsys.readouterr().out
    places = [text.index(word) for word in ("3 kinds of error", "ERRORS", "cut.png", "WARNINGS", "copy.png", "GOOD TO")]
    assert places == sorted(places)
    assert "a.png = copy.png" in text and "alike.jpg ~ b.png" in text and "--output_dir FOLDER" in text
    assert max(map(len, text.splitlines()[1:])) <= 118


def test_warnings_do_not_change_the_exit_code(good, capsys):
    (good / "copy.png").write_bytes((good / "a.png").read_bytes())
    (good / "copy.txt").write_text("a thing")
    assert check(good) == 0
    assert "1 kind of warning." in capsys.readouterr().out


def test_long_lists_are_cut_and_names_shown_says_where(good, capsys):
    for seed in range(8):
        photo(20 + seed, 40, 50).save(good / f"small{seed}.png")
        (good / f"small{seed}.txt").write_text("a thing")
    check(good, "--names_shown", 3)
    text = capsys.readouterr().out
    assert "and 5 more" in text and text.count("enlarged") == 3


def test_the_contact_sheets_are_written_and_an_old_one_goes(mess, good, tmp_path, capsys):
    out = tmp_path / "out"
    assert report(capsys, mess, "--output_dir", out)["sheets"] == [str(out / "problems.png"), str(out / "crops.png")]
    for name in ("problems.png", "crops.png"):
        with Image.open(out / name) as sheet:
            assert sheet.width > 1000 and np.asarray(sheet).std() > 10
    for path in mess.iterdir():
        if path.stem not in "abcd":
            path.unlink()
    assert report(capsys, good, "--output_dir", out)["sheets"] == [str(out / "crops.png")]
    assert sorted(path.name for path in out.iterdir()) == ["crops.png"]


def test_a_dreambooth_folder_is_checked_with_its_prompt(good, capsys):
    found = report(capsys, good, "--instance_prompt", "a photo of sks dog")
    assert (found["exit_code"], found["warnings"]) == (0, 0)
    assert found["captions"]["different"] == 1
    (split,) = found["prompts"]["split"]
    assert [word[0][1] for word in split["words"]] == [320, 1125, 539, 48136, 1929]
    assert found["prompts"]["rare_word"]["is_good"]
    assert check(good, "--instance_prompt", "a photo of zwxqq dog") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "'zwxqq' is 4 tokens, z|wx|q|q" in text and "such as olis, " in text
    flags = ("--instance_data_dir", good, "--instance_prompt", "sks dog")
    assert main(["dataset", "check", *map(str, flags), "--resolution", "128", "--json"]) == 0


def test_a_prompt_that_is_too_long_says_what_is_lost(good, capsys):
    found = report(capsys, good, "--instance_prompt", "sks " + "dog " * 74 + "never seen")
    (finding,) = kinds(found, "warning").values()
    assert finding["kind"] == "long_captions" and finding["advice"].endswith("'never seen'") and not finding["cases"]


def test_the_rare_word_is_looked_for_in_captions(good, capsys):
    (good / "a.txt").write_text("a photo of SKS dog")
    (good / "b.txt").write_text("a photo of asks dog")
    found = kinds(report(capsys, good, "--token", "sks"), "warning")
    assert {kind: named(finding) for kind, finding in found.items()} == {"token_missing": ["b.png", "c.png", "d.png"]}
    found = kinds(report(capsys, good, "--token", "dog"), "warning")
    assert "common one" in found["rare_word"]["title"]


def test_other_prompts_can_be_split(good, capsys):
    found = report(capsys, good, "--prompt", "a red fox", "zwxqq", "--max_train_samples", 2)
    assert [split["prompt"] for split in found["prompts"]["split"][:2]] == ["a red fox", "zwxqq"]
    assert found["pictures"] == 2 and len(found["prompts"]["split"]) == 4


def test_buckets_are_planned_and_judged_by(good, capsys):
    photo(12, 128, 500).save(good / "wide.png")
    (good / "wide.txt").write_text("a thing")
    squares = report(capsys, good)
    assert "cropped" in kinds(squares, "warning") and squares["crops"]["square"]["most_cropped"] == "wide.png"
    flags = ("--use_aspect_ratio_bucket", "--bucket_divisor", 8, "--bucket_most_cropped", 0.3)
    buckets = report(capsys, good, *flags)
    assert "cropped" not in kinds(buckets, "warning")
    assert sum(use["pictures"] for use in buckets["crops"]["buckets"]) == 4 + (
        "left_out_by_buckets" not in kinds(buckets, "note")
    )
    assert "width x height" in buckets["crops"]["text"]
    assert main(["dataset", "check", str(good), "--resolution", "136"]) == 0
    assert "There are no buckets: --resolution 136 is no multiple of 64" in capsys.readouterr().out


@pytest.mark.parametrize(("setting", "code"), [("leave_out", 1), ("error", 1), ("empty", 0)])
def test_missing_captions_are_judged_by_the_setting(good, setting, code, capsys):
    (good / "a.txt").unlink()
    assert check(good, "--missing_caption", setting) == code
    capsys.readouterr()


def test_nothing_that_can_be_read_is_an_error_and_no_crash(tmp_path, capsys):
    (tmp_path / "a.png").write_text("x")
    found = report(capsys, tmp_path, "--captions", "filename", "--output_dir", tmp_path / "out")
    assert found["exit_code"] == 1 and found["crops"] == {} and kinds(found, "error")["broken"]
    assert "none that can be read" in report_text(found, 5)
    assert found["sheets"] == [str(tmp_path / "out/problems.png")]


def test_the_tokenizer_is_that_of_the_model(good, tmp_path, capsys):
    from flaxdream.weights.tokenizer import write_clip_tokenizer

    write_clip_tokenizer(tmp_path / "model/tokenizer")
    settings = tmp_path / "model/tokenizer/tokenizer_config.json"
    settings.write_text(settings.read_text().replace('"model_max_length": 77', '"model_max_length": 5'))
    for source in (tmp_path / "model", tmp_path / "model/tokenizer"):
        found = report(capsys, good, "--pretrained_model_name_or_path", source)
        assert found["captions"]["limit"] == 5 and found["captions"]["too_long"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chek", "dogs"], "unknown action 'chek'; expected: flaxdream dataset check FOLDER"),
        (["check"], "There is no data"),
        (["check", "/no/such/folder"], "there is no such folder"),
        (["check", "/no/such/folder", "--instance_prompt", "sks dog"], "there is no such folder"),
        (["check", ".", "--resolution", "100"], "nearest: 96"),
        (["check", ".", "--pretrained_model_name_or_path", "/no/such"], "/no/such"),
    ],
)
def test_wrong_settings_have_exit_code_2_and_say_what_to_do(arguments, message, capsys):
    assert main(["dataset", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_its_help_needs_no_folder(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["dataset"])
    assert stop.value.code == 0 and "--instance_prompt" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_needs_neither_jax_nor_torch(good):
    program = (
        "import sys, flaxdream.cli\n"
        f"assert flaxdream.cli.main(['dataset', 'check', {str(good)!r}, '--resolution', '128']) == 0\n"
        "sys.exit(repr(sorted({'jax', 'flax', 'torch', 'diffusers', 'datasets'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]" and "Nothing is wrong" in done.stdout
