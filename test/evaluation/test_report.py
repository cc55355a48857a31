# SPDX-License-Identifier: Apache-2.0
"""The report in a browser: no requests, no console errors, images load, controls work."""

from __future__ import annotations

import os
import re
from html import unescape

import numpy as np
import pytest
from browser import Page, find_browser
from drive import write_drive

from mlesam_ros.bags.reader import parse_outage
from mlesam_ros.evaluation.bag_evaluator import EvaluationOptions, evaluate
from mlesam_ros.evaluation.bag_outputs import Outputs, evaluate_to_folder
from mlesam_ros.evaluation.plots import Line, line_plot, stacked_plot
from mlesam_ros.evaluation.report import MAX_SAMPLES, SampleCollector, input_to_rgb, write_overview
from mlesam_ros.evaluation.results import bag_metrics, summary
from mlesam_ros.types import MODALITIES

needs_browser = pytest.mark.skipif(
    find_browser() is None and not os.environ.get("MLESAM_REQUIRE_BROWSER"),
    reason="no Chromium here; requirements/system.sh browser brings one",
)
LOADED = """Promise.all([...document.images].filter(i => !i.hidden).map(i => i.decode().then(() => i.naturalWidth)))"""
MOVE = "(() => {{ at.value = {}; at.dispatchEvent(new Event('input')); }})()"


@pytest.fixture(scope="module")
def written(street, pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    options = EvaluationOptions(outages=(parse_outage("camera@0.55..0.95"),), robustness=True, every=2)
    _, figures = evaluate_to_folder(folder, street, pipeline, options, Outputs(bag=False))
    return folder / "report.html", figures


@pytest.fixture(scope="module")
def report(written):
    return written[0]


@pytest.fixture(scope="module")
def report_figures(written):
    return written[1]


@pytest.fixture(scope="module")
def page(report):
    with Page() as page:
        page.open(report)
        yield page


@needs_browser
def test_page_requests_nothing_and_logs_nothing(page, report):
    page.run(LOADED)
    assert page.requests == [report.resolve().as_uri()]
    assert page.complaints == []


@needs_browser
def test_images_load(page):
    page.run(MOVE.format(0))
    widths = page.run(LOADED)
    assert len(widths) == 6  # camera image, overlay, and the input images of four experts
    assert all(widths)


@needs_browser
def test_slider_shows_another_sample(page):
    seen = []
    for index in (0, 2):
        page.run(MOVE.format(index))
        seen.append(page.run("[layer.src, camera.src, time.textContent]"))
        assert "camera + depth + event + lidar" in page.run("caption.textContent")
    assert all(a != b for a, b in zip(*seen, strict=True))


@needs_browser
def test_missing_camera_image_is_shown_as_no_data(page):
    page.run(MOVE.format(3))
    assert page.run("camera.hidden")
    assert page.run("layer.style.opacity") == "1"
    assert "no camera image" in page.run("caption.textContent")
    silent = "getComputedStyle(document.querySelector('[data-modality=camera] .no-data')).display"
    assert page.run(silent) != "none"


@needs_browser
def test_layers_and_opacity_can_be_chosen(page):
    page.run(MOVE.format(0))
    assert page.run("[...which.options].map(o => o.value)") == ["mask", "truth", "wrong", "confidence"]
    sources = set()
    for layer in ("mask", "truth", "wrong", "confidence"):
        page.run(f"which.value = '{layer}'; which.dispatchEvent(new Event('input'))")
        sources.add(page.run("layer.src"))
    assert len(sources) == 4
    page.run("opacity.value = 20; opacity.dispatchEvent(new Event('input'))")
    assert page.run("layer.style.opacity") == "0.2"


@needs_browser
def test_play_advances_the_samples(page):
    page.run(MOVE.format(0))
    page.run("play.click()")
    assert page.run("new Promise(done => setTimeout(() => done(+at.value), 700))") > 0
    page.run("play.click()")


@needs_browser
def test_click_on_a_plot_shows_the_nearest_sample(page):
    page.run(MOVE.format(0))
    page.run("""(() => { const plot = document.querySelector('svg.plot'), box = plot.getBoundingClientRect();
        plot.dispatchEvent(new MouseEvent('click', {clientX: box.right - 12, clientY: box.top + 20})); })()""")
    assert page.run("at.value") == page.run("at.max")


@needs_browser
def test_point_cloud_is_drawn_and_rotates(page):
    page.run(MOVE.format(0))
    brightness = """(() => {
        const c = document.querySelector('canvas');
        const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return data.reduce((sum, value, i) => (i % 4 < 3 && value > 60 ? sum + (i % 997) : sum), 0);
    })()"""
    before = page.run(brightness)
    assert before > 0
    page.run("""(() => { const c = document.querySelector('canvas');
        c.setPointerCapture = () => {};
        const send = (type, x) => c.dispatchEvent(new PointerEvent(type, {pointerId: 1, clientX: x, clientY: 9}));
        send('pointerdown', 10); send('pointermove', 110); send('pointerup', 110); })()""")
    assert page.run(brightness) != before


@needs_browser
def test_diagrams_show_the_figures_of_every_subset(page, report_figures):
    rows = report_figures["reliability"]
    assert len(rows) == 15 and rows[0]["sensors"] == [*MODALITIES]
    shown = page.run("[...document.querySelectorAll('#confidence table tr')].map(r => r.cells[4].textContent)")
    assert shown[1:] == [f"{100 * row['calibration_error']:.1f}" for row in rows]
    heights = page.run("""[...document.querySelectorAll('#confidence .plot')[0].querySelectorAll('.accuracy')].map(
        bar => bar.height.baseVal.value)""")
    known = [value for value in rows[0]["bins"]["accuracy"] if value is not None]
    assert heights == pytest.approx([228 / 1.2 * value for value in known], abs=0.1)


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(400, False), (1280, True)])
def test_page_fits_a_phone_and_follows_dark_mode(report, width, dark):
    with Page(width=width, dark=dark) as page:
        page.open(report)
        assert page.run("document.documentElement.scrollWidth") <= width
        background = page.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 150) == dark
        assert page.complaints == []


