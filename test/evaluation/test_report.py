"""The page, in a real browser: nothing is fetched, nothing complains, pictures load, controls work."""

from __future__ import annotations

import os
import re
from html import unescape

import numpy as np
import pytest
from browser import Page, find_browser
from drive import write_drive

from mlesam_ros.bags.outage import parse_drop
from mlesam_ros.evaluation.bag_evaluator import Options, evaluate
from mlesam_ros.evaluation.bag_outputs import Outputs, evaluate_to_folder
from mlesam_ros.evaluation.report.page import write_overview
from mlesam_ros.evaluation.report.plots import Line, heat_map, line_plot, stacked_plot
from mlesam_ros.evaluation.report.samples import MOST, SampleCollector, visible
from mlesam_ros.evaluation.results import metrics, summary

needs_browser = pytest.mark.skipif(
    find_browser() is None and not os.environ.get("MLESAM_REQUIRE_BROWSER"),
    reason="no Chromium here; requirements/system.sh browser brings one",
)
LOADED = """Promise.all([...document.images].filter(i => !i.hidden).map(i => i.decode().then(() => i.naturalWidth)))"""
MOVE = "(() => {{ at.value = {}; at.dispatchEvent(new Event('input')); }})()"


@pytest.fixture(scope="module")
def report(street, pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    options = Options(drops=(parse_drop("camera@0.55..0.95"),), robustness=True, every=2)
    evaluate_to_folder(folder, street, pipeline, options, Outputs(bag=False))
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(report):
    with Page() as page:
        page.open(report)
        yield page


@needs_browser
def test_nothing_is_fetched_and_nothing_complains(page, report):
    page.run(LOADED)
    assert page.requests == [report.resolve().as_uri()]
    assert page.complaints == []


@needs_browser
def test_pictures_load(page):
    page.run(MOVE.format(0))
    widths = page.run(LOADED)
    assert len(widths) == 6  # picture, layer, and what four experts read
    assert all(widths)


@needs_browser
def test_the_slider_shows_another_moment(page):
    seen = []
    for index in (0, 2):
        page.run(MOVE.format(index))
        seen.append(page.run("[layer.src, picture.src, time.textContent]"))
        assert "camera + depth + event + lidar" in page.run("said.textContent")
    assert all(a != b for a, b in zip(*seen, strict=True))


@needs_browser
def test_a_lost_camera_is_shown_as_such(page):
    page.run(MOVE.format(3))
    assert page.run("picture.hidden")
    assert page.run("layer.style.opacity") == "1"
    assert "no camera picture" in page.run("said.textContent")
    silent = "getComputedStyle(document.querySelector('[data-modality=camera] .silent')).display"
    assert page.run(silent) != "none"


@needs_browser
def test_layers_and_opacity(page):
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
def test_play_runs_through_the_moments(page):
    page.run(MOVE.format(0))
    page.run("play.click()")
    assert page.run("new Promise(done => setTimeout(() => done(+at.value), 700))") > 0
    page.run("play.click()")


@needs_browser
def test_a_click_on_a_plot_goes_there(page):
    page.run(MOVE.format(0))
    page.run("""(() => { const plot = document.querySelector('svg.plot'), box = plot.getBoundingClientRect();
        plot.dispatchEvent(new MouseEvent('click', {clientX: box.right - 12, clientY: box.top + 20})); })()""")
    assert page.run("at.value") == page.run("at.max")


@needs_browser
def test_the_cloud_is_drawn_and_turns(page):
    page.run(MOVE.format(0))
    drawn = """(() => {
        const c = document.querySelector('canvas');
        const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return data.reduce((sum, value, i) => (i % 4 < 3 && value > 60 ? sum + (i % 997) : sum), 0);
    })()"""
    before = page.run(drawn)
    assert before > 0
    page.run("""(() => { const c = document.querySelector('canvas');
        c.setPointerCapture = () => {};
        const send = (type, x) => c.dispatchEvent(new PointerEvent(type, {pointerId: 1, clientX: x, clientY: 9}));
        send('pointerdown', 10); send('pointermove', 110); send('pointerup', 110); })()""")
    assert page.run(drawn) != before


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(400, False), (1280, True)])
def test_it_fits_a_phone_and_the_night(report, width, dark):
    with Page(width=width, dark=dark) as page:
        page.open(report)
        assert page.run("document.documentElement.scrollWidth") <= width
        background = page.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 150) == dark
        assert page.complaints == []


def test_it_asks_for_nothing_from_outside(report):
    text = report.read_text()
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert "default-src 'none'" in text


def test_figures_on_the_page_are_those_of_the_metrics(street, pipeline, tmp_path):
    _, figures = evaluate_to_folder(tmp_path, street, pipeline, Options(duration=0.3), Outputs(bag=False))
    text = unescape((tmp_path / "report.html").read_text())
    assert f"{figures['miou']:.1f} %" in text
    for name, value in figures["per_class"].items():
        assert value is None or (name in text and f"<td>{value:.1f}</td>" in text)
    assert figures["bag_sha256"] in text


