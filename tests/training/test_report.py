"""report.html: what it shows of a run folder, how it escapes it, and that a browser takes it without complaint."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from flaxdream.config import DreamBoothConfig, TextToImageConfig
from flaxdream.config.yaml_file import write_yaml
from flaxdream.sampling.prompts import Request
from flaxdream.training import report
from flaxdream.training.metrics_file import MetricsFile
from flaxdream.training.report import write_report
from flaxdream.training.report_charts import charts, running_mean
from flaxdream.training.report_svg import axes, kept, number, ticks
from flaxdream.training.report_text import duration, shown
from flaxdream.training.run_pictures import write_thumbs, write_validation
from tests.training.chromium import PROGRAM, Chromium

EVIL = "</script><script>alert(1)</script> \"sks\" 'dog' & <b>$title</b> ünï ☃ `x`"
EVIL_CONFIG = dict(instance_prompt=EVIL, pretrained_model_name_or_path="<img src=x>", max_train_steps=40)


def picture(seed, side=24):
    return np.random.default_rng(seed).integers(0, 255, (side, side + 8, 3), dtype=np.uint8)


def log(folder, rows):
    file = MetricsFile(folder / "metrics.jsonl")
    for step, metrics in rows:
        file.log(step, metrics)
    file.close()


def make_run(folder, steps=40, **settings):
    """A finished run with all that there can be."""
    write_yaml(folder / "config.yaml", DreamBoothConfig(**{"hub_token": "hf_secret", **settings}))
    wave = 0.1 + 0.05 * np.sin(np.arange(steps + 1))
    rows = [(0, {"validation_loss": 0.3})]
    for step in range(1, steps + 1):
        parts = {"loss": wave[step], "loss_instance": wave[step] / 2, "loss_prior": 0.05}
        rows.append((step, {**parts, "grad_norm": 1.0, "lr": 5e-6, "images_per_second": 8.0, "loss_scale": 65536.0}))
        if step % 20 == 0:
            rows.append((step, {"validation_loss": 0.25}))
    log(folder, rows)
    requests = [
        Request(prompt, "blurry", seed=seed) for prompt in (settings["instance_prompt"], "b") for seed in (3, 4)
    ]
    for step in (0, 20, 40):
        drawn = [Image.fromarray(picture(step + n)) for n in range(4)]
        write_validation(folder, step, drawn, requests)
    write_thumbs(folder, "instance", [picture(n) for n in range(3)])
    write_thumbs(folder, "class", [picture(n) for n in range(30)])
    summary = {"completed": True, "seconds": 125.0, "peak_memory_bytes": 3 * 2**30, "host_wait_share": 0.0123}
    (folder / "summary.json").write_text(json.dumps({**summary, "checkpoints": {"count": 2, "stall_seconds": 0.3}}))
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


class Page(HTMLParser):
    """The elements of a page and its text."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements, self.open, self.words = [], [], []
        self.feed(self.source)
        assert self.open == [], "unclosed elements"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def all(self, tag, **wanted):
        wanted = {name.strip("_"): value for name, value in wanted.items()}
        return [e for t, e in self.elements if t == tag and all(e.get(n) == v for n, v in wanted.items())]

    @property
    def text(self):
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("run"), **EVIL_CONFIG)
    path = write_report(folder)
    assert path == folder / "report.html" and not list(folder.glob(".*"))
    return Page(path)


def test_a_run_on_a_captioned_set_is_named_after_it_and_shows_its_held_out_loss(tmp_path):
    write_yaml(tmp_path / "config.yaml", TextToImageConfig(train_data_dir="/data/birds"))
    log(tmp_path, [(0, {"held_out_loss": 1.5}), (1, {"loss": 0.5}), (2, {"loss": 0.4, "held_out_loss": 0.25})])
    (tmp_path / "summary.json").write_text(json.dumps({"instance_prompts": ["a wren", "a robin"]}))
    write_thumbs(tmp_path, "instance", [picture(1)])
    text = " ".join(Page(write_report(tmp_path)).words)
    assert "trained on birds" in text and "a wren and 1 more" not in text
    assert "Held-out loss" in text and "1.5 → 0.25" in text
    assert "Some of them" in text and "Subject" not in text


