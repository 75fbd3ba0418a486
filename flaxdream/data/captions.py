"""Captions: one prompt for all, text files beside the pictures, or file names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flaxdream.data.folders import caption_files

SOURCES = {
    "prompt": "the prompt, for every picture",
    "txt": "image.txt beside image.png (--use_txt_as_label)",
    "image_txt": "image.png.txt beside image.png (--read_prompts_from_txts)",
    "prompt_and_txt": "the prompt joined with image.txt (combine_prompt_from_txt)",
    "txt_or_prompt": "image.txt, image.caption or image.png.txt where there is one, else the prompt",
    "filename": "the file's name (--use_filename_as_label)",
}
TEMPLATE = "{PROMPT}, {TXT_PROMPT}"  # prompt_combine_template of the scripts that had combine_prompt_from_txt
COUNTER = re.compile(r"(\s*\(\d+\)|_+\d+)$")  # " (12)" of file managers, "_12" of exports


def caption_of(path: Path, source: str, prompt: str | None = None, template: str = TEMPLATE) -> str:
    """The picture's caption; ValueError names the picture and what is missing.

    White space is collapsed: CLIP's tokenizers do that in any case, and a text file ends with a newline.
    """
    if source == "prompt":
        return _prompt(path, prompt)
    if source == "filename":
        return caption_from_name(path)
    if source == "txt":
        return _text(path, path.with_suffix(".txt"))
    if source == "image_txt":
        return _text(path, path.with_name(f"{path.name}.txt"))
    if source == "prompt_and_txt":
        text = _text(path, path.with_suffix(".txt"))
        return template.replace("{PROMPT}", _prompt(path, prompt)).replace("{TXT_PROMPT}", text)
    if source == "txt_or_prompt":
        beside = [text for text in caption_files(path) if text.is_file()]
        if len(beside) > 1:
            raise ValueError(f"{path} has two captions, {beside[0].name} and {beside[1].name}; keep one")
        return _text(path, beside[0]) if beside else _prompt(path, prompt)
    raise ValueError(f"caption source {source!r} is not one of {', '.join(SOURCES)}")


def captions_of(
    paths: Iterable[Path], source: str, prompt: str | None = None, template: str = TEMPLATE
) -> tuple[list[str], list[str]]:
    """The captions in order ("" where there is none), and every problem."""
    if source == "prompt_and_txt" and "{TXT_PROMPT}" not in template:
        raise ValueError(f"prompt_combine_template {template!r} lacks {{TXT_PROMPT}}; for example {TEMPLATE!r}")
    captions, problems = [], []
    for path in paths:
        try:
            captions.append(caption_of(path, source, prompt, template))
        except ValueError as error:
            captions.append("")
            problems.append(str(error))
    return captions, list(dict.fromkeys(problems))


def caption_from_name(path: Path) -> str:
    """`a_red_dog (12).png` and `a_red_dog_12.png` as "a red dog".

    The scripts differed: CrazyBoyM's took the name as it is, fast-DreamBooth's dropped every digit, dash and bracket.
    Here underscores become spaces and counters at the end go (a folder cannot hold the same name twice); what
    stands in the middle stays, so that "1girl" does.
    """
    name = path.stem
    while (cut := COUNTER.sub("", name)) != name:
        name = cut
    caption = " ".join(name.replace("_", " ").split())
    if not re.search(r"[^\W\d]", caption):
        raise ValueError(f"{path}: the file's name holds no words to make a caption of; rename it, or use a prompt")
    return caption


def texts_of(value: Any, where: str) -> tuple[str, ...]:
    """The captions in a cell: a text or a list of texts, without those that hold nothing; white space collapsed."""
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) or text is None for text in texts):
        raise ValueError(f"{where}: {str(value)[:80]!r} is {type(value).__name__}; expected a text or a list of texts")
    return tuple(collapsed for text in texts if (collapsed := " ".join((text or "").split())))


def _prompt(path: Path, prompt: str | None) -> str:
    if not prompt or not prompt.strip():
        raise ValueError(f"{path.parent}: its pictures need a prompt, and there is none")
    return " ".join(prompt.split())


def _text(path: Path, text: Path) -> str:
    try:
        caption = " ".join(text.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError as error:
        raise ValueError(f"{path} has no caption: {text.name} is missing") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{text} is not UTF-8 text; save it again as UTF-8") from error
    except OSError as error:
        raise ValueError(f"{text} cannot be read: {error.strerror}") from error
    if not caption:
        raise ValueError(f"{path} has no caption: {text.name} is empty")
    return caption
