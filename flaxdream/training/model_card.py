"""README.md of a trained model: the model card that the Hub shows."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flaxdream.config import SECRETS, DreamBoothConfig, RunConfig, TrainConfig
from flaxdream.training.report_run import Run, read_run
from flaxdream.training.report_text import loading_code, shown
from flaxdream.weights.push import last_grid

# Settings that say something about the machine or the upload, and nothing about the model.
_NOT_ABOUT_THE_MODEL = SECRETS | {
    "output_dir", "cache_dir", "push_to_hub", "hub_model_id", "hub_private_repo", "compilation_cache_dir",
    "fast_compile", "resume_from_checkpoint", "report_to", "logging_dir", "tracker_project_name", "checkpointing_steps",
    "checkpoints_total_limit", "dataloader_num_workers", "pretrained_model_name_or_path", "instance_prompt",
}  # fmt: skip
PROMPTS = 12  # in the card, at most
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LICENSE = re.compile(r"""(license|license_name|license_link):[ \t]*["']?([\w.+:/-]+)["']?[ \t]*""")


def write_model_card(
    folder: str | Path, config: RunConfig, *, source: str | Path | None = None, name: str | None = None
) -> Path:
    """Writes README.md into a run folder and returns its path.

    `name` is what to load the model by, its Hub id say; the folder's name if not given. A licence is named if the
    card of the model in the folder `source` names one. No token and no path of this machine is written.
    """
    folder = Path(folder)
    run = read_run(folder)
    name = name or folder.resolve().name
    sections = _title(run, config, name), _prompts(run, config), _pictures(folder), _loading(run, config, name)
    card = "\n".join([_front_matter(run, config, source), *filter(None, sections), _settings(config)])
    partial = folder / ".README.md.partial"
    partial.write_text(card, encoding="utf-8")
    os.replace(partial, folder / "README.md")
    return folder / "README.md"


def _front_matter(run: Run, config: RunConfig, source: str | Path | None) -> str:
    """The YAML between the dashes; JSON's strings are YAML's too."""
    prompts, base, kind = _learnt(run, config), _model(config), _pipeline(run)
    entries: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    entries |= _license(source)
    if _HUB_ID.fullmatch(base):
        entries["base_model"] = base
    if prompts:
        entries["instance_prompt"] = prompts[0]
    tags = ["stable-diffusion", "stable-diffusion-diffusers"] if kind.startswith("StableDiffusion") else []
    tags += ["text-to-image", "diffusers-training", "flaxdream"]
    entries["tags"] = tags + (["dreambooth"] if isinstance(config, DreamBoothConfig) else [])
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in entries.items()]
    return "\n".join(["---", *lines, "---", ""])


def _title(run: Run, config: RunConfig, name: str) -> str:
    dreambooth = isinstance(config, DreamBoothConfig)
    base = _model(config)
    steps = run.last_step or run.summary.get("steps")
    linked = f"[{escaped(base)}](https://huggingface.co/{base})" if _HUB_ID.fullmatch(base) else escaped(base)
    what = "A subject taught by DreamBooth to the model" if dreambooth else "A fine-tuned version of the model"
    trained = "The VAE was"
    if isinstance(config, TrainConfig):
        trained = "UNet and text encoder were" if config.train_text_encoder else "The UNet was"
    length = f" for {steps} steps" if steps else ""
    return f"# {escaped(name.rsplit('/', 1)[-1])}\n\n{what} {linked}. {trained} trained{length} with flaxdream.\n"


def _prompts(run: Run, config: RunConfig) -> str:
    prompts = _learnt(run, config)
    first = "It learnt this prompt" if len(prompts) == 1 else "It learnt these prompts"
    lines = "\n>\n".join(f"> {escaped(prompt)}" for prompt in prompts)
    return f"{first}; use the rare word in others:\n\n{lines}\n" if prompts else ""


def _pictures(folder: Path) -> str:
    grid = last_grid(folder)
    if grid is None:
        return ""
    step = int(grid.split("/")[1].removeprefix("step-"))
    return f"## Pictures\n\nDrawn after step {step}.\n\n![validation pictures of step {step}]({grid})\n"


def _loading(run: Run, config: RunConfig, name: str) -> str:
    drawn = config.validation_prompt if isinstance(config, TrainConfig) else ()
    prompts = [*_learnt(run, config), *filter(None, map(_clean, drawn)), "a prompt"]
    ours, theirs = loading_code(_pipeline(run), name, prompts[0])
    return f"## Draw with it\n\nflaxdream:\n\n```python\n{ours}\n```\n\ndiffusers:\n\n```python\n{theirs}\n```\n"


def _settings(config: RunConfig) -> str:
    rows = [f"| {name} | {value} | {default} |" for name, value, default in _changed(config)]
    if not rows:
        return "## Settings\n\nAll settings are flaxdream's defaults.\n"
    table = "\n".join(["| setting | value | default |", "|---|---|---|", *rows])
    return f"## Settings that differ from the defaults\n\n{table}\n"


def _changed(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in _NOT_ABOUT_THE_MODEL and value != field.default:
            texts = [shown("", _without_folders(given)).splitlines() for given in (value, field.default)]
            cells = ["<br>".join(map(escaped, lines)) for lines in texts]
            yield escaped(field.name), cells[0], cells[1]


def _without_folders(value: Any) -> Any:
    """A path's last part: the rest tells of the machine and its user."""
    if isinstance(value, str) and (value.startswith(("~", ".")) or Path(value).is_absolute()):
        return Path(value).name or value
    return value


def _learnt(run: Run, config: RunConfig) -> list[str]:
    """The prompts that a DreamBooth model learnt, as far as the run says."""
    if not isinstance(config, DreamBoothConfig):
        return []
    known = run.summary.get("instance_prompts")
    prompts = [config.instance_prompt, *(known if isinstance(known, list) else [])]
    cleaned = dict.fromkeys(_clean(prompt) for prompt in prompts if isinstance(prompt, str))
    return [prompt for prompt in cleaned if prompt and prompt != _clean(config.class_prompt or "")][:PROMPTS]


def _model(config: RunConfig) -> str:
    """The Hub id of the model to start from; of a local one the folder's name."""
    model = config.pretrained_model_name_or_path
    folder = Path(model).expanduser()
    return _clean(model) if _HUB_ID.fullmatch(model) and not folder.is_dir() else _clean(folder.resolve().name)


def _pipeline(run: Run) -> str:
    try:
        index = json.loads((run.folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(index.get("_class_name") or "") if isinstance(index, dict) else ""


def _license(source: str | Path | None) -> dict[str, str]:
    """What the front matter of a model's card says of its licence."""
    card = Path(source) / "README.md" if source is not None else None
    if card is None or not card.is_file():
        return {}
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in lines[1:]:
        return {}
    matches = [_LICENSE.fullmatch(line) for line in lines[1 : lines.index("---", 1)]]
    found = {match[1]: match[2] for match in matches if match}
    return found if "license" in found else {}


def _clean(text: str) -> str:
    """One line without control characters, which YAML does not take."""
    kinds = {character: unicodedata.category(character) for character in set(text)}
    bad = {character for character, kind in kinds.items() if kind in ("Cc", "Cs", "Cn", "Co", "Zl", "Zp")}
    return " ".join("".join(" " if character in bad else character for character in text).split())


def escaped(text: str) -> str:
    """Markdown that shows the text as it is, on one line, in a table too."""
    return re.sub(r"""([!"#$%&'()*+./:;<=>?@\[\\\]^_`{|}~-])""", r"\\\1", _clean(text))