def test_the_page_needs_nothing_from_elsewhere(page):
    addresses = [e[name] for _, e in page.elements for name in ("src", "href", "action") if name in e]
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert "url(" not in page.source and "@import" not in page.source
    (policy,) = [e for e in page.all("meta") if e.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"].startswith("default-src 'none'; img-src data:")


def test_prompts_are_shown_as_they_are_and_run_nothing(page):
    assert [e for _, e in page.elements if any(name.startswith("on") for name in e)] == []
    assert len(page.all("script")) == len(page.all("script", type="application/json")) + 1
    assert page.text.count(EVIL) > 5
    assert "<b>$title</b>" in page.text and not page.all("img", src="x")


def test_every_validation_step_is_in_the_page_and_the_last_one_is_shown_without_javascript(page):
    panels = page.all("div", class_="step")
    assert [(e["data-step"], "hidden" in e) for e in panels] == [("0", True), ("20", True), ("40", False)]
    images = [e for e in page.all("img") if "step 20" in e["alt"]]
    assert (
        len(images) == 4
        and images[0]["title"] == "seed 3"
        and (images[0]["width"], images[0]["height"]) == ("32", "24")
    )
    assert page.all("div", class_="player")[0].keys() >= {"hidden"}


def test_training_pictures_are_shown_up_to_a_number(page):
    assert len([e for e in page.all("img") if e["alt"].startswith("instance")]) == 3
    assert len([e for e in page.all("img") if e["alt"].startswith("class")]) == report.STRIP_PICTURES
    assert "and 6 more" in page.text


def test_settings_that_differ_come_first_and_tokens_never(page):
    first = page.text[page.text.index("Settings") : page.text.index("All ")]
    assert "max_train_steps" in first and "learning_rate" not in first
    assert "learning_rate" in page.text and "hf_secret" not in page.source and "hub_token" not in page.source


def test_timings_and_loading_are_there(page):
    for words in ("finished", "2 min 05 s", "3.00 GiB", "1.2%", "checkpoints / stall time", "Draw with it"):
        assert words in page.text
    assert "pipeline = StableDiffusionPipeline.from_pretrained('dreambooth-model')" in page.text


def test_the_charts_have_the_lines_of_all_numbers(page):
    titles = re.findall(r"<h3>([^<]+)</h3>.*?</figcaption>", page.source)
    assert titles == ["Loss", "Learning rate", "Gradient norm", "Images per second", "Loss scale"]
    blocks = re.findall(r'<script type="application/json">(.+?)</script>', page.source)
    lines = [[line["name"] for line in json.loads(block)["lines"]] for block in blocks]
    assert lines[0] == ["loss", "loss, smoothed", "instance", "prior", "validation"]
    assert lines[1:] == [["lr"], ["each step"], ["each step"], ["each step"]]
    validation = json.loads(blocks[0])["lines"][-1]
    assert (validation["x"], validation["y"]) == ([0, 20, 40], [0.3, 0.25, 0.25])


def test_a_run_that_was_stopped_early_has_a_report_too(tmp_path):
    write_yaml(tmp_path / "config.yaml", DreamBoothConfig(instance_prompt="a photo of sks cat", max_train_steps=9))
    log(tmp_path, [(1, {"loss": 0.5}), (2, {"loss": float("nan")})])
    page = Page(write_report(tmp_path))
    assert "not finished: step 2 of 9" in page.text and "a photo of sks cat" in page.text
    assert page.all("section", id="curves") and not page.all("section", id="use")
    for missing in ("validation", "pictures", "timings"):
        assert not page.all("section", id=missing)


@pytest.mark.parametrize("kind", ["metrics", "validation", "config", "summary"])
def test_each_piece_alone_makes_a_report(tmp_path, kind):
    if kind == "metrics":
        log(tmp_path, [(1, {"loss": 0.5, "lr": 0.0})])
    elif kind == "validation":
        (tmp_path / "validation/step-000007").mkdir(parents=True)
        Image.fromarray(picture(0)).save(tmp_path / "validation/step-000007/00-00.png")
        (tmp_path / "validation/.step-000008.partial").mkdir()
    elif kind == "config":
        write_yaml(tmp_path / "config.yaml", DreamBoothConfig())
    else:
        (tmp_path / "summary.json").write_text('{"completed": false, "steps": 3}')
    assert Page(write_report(tmp_path)).text


def test_the_summary_of_an_earlier_longer_run_makes_no_run_finished(tmp_path):
    log(tmp_path, [(1, {"loss": 0.5})])
    (tmp_path / "summary.json").write_text('{"steps": 2, "instance_prompts": ["a fox", "a cat", "a cat"]}')
    page = Page(write_report(tmp_path))
    assert "not finished: step 1" in page.text and page.text.startswith("a fox and 1 more")
    log(tmp_path, [(2, {"loss": 0.5})])
    assert "not finished" not in Page(write_report(tmp_path)).text


def test_damaged_files_are_left_out(tmp_path):
    log(tmp_path, [(1, {"loss": 0.5})])
    for name in ("config.yaml", "summary.json", "model_index.json"):
        (tmp_path / name).write_text("{[: nonsense")
    broken = tmp_path / "validation/step-000001"
    broken.mkdir(parents=True)
    (broken / "00-00.png").write_bytes(b"no picture")
    (broken / "prompts.json").write_text("[1, 2")
    assert "00-00.png cannot be read" in Page(write_report(tmp_path)).text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no run folder: it has no config.yaml"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_many_validations_make_pictures_smaller_and_then_fewer(tmp_path, monkeypatch):
    for step in range(1, 13):
        write_validation(tmp_path, step, [Image.fromarray(picture(step, 512))], [Request("a", seed=1)])
    sizes = {}
    for budget in (10**7, 13 * 256**2 * report.BYTES_A_PIXEL, 5 * 192**2 * report.BYTES_A_PIXEL):
        monkeypatch.setattr(report, "VALIDATION_BYTES", budget)
        page = Page(write_report(tmp_path))
        sizes[len(page.all("div", class_="step"))] = max(int(e["width"]) for e in page.all("img"))
        last = page.all("div", class_="step")[-1]
        assert last["data-step"] == "12" and "hidden" not in last
    assert sizes == {12: 256, 5: 192}
    assert "5 of 12 validations" in page.text


def test_the_running_mean_keeps_constants_and_ends(monkeypatch):
    assert np.allclose(running_mean(np.full(77, 3.0)), 3.0)
    assert np.allclose(running_mean(np.arange(100.0))[40:60], np.arange(40, 60))  # centred: no lag
    assert np.array_equal(running_mean(np.array([1.0, 5.0])), [1.0, 5.0])


def test_long_lines_keep_both_ends_and_every_peak():
    values = np.random.default_rng(0).normal(size=50_000)
    values[31_234] = 99.0
    places = kept(values)
    assert len(places) < 700 and {0, 31_234, 49_999} <= set(places.tolist())


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1000, [0, 200, 400, 600, 800, 1000]),
        (0.013, 0.031, [0.015, 0.02, 0.025, 0.03]),
        (2, 2, [2]),
        (0, 5e-6, None),
    ],
)
def test_ticks_are_round_numbers_within_the_axis(low, high, expected):
    found = ticks(low, high, 5)
    assert found == (expected or [0, 1e-6, 2e-6, 3e-6, 4e-6, 5e-6])


