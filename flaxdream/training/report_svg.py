"""Line charts as SVG for the lines and HTML for the words, so that these keep their size on any screen."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

from flaxdream.training.report_charts import Chart

SIDE = 1000  # of the SVG's own coordinates, stretched to the place that there is
MOST_POINTS = 600  # of a line


def kept(values: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """The places of at most about `most` values: the lowest and the highest of each stretch, and both ends."""
    if len(values) <= most:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), most // 2 + 1).astype(int)
    keep = {0, len(values) - 1}
    for low, high in pairwise(edges):
        keep |= {low + int(np.argmin(values[low:high])), low + int(np.argmax(values[low:high]))}
    return np.array(sorted(keep))


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers in low..high, at most about `most`, at steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def number(value: float) -> str:
    """Four digits: 0.1234, 12.34, 1234, 5e-06, 12k."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:.4g}k" if abs(value) < 1e6 else f"{value / 1e6:.4g}M"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class Axes:
    """The ends of both axes, and where a value lies: 0..1 from the left and from the top."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def left(self, x: float) -> float:
        return (x - self.x_low) / (self.x_high - self.x_low) if self.x_high > self.x_low else 0.5

    def top(self, y: float) -> float:
        """What lies beyond the axis is drawn at its end."""
        return 1 - (min(max(y, self.y_low), self.y_high) - self.y_low) / (self.y_high - self.y_low)


def axes(chart: Chart) -> Axes:
    """All lines in full, but of a long faint one the middle 99 %, so that a peak flattens nothing else."""
    lows, highs = [], []
    for line in chart.lines:
        share = 0.005 if line.style == "faint" and len(line.y) >= 100 else 0.0
        low, high = np.quantile(line.y, [share, 1 - share])
        lows.append(float(low))
        highs.append(float(high))
    low, high = min(lows), max(highs)
    if low >= 0 and (chart.from_zero or low < 0.35 * high):
        low = 0.0
    if high == low:
        low, high = (low - 0.5 * abs(low), high + 0.5 * abs(high)) if high else (0.0, 1.0)
    room = 0.04 * (high - low)
    x_low, x_high = min(float(line.x[0]) for line in chart.lines), max(float(line.x[-1]) for line in chart.lines)
    return Axes(x_low, x_high, low if low == 0 else low - room, high + room)


def chart_html(chart: Chart, index: int) -> str:
    """A figure with legend, axes, lines and the numbers for the readout."""
    frame = axes(chart)
    y_ticks = ticks(frame.y_low, frame.y_high, 5)
    rules = "".join(f'<path class="rule" d="M0 {frame.top(y) * SIDE:.1f}H{SIDE}"/>' for y in y_ticks)
    paths, numbers = _drawn(chart, frame)
    return f"""<figure class="chart" id="chart-{index}">
<figcaption><h3>{escape(chart.title)}</h3>{_legend(chart)}</figcaption>
<div class="frame"><div class="y-axis" aria-hidden="true">{_y_words(y_ticks, frame)}</div>
<div class="plot" tabindex="0" role="img" aria-label="{escape(_in_words(chart))}">
<svg viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none" aria-hidden="true">{rules}{paths}</svg>
<div class="cursor" hidden></div></div>
<div class="x-axis" aria-hidden="true">{_x_words(frame)}</div></div>
<p class="readout" aria-live="polite">{escape(_note(chart, frame))}</p>
<script type="application/json">{numbers}</script></figure>"""


def _drawn(chart: Chart, frame: Axes) -> tuple[str, str]:
    """The lines as SVG, and as JSON that is safe inside a script element."""
    paths, lines = [], []
    places: dict[bytes, np.ndarray] = {}  # lines over the same steps keep the same ones
    for line in chart.lines:
        at = places.setdefault(line.x.tobytes(), kept(line.y))
        x, y = line.x[at], line.y[at]
        points = [f"{frame.left(a) * SIDE:.1f} {frame.top(b) * SIDE:.1f}" for a, b in zip(x, y)]
        if len(points) > 1:
            paths.append(f'<path class="{line.style}" d="M{" ".join(points)}"/>')
        if len(points) == 1 or line.has_dots:
            paths.append(f'<path class="{line.style} dot" d="{"".join(f"M{point}h0" for point in points)}"/>')
        lines.append({"name": line.name, "x": x.tolist(), "y": [float(f"{b:.5g}") for b in y]})
    numbers = json.dumps({"low": frame.x_low, "high": frame.x_high, "lines": lines})
    return "".join(paths), numbers.replace("<", "\\u003c")


def _note(chart: Chart, frame: Axes) -> str:
    cut = sum(int(((line.y > frame.y_high) | (line.y < frame.y_low)).sum()) for line in chart.lines)
    beyond = f"{cut} outlying value{'s' * (cut > 1)} beyond the axis." if cut else ""
    return " ".join(filter(None, (chart.note, beyond)))


def _legend(chart: Chart) -> str:
    if len(chart.lines) == 1:
        return ""
    items = []
    for line in chart.lines:
        samples = f'<path class="{line.style}" d="M1 4H23"/>'
        if line.has_dots:
            samples += f'<path class="{line.style} dot" d="M12 4h0"/>'
        items.append(f'<li><svg viewBox="0 0 24 8" aria-hidden="true">{samples}</svg>{escape(line.name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _y_words(y_ticks: Sequence[float], frame: Axes) -> str:
    return "".join(f'<span style="top:{frame.top(y):.2%}">{number(y)}</span>' for y in y_ticks)


def _x_words(frame: Axes) -> str:
    """Whole steps, in thousands once there are ten of them."""
    x_ticks = [tick for tick in ticks(frame.x_low, frame.x_high, 6) if tick == int(tick)]
    thousands = x_ticks[-1] >= 10_000
    words = [f"{x / 1000:g}k" if thousands and x else f"{x:g}" for x in x_ticks]
    return "".join(f'<span style="left:{frame.left(x):.2%}">{word}</span>' for x, word in zip(x_ticks, words))


def _in_words(chart: Chart) -> str:
    """What the picture shows, for those who do not see it."""
    parts = [
        f"{line.name} from {number(line.y[0])} at step {line.x[0]:g} to {number(line.y[-1])} at step {line.x[-1]:g}"
        for line in chart.lines
        if line.style != "faint"
    ]
    return f"{chart.title}: {'; '.join(parts)}"
