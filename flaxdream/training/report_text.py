"""The report's words: title, facts at a glance, how to load the result, settings and timings."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

import flaxdream
from flaxdream.training.report_charts import running_mean
from flaxdream.training.report_run import Run
from flaxdream.training.report_svg import number


def headline(run: Run) -> tuple[str, str]:
    """The title in plain text, and the line below it in HTML."""
    model = str(run.settings.get("pretrained_model_name_or_path") or "")
    words = [f"from <b>{escape(_short(model))}</b>"] if model else []
    steps = run.last_step or run.summary.get("steps")
    if steps:
        words.append(f"{steps} steps")
    rows = run.metrics
    if rows and isinstance(rows[-1].get("time"), int | float):
        words.append(time.strftime("%Y-%m-%d", time.gmtime(rows[-1]["time"])))
    if data := run.data_set:
        return f"trained on {_short(data)}", " · ".join(words)
    learnt = run.summary.get("instance_prompts")
    more = len(set(map(str, learnt))) - 1 if isinstance(learnt, list) and not run.settings.get("instance_prompt") else 0
    title = trigger(run) or run.folder.resolve().name
    return title + (f" and {more} more" if more > 0 else ""), " · ".join(words)


def trigger(run: Run) -> str:
    """The prompt that the model learnt, the first of several; a validation prompt where there is none."""
    prompts = [run.settings.get("instance_prompt")]
    summarized = run.summary.get("instance_prompts")
    prompts += summarized if isinstance(summarized, list) else []
    prompts += [row.prompt for validation in run.validations for row in validation.rows]
    return next((prompt.strip() for prompt in prompts if isinstance(prompt, str) and prompt.strip()), "")


def status(run: Run) -> str:
    """A badge in HTML: finished, or how far the run has come."""
    if run.is_complete:
        return '<span class="badge done">finished</span>'
    planned = run.settings.get("max_train_steps")
    of = f" of {planned}" if planned else ""
    return f'<span class="badge">not finished: step {run.last_step or 0}{of}</span>'


def facts(run: Run) -> str:
    """The numbers that are looked for first."""
    found = [(name, text) for name, text in _facts(run) if text]
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in found)
    return f'<dl class="facts">{cells}</dl>' if cells else ""


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    losses = [row["loss"] for row in run.metrics if isinstance(row.get("loss"), int | float)]
    if losses:
        mean = running_mean(np.array(losses, np.float64))
        yield "Loss", f"{mean[0]:.3g} → {mean[-1]:.3g}" if len(mean) > 1 else f"{mean[0]:.3g}"
    held_out = [row["held_out_loss"] for row in run.metrics if isinstance(row.get("held_out_loss"), int | float)]
    if held_out:
        yield "Held-out loss", f"{held_out[0]:.3g} → {held_out[-1]:.3g}"
    seconds = _number(run.summary, "total_seconds", "seconds")
    times = [row["time"] for row in run.metrics if isinstance(row.get("time"), int | float)]
    if seconds is not None:
        yield "Time", duration(seconds)
    elif len(times) > 1:
        yield "Time, pauses included", duration(times[-1] - times[0])
    speeds = [row["images_per_second"] for row in run.metrics if isinstance(row.get("images_per_second"), int | float)]
    # The median, because a mean counts compiling and drawing too.
    speed = float(np.median(speeds)) if speeds else _number(run.summary, "images_per_second")
    yield "Images per second", "" if speed is None else number(speed)
    for name, key in (("Peak memory", "peak_memory_bytes"), ("Device waiting for data", "host_wait_share")):
        value = run.summary.get(key)
        yield name, "" if value is None else shown(key, value)
    devices, kind = run.summary.get("devices"), run.summary.get("device_kind")
    if devices and kind:
        yield "Devices", f"{devices} × {kind}"


def loading(run: Run) -> str:
    """How to draw with the result; nothing while there is none."""
    try:
        index = json.loads((run.folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    where = str(run.settings.get("output_dir") or run.folder.resolve().name)
    kind = index.get("_class_name") if isinstance(index, dict) else None
    ours, theirs = loading_code(kind, where, trigger(run) or "a prompt")
    return (
        '<section id="use"><h2>Draw with it</h2><div class="pair">'
        f'<div><h3>flaxdream</h3><pre tabindex="0"><code>{escape(ours)}</code></pre></div>'
        f'<div><h3>diffusers</h3><pre tabindex="0"><code>{escape(theirs)}</code></pre></div></div></section>'
    )


def loading_code(kind: Any, where: str, prompt: str) -> tuple[str, str]:
    """Python that draws a picture with flaxdream, and with diffusers' class `kind`."""
    kind = kind if isinstance(kind, str) and kind.isidentifier() else "DiffusionPipeline"
    ours = (
        "from flaxdream import FlaxStableDiffusionPipeline\n\n"
        f"pipeline, params = FlaxStableDiffusionPipeline.from_pretrained({where!r})\n"
        f"pictures = pipeline.generate({prompt!r}, params, seeds=0)\n"
        'pictures[0].save("picture.png")'
    )
    theirs = (
        f"from diffusers import {kind}\n\n"
        f"pipeline = {kind}.from_pretrained({where!r})\n"
        f"pictures = pipeline({prompt!r}).images\n"
        'pictures[0].save("picture.png")'
    )
    return ours, theirs