def test_page_references_nothing_external(report):
    text = report.read_text()
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert "default-src 'none'" in text


def test_figures_on_the_page_equal_the_metrics(street, pipeline, tmp_path):
    _, figures = evaluate_to_folder(tmp_path, street, pipeline, EvaluationOptions(duration=0.3), Outputs(bag=False))
    text = unescape((tmp_path / "report.html").read_text())
    assert f"{figures['miou']:.1f} %" in text
    for name, value in figures["per_class"].items():
        assert value is None or (name in text and f"<td>{value:.1f}</td>" in text)
    assert figures["bag_sha256"] in text


@needs_browser
def test_text_from_a_bag_is_not_run(tmp_path, pipeline):
    """The bag's folder name and the content of its messages are untrusted."""
    evil = "<img src=x onerror=alert(1)>"

    def break_one(topic, index, made):
        if topic == "/camera/image_raw" and index == 3:
            made["encoding"] = evil
        return made

    bag = write_drive(tmp_path / f"bag{evil}", change=break_one)
    evaluate_to_folder(tmp_path, bag, pipeline, EvaluationOptions(), Outputs(bag=False))
    with Page() as page:
        page.open(tmp_path / "report.html")
        assert evil in page.run("document.querySelector('.warnings').textContent")
        assert page.run("document.querySelectorAll('[onerror]').length") == 0
        assert page.complaints == []


def test_page_of_a_bag_without_ground_truth_and_lidar(tmp_path, pipeline):
    def no_lidar(topic, index, made):
        return None if topic == "/lidar/points" else made

    bag = write_drive(tmp_path / "bag", truth=False, change=no_lidar)
    evaluate_to_folder(tmp_path, bag, pipeline, EvaluationOptions(), Outputs(bag=False))
    text = (tmp_path / "report.html").read_text()
    assert "<canvas" not in text and "Confusion" not in text
    assert 'value="truth"' not in text


