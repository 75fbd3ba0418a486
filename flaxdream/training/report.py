"""report.html: one file that shows a run, made from its folder alone.

Nothing is fetched and nothing but the file's own script runs (its Content-Security-Policy sees to that): pictures
are data URIs, lines are SVG. Without JavaScript the last validation and all charts are there.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template

from flaxdream.data.images import BrokenPicture, picture_size, read_picture
from flaxdream.sampling.pictures import jpeg_thumbnail
from flaxdream.training.report_charts import charts
from flaxdream.training.report_run import PromptRow, Run, Validation, read_run
from flaxdream.training.report_svg import chart_html
from flaxdream.training.report_text import facts, headline, loading, settings_tables, status, summary_table

ASSETS = Path(__file__).parent.parent / "assets"
VALIDATION_BYTES = 8_000_000  # of all validation pictures together, about; a third more in base64
SIZES = (512, 384, 256, 192)  # pixels, longest side
BYTES_A_PIXEL = 0.2  # of a JPEG, about
STRIP, STRIP_PICTURES = 192, 24  # of the training pictures: longest side, and how many


def write_report(output_dir: str | Path) -> Path:
    """Writes report.html into a run folder, finished or not, and returns its path.

    What the folder does not have is left out. Raises ValueError for a folder that is none of a run.
    """
    run = read_run(output_dir)
    title, subtitle = headline(run)
    script = _asset("report.js")
    page = Template(_asset("report.html")).substitute(
        title=escape(title),
        subtitle=subtitle,
        status=status(run),
        style=_asset("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        body="\n".join(filter(None, (section(run) for section in SECTIONS))),
    )
    path = run.folder / "report.html"
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _validation_section(run: Run) -> str:
    if not run.validations:
        return ""
    longest, shown = _plan(run.validations)
    steps = "".join(_step(validation, longest, number == len(shown) - 1) for number, validation in enumerate(shown))
    labels = ",".join(str(validation.step) for validation in shown)
    last = shown[-1].step
    note = ""
    if len(shown) < len(run.validations):
        note = f"<p class='note'>{len(shown)} of {len(run.validations)} validations; all are in validation/.</p>"
    return f"""<section id="validation"><h2>Validation</h2>
<div class="player" data-steps="{labels}" hidden>
<button type="button" class="play" aria-pressed="false">Play</button>
<button type="button" class="back" aria-label="Earlier step">&#8592;</button>
<input type="range" min="0" max="{len(shown) - 1}" value="{len(shown) - 1}" step="1" aria-label="Training step">
<button type="button" class="on" aria-label="Later step">&#8594;</button>
<output>step {last}</output></div>
<noscript><p class="note">Pictures of step {last}; with JavaScript a slider shows {len(shown)} steps.</p></noscript>
{steps}{note}</section>"""


def _plan(validations: Sequence[Validation]) -> tuple[int, list[Validation]]:
    """The pictures' longest side and the steps to show, within `VALIDATION_BYTES`: smaller first, then fewer steps."""
    count = sum(len(row.files) for validation in validations for row in validation.rows)
    own = _longest(validations[-1].rows[0].files[0])
    sizes = [min(size, own) for size in SIZES]
    for size in sizes:
        if count * size**2 * BYTES_A_PIXEL <= VALIDATION_BYTES:
            return size, list(validations)
    room = VALIDATION_BYTES / (sizes[-1] ** 2 * BYTES_A_PIXEL)
    keep = max(2, int(room * len(validations) / count))
    chosen = sorted({round(i * (len(validations) - 1) / (keep - 1)) for i in range(keep)})
    return sizes[-1], [validations[index] for index in chosen]


def _longest(path: Path) -> int:
    try:
        return max(picture_size(path))
    except BrokenPicture:
        return SIZES[0]


def _step(validation: Validation, longest: int, is_last: bool) -> str:
    rows = "".join(_prompt_row(row, validation.step, longest) for row in validation.rows)
    hidden = "" if is_last else " hidden"
    return f'<div class="step" data-step="{validation.step}"{hidden}>{rows}</div>\n'


def _prompt_row(row: PromptRow, step: int, longest: int) -> str:
    images = []
    for number, (path, seed) in enumerate(zip(row.files, row.seeds, strict=True)):
        tip = "" if seed is None else f"seed {seed}"
        images.append(_image(path, longest, f"{row.prompt}, picture {number + 1}, step {step}", tip))
    negative = f' <span class="negative">not: {escape(row.negative_prompt)}</span>' if row.negative_prompt else ""
    heading = f"<h3>{escape(row.prompt)}{negative}</h3>" if row.prompt or negative else ""
    return f'<div class="prompt">{heading}<div class="pictures">{"".join(images)}</div></div>'


def _image(path: Path, longest: int, alt: str, tip: str = "") -> str:
    """The picture in the page itself; its absence in words if it cannot be read."""
    try:
        data, width, height = jpeg_thumbnail(read_picture(path), longest)
    except BrokenPicture:
        return f'<span class="missing">{escape(path.name)} cannot be read</span>'
    uri = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    tip = f' title="{escape(tip)}"' if tip else ""
    return f'<img src="{uri}" width="{width}" height="{height}" alt="{escape(alt)}"{tip} decoding="sync">'


def _curves_section(run: Run) -> str:
    found = charts(run.metrics)
    if not found:
        return ""
    figures = "\n".join(chart_html(chart, index) for index, chart in enumerate(found))
    return f'<section id="curves"><h2>Curves</h2><div class="charts">{figures}</div></section>'


def _pictures_section(run: Run) -> str:
    strips = [
        ("Some of them" if run.data_set else "Subject", run.instance),
        ("Class, to keep what the model knows", run.classes),
    ]
    parts = []
    for name, paths in strips:
        if paths:
            images = "".join(_image(path, STRIP, path.stem.replace("-", " ")) for path in paths[:STRIP_PICTURES])
            more = f"<p class='note'>and {len(paths) - STRIP_PICTURES} more</p>" * (len(paths) > STRIP_PICTURES)
            parts.append(f'<h3>{escape(name)}</h3><div class="strip">{images}</div>{more}')
    return f'<section id="pictures"><h2>Training pictures</h2>{"".join(parts)}</section>' if parts else ""


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


SECTIONS: tuple[Callable[[Run], str], ...] = (
    facts,
    _validation_section,
    _curves_section,
    _pictures_section,
    loading,
    settings_tables,
    summary_table,
)