def settings_tables(run: Run) -> str:
    """What differs from the defaults, then everything."""
    if not run.settings:
        return ""
    changed = {n: v for n, v in run.settings.items() if n in run.defaults and v != run.defaults[n]}
    every = "".join(_row(name, shown("", value)) for name, value in run.settings.items())
    every = f"<table><tbody>{every}</tbody></table>"
    if not run.defaults:
        return f'<section id="settings"><h2>Settings</h2>{every}</section>'
    rows = "".join(_row(name, shown("", value), shown("", run.defaults[name])) for name, value in changed.items())
    head = "<thead><tr><th>setting</th><th>value</th><th>default</th></tr></thead>"
    first = f"<table>{head}<tbody>{rows}</tbody></table>" if rows else "<p>All settings are the defaults.</p>"
    return (
        f'<section id="settings"><h2>Settings</h2>{first}'
        f"<details><summary>All {len(run.settings)} settings</summary>{every}</details></section>"
    )


def summary_table(run: Run) -> str:
    """Timings and memory as the summary has them, and what made the run."""
    rows = "".join(_row(_quantity(name), shown(name, value)) for name, value in _flat(run.summary))
    table = f"<table><tbody>{rows}</tbody></table>" if rows else ""
    section = f'<section id="timings"><h2>Timings and memory</h2>{table}</section>' if table else ""
    return f"{section}<footer>Made by flaxdream {escape(flaxdream.__version__)} from the run folder.</footer>"


def shown(name: str, value: Any) -> str:
    """A value in words, by the unit at the end of its name: seconds, bytes, share (of 1)."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "not given"
    if value in ("", [], ()):
        return "none"
    if isinstance(value, list | tuple):
        return "\n".join(shown("", item) for item in value)
    if isinstance(value, int | float):
        if "seconds" in name.split("_"):
            return duration(float(value))
        if name.endswith("bytes"):
            return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
        if name.endswith("share"):
            return f"{value:.1%}"
        return str(value) if isinstance(value, int) or not name else number(value)
    return str(value)


def duration(seconds: float) -> str:
    """0.45 s, 12.3 s, 4 min 05 s, 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _row(name: str, *values: str) -> str:
    cells = "".join(f"<td>{escape(value)}</td>" for value in values)
    return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'


def _quantity(name: str) -> str:
    """What is measured, without the unit, which the value has."""
    return name.replace("seconds", "time").removesuffix("_bytes").replace("_", " ")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} / ")
        else:
            yield prefix + name, value


def _number(values: Mapping[str, Any], *names: str) -> float | None:
    """The first that is there and a number."""
    return next((float(values[name]) for name in names if isinstance(values.get(name), int | float)), None)


def _short(model: str) -> str:
    """A Hub id as it is; of a path the last part."""
    return model if model.count("/") == 1 and not model.startswith((".", "/", "~")) else Path(model).name or model