def test_page_of_several_bags(street, pipeline, tmp_path):
    parts = {
        "one": evaluate(street, pipeline, EvaluationOptions(every=4)),
        "two": evaluate(street, pipeline, EvaluationOptions(every=6)),
    }
    keys = ("masks", "miou", "latency_ms", "consistency")
    found = {name: bag_metrics(part, EvaluationOptions(), pipeline) for name, part in parts.items()}
    rows = [
        {"bag": name, "report": f"{name}/report.html", "warnings": 0, **{key: figures[key] for key in keys}}
        for name, figures in found.items()
    ]
    rows.append({"bag": "three", "error": "three is empty."})
    whole = summary(parts, EvaluationOptions(), pipeline)
    write_overview(tmp_path / "report.html", whole, rows, pipeline.config.label_space)
    text = (tmp_path / "report.html").read_text()
    assert 'href="one/report.html"' in text and "three is empty." in text
    assert whole["masks"] == rows[0]["masks"] + rows[1]["masks"]


# Samples and plots


class FakeRecord:
    def __init__(self, sequence):
        self.sequence = sequence


@pytest.mark.parametrize("masks", [1, 39, 40, 41, 100, 1000])
def test_samples_are_bounded_and_evenly_spread(monkeypatch, masks, pipeline):
    collector = SampleCollector(pipeline.config.label_space)
    monkeypatch.setattr(collector, "_make_sample", lambda made: made)
    for sequence in range(1, masks + 1):
        collector.on_mask(FakeRecord(sequence))
    kept = [made.sequence for made in collector.samples]
    assert min(masks, MAX_SAMPLES // 2) <= len(kept) <= MAX_SAMPLES
    assert len(set(np.diff(kept))) <= 1 and kept[0] == 1
    assert masks - kept[-1] < max(2, 2 * masks // MAX_SAMPLES + 1)


def test_thinned_line_keeps_its_peaks():
    times = np.arange(20_000) / 10
    values = np.zeros(20_000)
    values[12_345], values[777] = 90.0, -40.0
    svg = line_plot(times, [Line("a", "red", values)], "ms")
    points = re.findall(r"[ML]([\d.]+),([\d.-]+)", svg)
    heights = [float(y) for _, y in points]
    assert len(points) < 700
    flat = np.median(heights)
    assert min(heights) < flat - 50 and max(heights) > flat + 20


def test_line_is_interrupted_at_nan():
    values = np.array([1.0, 2, np.nan, np.nan, 3, 4, np.nan, 5])
    svg = line_plot(np.arange(8.0), [Line("a", "red", values)], "%")
    path = re.search(r'class="line"[^>]* d="([^"]*)"', svg)[1]
    assert path.count("M") == 3 and "nan" not in svg


def test_areas_are_stacked():
    ones = np.full(5, 0.5)
    svg = stacked_plot(np.arange(5.0), [Line("a", "red", ones), Line("b", "blue", ones)], "share", 1.0)
    areas = re.findall(r'"area"[^>]* d="([^"]*)"', svg)
    tops = [min(float(y) for _, y in re.findall(r"[ML]([\d.]+),([\d.-]+)", area)) for area in areas]
    assert tops[0] < tops[1]  # the sum is drawn first, its lower part over it


def test_single_channel_gets_a_color_map_and_no_data_is_black():
    image = np.repeat(np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8), 3, 0)
    image[:, 0] = 0
    shown = input_to_rgb(image)
    assert shown.shape == (8, 8, 3)
    assert not shown[0].any()
    assert len(np.unique(shown[1:].reshape(-1, 3), axis=0)) > 30


def test_camera_input_keeps_its_colors():
    mean, deviation = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    colors = np.random.default_rng(0).uniform(0.05, 0.95, (3, 4, 5)).astype(np.float32)
    image = (colors - np.array(mean, np.float32)[:, None, None]) / np.float32(0.2)
    assert np.abs(input_to_rgb(image, (mean, deviation)).transpose(2, 0, 1) / 255 - colors).max() < 0.01
