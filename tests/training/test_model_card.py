"""The model card: what it says, and that no prompt breaks it."""

from __future__ import annotations

import html
import json
import re

import pytest
import yaml
from PIL import Image

from flaxdream.config import DreamBoothConfig, TrainConfig
from flaxdream.config.yaml_file import write_yaml
from flaxdream.sampling.prompts import Request
from flaxdream.training.model_card import escaped, write_model_card
from flaxdream.training.run_pictures import write_validation

QUOTES = "`sks` *dog* [a](b) \\ \"q\" 'p' # - 1. ünï ☃ 🐕"
EVIL = f"a </td><script>x</script> | {QUOTES}\n---\nlicense: mit\x07 & http://x.y _z_"


def make_run(folder, config, validations=(), prompts=()):
    folder.mkdir(exist_ok=True)
    write_yaml(folder / "config.yaml", config)
    (folder / "summary.json").write_text(json.dumps({"steps": 40, "instance_prompts": list(prompts)}))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    for step in validations:
        write_validation(folder, step, [Image.new("RGB", (16, 16))], [Request("a dog", seed=0)])
    return folder


def parts(card):
    """The front matter, and the Markdown after it."""
    _, front, body = re.split(r"^---$", card.read_text(encoding="utf-8"), maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(front), body


def unescaped(text):
    return re.sub(r"\\(.)", r"\1", text)


def test_the_card_shows_prompt_last_grid_changed_settings_and_how_to_load(tmp_path):
    config = DreamBoothConfig(
        pretrained_model_name_or_path="owner/model",
        output_dir=str(tmp_path / "run"),
        instance_data_dir="/home/me/pictures of sks",
        instance_prompt="a photo of sks dog",
        hub_token="hf_secret",
        learning_rate=2e-6,
        validation_prompt=("one", "two|three"),
    )
    front, body = parts(write_model_card(make_run(tmp_path / "run", config, (0, 20, 40)), config, name="me/my-dog"))
    assert front == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "base_model": "owner/model",
        "instance_prompt": "a photo of sks dog",
        "tags": [
            "stable-diffusion", "stable-diffusion-diffusers", "text-to-image", "diffusers-training", "flaxdream",
            "dreambooth",
        ],
    }  # fmt: skip
    assert "# my\\-dog\n" in body and "\n> a photo of sks dog\n" in body
    assert "trained for 40 steps with flaxdream" in body
    assert re.findall(r"!\[.*\]\((.*)\)", body) == ["validation/step-000040/grid.png"]
    assert "StableDiffusionPipeline.from_pretrained('me/my-dog')\npictures = pipeline('a photo of sks dog')" in body
    assert "FlaxStableDiffusionPipeline.from_pretrained('me/my-dog')" in body
    rows = re.findall(r"^\| (.*) \| (.*) \| (.*) \|$", body, flags=re.MULTILINE)[1:]
    assert [tuple(map(unescaped, row)) for row in rows] == [
        ("learning_rate", "2e-06", "5e-06"),
        ("validation_prompt", "one<br>two|three", "none"),
        ("instance_data_dir", "pictures of sks", "not given"),
    ]
    assert "hf_secret" not in body and "/home/me" not in body and str(tmp_path) not in body


@pytest.mark.parametrize("prompt", [EVIL, "```", "---", "- a: b", "{x}", "\ud83d alone", "null", "#"])
def test_no_prompt_breaks_the_front_matter_or_the_markdown(tmp_path, prompt):
    config = DreamBoothConfig(pretrained_model_name_or_path="m", instance_prompt=prompt, class_prompt=f"{prompt} class")
    front, body = parts(write_model_card(make_run(tmp_path / "run", DreamBoothConfig()), config))
    words = re.sub(r"[\x07\ud83d]", " ", prompt).split()
    assert front["instance_prompt"] == " ".join(words)
    assert "license" not in front
    assert [unescaped(line) for line in re.findall("^> (.*)$", body, flags=re.MULTILINE)] == [" ".join(words)]
    assert body.count("```") % 4 == 0 or prompt == "```"
    assert len(re.findall("^```", body, flags=re.MULTILINE)) == 4
    outside = re.sub(r"^```.*?^```$", "", body, flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in re.sub(r"\\.", "", outside)
    for row in re.findall(r"^\|.*\|$", outside, flags=re.MULTILINE):
        assert len(re.findall(r"(?<!\\)\|", row)) == 4


def test_escaped_text_reads_as_it_was():
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    for text in (EVIL, "|a|", "\\|", "&amp;", "http://a.b", "1. x", "    code"):
        shown = html.unescape(re.sub(r"<[^>]*>", "", markdown.render(escaped(text)))).strip()
        assert shown == " ".join(text.replace("\x07", " ").split())


def test_licence_and_base_model_are_never_guessed(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    config = TrainConfig(pretrained_model_name_or_path=str(source), train_text_encoder=True)
    run = make_run(tmp_path / "run", config)
    front, body = parts(write_model_card(run, config, source=source))
    assert not front.keys() & {"license", "base_model", "instance_prompt"} and "dreambooth" not in front["tags"]
    assert "of the model source. UNet and text encoder were trained" in body and "grid.png" not in body

    (source / "README.md").write_text("license: mit\n")
    assert "license" not in parts(write_model_card(run, config, source=source))[0]
    (source / "README.md").write_text("---\nlicense: other\nlicense_name: 'open-1.0'\ntags:\n- x\n---\nlicense: mit\n")
    front, _ = parts(write_model_card(run, config, source=source))
    assert (front["license"], front["license_name"]) == ("other", "open-1.0")


def test_several_prompts_are_all_shown_but_not_that_of_the_class(tmp_path):
    config = DreamBoothConfig(pretrained_model_name_or_path="m", class_prompt="a dog")
    run = make_run(tmp_path / "run", config, prompts=["a sks dog", "a dog", "a zwx cat"])
    front, body = parts(write_model_card(run, config))
    assert front["instance_prompt"] == "a sks dog"
    assert re.findall("^> (.*)$", body, flags=re.MULTILINE) == ["a sks dog", "a zwx cat"]