@needs_browser
def test_names_from_a_bag_are_text_and_nothing_else(tmp_path, pipeline):
    """A bag's folder, and what its messages say, come from strangers."""
    evil = "<img src=x onerror=alert(1)>"

    def break_one(topic, index, made):
        if topic == "/camera/image_raw" and index == 3:
            made["encoding"] = evil
        return made

    bag = write_drive(tmp_path / f"bag{evil}", change=break_one)
    evaluate_to_folder(tmp_path, bag, pipeline, Options(), Outputs(bag=False))
    with Page() as page:
        page.open(tmp_path / "report.html")
        assert evil in page.run("document.querySelector('.warnings').textContent")
        assert page.run("document.querySelectorAll('[onerror]').length") == 0
        assert page.complaints == []


def test_a_bag_without_truth_or_lidar_has_a_page_too(tmp_path, pipeline):
    def no_lidar(topic, index, made):
        return None if topic == "/lidar/points" else made

    bag = write_drive(tmp_path / "bag", truth=False, change=no_lidar)
    evaluate_to_folder(tmp_path, bag, pipeline, Options(), Outputs(bag=False))
    text = (tmp_path / "report.html").read_text()
    assert "<canvas" not in text and "Confusion" not in text
    assert 'value="truth"' not in text


def test_the_page_of_several_bags(street, pipeline, tmp_path):
    parts = {"one": evaluate(street, pipeline, Options(every=4)), "two": evaluate(street, pipeline, Options(every=6))}
    keys = ("masks", "miou", "latency_ms", "consistency")
    found = {name: metrics(part, Options(), pipeline) for name, part in parts.items()}
    rows = [
        {"bag": name, "report": f"{name}/report.html", "warnings": 0, **{key: figures[key] for key in keys}}
        for name, figures in found.items()
    ]
    rows.append({"bag": "three", "error": "three is empty."})
    whole = summary(parts, Options(), pipeline)
    write_overview(tmp_path / "report.html", whole, rows, pipeline.config.label_space)
    text = (tmp_path / "report.html").read_text()
    assert 'href="one/report.html"' in text and "three is empty." in text
    assert whole["masks"] == rows[0]["masks"] + rows[1]["masks"]


# Its parts


class FakeMade:
    def __init__(self, sequence):
        self.sequence = sequence


@pytest.mark.parametrize("masks", [1, 39, 40, 41, 100, 1000])
def test_moments_are_bounded_and_evenly_spread(monkeypatch, masks, pipeline):
    strip = SampleCollector(pipeline.config.label_space)
    monkeypatch.setattr(strip, "_moment", lambda made: made)
    for sequence in range(1, masks + 1):
        strip.take(FakeMade(sequence))
    kept = [made.sequence for made in strip.moments]
    assert min(masks, MOST // 2) <= len(kept) <= MOST
    assert len(set(np.diff(kept))) <= 1 and kept[0] == 1
    assert masks - kept[-1] < max(2, 2 * masks // MOST + 1)


def test_a_line_is_thinned_without_losing_its_peaks():
    times = np.arange(20_000) / 10
    values = np.zeros(20_000)
    values[12_345], values[777] = 90.0, -40.0
    drawn = line_plot(times, [Line("a", "red", values)], "ms")
    points = re.findall(r"[ML]([\d.]+),([\d.-]+)", drawn)
    heights = [float(y) for _, y in points]
    assert len(points) < 700
    flat = np.median(heights)
    assert min(heights) < flat - 50 and max(heights) > flat + 20


def test_a_line_breaks_where_there_is_nothing():
    values = np.array([1.0, 2, np.nan, np.nan, 3, 4, np.nan, 5])
    drawn = line_plot(np.arange(8.0), [Line("a", "red", values)], "%")
    path = re.search(r'class="line"[^>]* d="([^"]*)"', drawn)[1]
    assert path.count("M") == 3 and "nan" not in drawn


def test_areas_add_up_to_the_top():
    ones = np.full(5, 0.5)
    drawn = stacked_plot(np.arange(5.0), [Line("a", "red", ones), Line("b", "blue", ones)], "share", 1.0)
    areas = re.findall(r'"area"[^>]* d="([^"]*)"', drawn)
    tops = [min(float(y) for _, y in re.findall(r"[ML]([\d.]+),([\d.-]+)", area)) for area in areas]
    assert tops[0] < tops[1]  # the sum is drawn first, its lower part over it


def test_names_of_a_heat_map_are_escaped():
    drawn = heat_map(np.eye(1), ["<b>"], ["<b>"], [["<i>"]])
    assert "<b>" not in drawn and "<i>" not in drawn


def test_one_value_three_times_gets_false_colors_and_silence_is_black():
    image = np.repeat(np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8), 3, 0)
    image[:, 0] = 0
    shown = visible(image)
    assert shown.shape == (8, 8, 3)
    assert not shown[0].any()
    assert len(np.unique(shown[1:].reshape(-1, 3), axis=0)) > 30


def test_a_cameras_picture_keeps_its_colors():
    mean, deviation = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    colors = np.random.default_rng(0).uniform(0.05, 0.95, (3, 4, 5)).astype(np.float32)
    image = (colors - np.array(mean, np.float32)[:, None, None]) / np.float32(0.2)
    assert np.abs(visible(image, (mean, deviation)).transpose(2, 0, 1) / 255 - colors).max() < 0.01