def test_numbers_and_durations_are_short():
    assert [number(v) for v in (0, 0.12345, 1234, 5e-6, 65536, 2.5e6, -0.5)] == [
        *("0", "0.1235", "1234", "5e-6", "65.54k", "2.5M", "-0.5")
    ]
    assert [duration(s) for s in (0.456, 12.34, 245, 3600, 7619)] == [
        *("0.46 s", "12.3 s", "4 min 05 s", "1 h 00 min", "2 h 07 min")
    ]
    assert [shown("x", v) for v in (True, None, (), "", 5e-6, ("a", "b"))] == [
        *("yes", "not given", "none", "none", "5e-6", "a\nb")
    ]


def test_one_peak_does_not_flatten_the_loss():
    rows = [{"step": step, "loss": 0.1 + 0.01 * (step % 7)} for step in range(1, 301)]
    rows[150]["loss"] = 500.0
    (chart,) = charts(rows)
    assert axes(chart).y_high < 30  # the mean's own peak is 500 / 35


@pytest.mark.skipif(PROGRAM is None, reason="needs chromium on PATH")
@pytest.mark.slow
def test_a_browser_shows_it_without_complaint_or_overflow(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    path = write_report(make_run(folder, validation_prompt=("x" * 300, "b"), **EVIL_CONFIG))
    with Chromium(tmp_path / "profile") as browser:
        for width, dark in ((1280, False), (390, True), (320, False)):
            browser.open(path, width, dark=dark)
            assert browser.complaints() == []
            assert browser.value("document.documentElement.scrollWidth") <= width

        def step():
            return browser.value(
                "[...document.querySelectorAll('.step:not([hidden])')].map(e => e.dataset.step).join()"
            )

        assert step() == "40"
        browser.key("ArrowLeft")
        assert step() == "20" and browser.value("document.querySelector('.player output').textContent") == "step 20"
        browser.value("document.querySelector('.player input').focus()")
        browser.key("Home")
        assert step() == "0"
        browser.value("document.querySelector('.play').click()")
        assert browser.value("document.querySelector('.play').getAttribute('aria-pressed')") == "true"
        browser.point("#chart-0 .plot", 0.5)
        assert re.match(r"step 20 · loss 0\.1\d+ ", browser.value("document.querySelector('.readout').textContent"))
        assert browser.complaints() == []

        browser.open(path, 390, scripts=False)
        browser.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as shot:
        assert shot.height > 1500
