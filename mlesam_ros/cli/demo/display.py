# SPDX-License-Identifier: Apache-2.0
"""Display of the demo: terminal view, images and animations of the masks, and the final results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.serialization import typestore
from mlesam_ros.cli.common import write_json
from mlesam_ros.cli.demo.collector import (
    GROUND_POINTS,
    IMAGE,
    OBSTACLE_POINTS,
    DemoCollector,
    Labels,
    PhaseScore,
    Score,
    latency_ms,
)
from mlesam_ros.labels import LabelSpace
from mlesam_ros.messages import stamp_ns
from mlesam_ros.progress import track
from mlesam_ros.ros.player import Playlist
from mlesam_ros.semantic_points import NAVIGATION_POINT
from mlesam_ros.simulation.export import TOPICS
from mlesam_ros.simulation.sensors import BASE_FRAME, street_rig
from mlesam_ros.types import CAMERA, MODALITIES, NANOSECONDS
from mlesam_ros.visualization import bird_view, colorize, overlay

_BAR_WIDTH = 10
_WIDTH = 100
_REDRAW_S = 0.25
_LINE_INTERVAL_S = 1.0  # without a terminal


class View:
    """Progress view: a live table on a terminal, otherwise one line per second."""

    def __init__(self, console: Console, collector: DemoCollector, live: bool) -> None:
        """Initialize without output.

        Args:
            console: the output console.
            collector: source of the displayed scores and status.
            live: redraw in place instead of printing lines.
        """
        self._console = console
        self._collector = collector
        self._live = Live(console=console, auto_refresh=False, transient=True) if live else None
        self._next = 0.0

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop and clear the live table."""
        if self._live:
            self._live.stop()

    def show(self) -> None:
        """Update the view if the refresh interval has elapsed and the playback has started."""
        if time.monotonic() < self._next or not self._collector.score.start:
            return
        self._next = time.monotonic() + (_REDRAW_S if self._live else _LINE_INTERVAL_S)
        now = time.time_ns()
        if self._live:
            self._live.update(self._table(now), refresh=True)
        else:
            self._console.print(self._line(now), highlight=False, soft_wrap=True)

    def _line(self, now: int) -> str:
        collector = self._collector
        score = collector.score.phase_of(now)
        latency = latency_ms(collector.recent_latencies())
        used = [sensor.modality for sensor in _sensors(collector.status(now)) if sensor.used]
        return (
            f"{(now - collector.score.start) / NANOSECONDS:5.1f} s  {score.phase.title if score else 'end':18}"
            f"  {collector.rate(now):4.1f} Hz  p50 {number(latency['p50'])} ms  p95 {number(latency['p95'])} ms"
            f"  mIoU {number(score.miou if score else None)} %  {' '.join(used)}"
        )

    def _table(self, now: int) -> Group:
        collector, score = self._collector, self._collector.score
        phase = score.phase_of(now)
        latency = latency_ms(collector.recent_latencies())
        head = Table.grid(padding=(0, 3))
        head.add_row(
            Text(phase.phase.title if phase else "end", style="bold"),
            f"{collector.rate(now):4.1f} Hz",
            f"stamp to mask p50 {number(latency['p50'], 0)} ms, p95 {number(latency['p95'], 0)} ms",
            f"mIoU {number(phase.miou if phase else None)} % (overall {number(score.miou)} %)",
        )
        total = score.phases[-1].phase.end
        done = ProgressBar(total=total, completed=min(total, now - score.start), width=_WIDTH - 6)
        phases = phase_table(score, [entry for entry in score.phases if entry.offered], phase)
        phases.width = _WIDTH
        return Group(Panel(Group(head, done, Text(), self._sensors(now)), title="mlesam demo", width=_WIDTH), phases)

    def _sensors(self, now: int) -> Table:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        sensors = {sensor.modality: sensor for sensor in _sensors(self._collector.status(now))}
        levels = list(dict.fromkeys(w.level for sensor in sensors.values() for w in sensor.weights))
        for title in ("sensor", "", "age", *levels):
            table.add_column(title, justify="right" if title == "age" else "left", no_wrap=True)
        for modality in MODALITIES:
            sensor = sensors.get(modality)
            is_used = sensor is not None and sensor.used
            mark = Text("● used", style="green") if is_used else Text("○ missing", style="red")
            age = f"{sensor.age * 1e3:.0f} ms" if sensor is not None and is_used else "–"
            weights = {w.level: w.weight for w in sensor.weights} if sensor is not None else {}
            table.add_row(modality, mark, age, *(_bar(weights.get(level)) for level in levels))
        return table


def phase_table(score: Score, phases: Sequence[PhaseScore], current: PhaseScore | None = None) -> Table:
    """Table of phases: name, masks, offered simulation steps, mIoU, median latency, longest gap.

    Args:
        score: of the demo.
        phases: to show.
        current: printed bold, without its gap, which is still open.
    """
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for title in ("phase", "masks", "of", "mIoU", "p50", "longest gap"):
        table.add_column(title, justify="left" if title == "phase" else "right")
    for entry in phases:
        table.add_row(
            entry.phase.title,
            str(len(entry.arrivals)),
            str(entry.offered),
            f"{number(entry.miou)} %",
            f"{number(latency_ms(entry.latencies)['p50'])} ms",
            "–" if entry is current else f"{score.longest_gap(entry):.2f} s",
            style="bold" if entry is current else "",
        )
    return table


def _sensors(status: Any) -> Sequence[Any]:
    return status.sensors if status is not None else ()


def number(value: float | None, digits: int = 1) -> str:
    """Format a value with the given number of decimals; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def _bar(weight: float | None) -> Text:
    if weight is None:
        return Text("–", style="dim")
    filled = round(weight * _BAR_WIDTH)
    bar = Text("█" * filled, style="cyan").append("░" * (_BAR_WIDTH - filled), style="dim")
    return bar.append(f" {weight:.2f}", style="")


RGB = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]

_PANEL_WIDTH_PX = 320  # in animations
_CAPTION_HEIGHT_PX = 28
_FOREGROUND, _BACKGROUND = (235, 235, 235), (24, 24, 28)


class Gallery:
    """Draws one stamp as four panels: camera image, overlay of the mask, points for costmaps, ground truth labels."""

    def __init__(
        self, label_space: LabelSpace, camera: Mapping[int, RGB], points: Mapping[int, Mapping[str, Points]]
    ) -> None:
        """Initialize.

        Args:
            label_space: class names and colors.
            camera: stamp → (H, W, 3) RGB image that the node received; no entry where the camera was dropped.
            points: stamp → topic → (n, 3) meters in the robot's frame, of the points for costmaps.
        """
        self._space = label_space
        self._camera = camera
        self._points = points

    def save(
        self,
        folder: Path,
        name: str,
        caption: str,
        masks: Mapping[int, Labels],
        ground_truths: Mapping[int, Labels],
        fps: float,
    ) -> list[Image.Image]:
        """Write `<name>.png` with the middle stamp and the animation `<name>.webp` with all stamps.

        Args:
            folder: output folder.
            name: stem of the file names.
            caption: text drawn into the images.
            masks, ground_truths: stamp → (H, W) uint8.
            fps: frames per second of the animation.

        Returns:
            the frames of the animation; none, and no files, if no mask has a ground truth.
        """
        stamps = [stamp for stamp in sorted(masks) if stamp in ground_truths]
        if not stamps:
            return []
        middle = stamps[len(stamps) // 2]
        Image.fromarray(self._panels(middle, masks, ground_truths, caption, masks[middle].shape[1])).save(
            folder / f"{name}.png"
        )
        panels = (self._panels(stamp, masks, ground_truths, caption, _PANEL_WIDTH_PX) for stamp in stamps)
        frames = list(map(Image.fromarray, panels))
        save_animation(folder / f"{name}.webp", frames, fps)
        return frames

    def _panels(
        self, stamp: int, masks: Mapping[int, Labels], ground_truths: Mapping[int, Labels], caption: str, width: int
    ) -> RGB:
        mask, camera = masks[stamp], self._camera.get(stamp)
        size = (width, round(mask.shape[0] * width / mask.shape[1]))
        seen = np.full((*mask.shape, 3), _BACKGROUND, np.uint8) if camera is None else camera
        found = self._points.get(stamp, {})
        ground, obstacles = (found.get(topic, np.zeros((0, 3))) for topic in (GROUND_POINTS, OBSTACLE_POINTS))
        panels = [
            _panel(seen, size, "camera" if camera is not None else "camera lost"),
            _panel(overlay(camera, mask, self._space), size, caption),
            _panel(bird_view(ground, obstacles, mask.shape[0]), size, "ground and obstacles, 20 m"),
            _panel(colorize(ground_truths[stamp], self._space), size, "ground truth"),
        ]
        return np.concatenate(panels, axis=1)


def save_animation(path: Path, frames: Sequence[Image.Image], fps: float) -> None:
    """Write an endless WebP animation."""
    first, *others = frames
    first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=70, method=1)


def _panel(image: RGB, size: tuple[int, int], caption: str) -> RGB:
    panel = np.full((size[1] + _CAPTION_HEIGHT_PX, size[0], 3), _BACKGROUND, np.uint8)
    panel[_CAPTION_HEIGHT_PX:] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    cv2.putText(panel, caption, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.48, _FOREGROUND, 1, cv2.LINE_AA)
    return panel


_FPS = 5.0
_SUMMARY_STEP = 3  # of the frames of each phase, one in so many is in demo.webp


def write_results(
    collector: DemoCollector, label_space: LabelSpace, streets: Sequence[Path], folder: Path, console: Console
) -> dict[str, Any]:
    """Write `metrics.json` and the images, print the table of phases and a summary line.

    Args:
        collector: the collected masks and scores.
        label_space: class names and colors.
        streets: the played bags, from which the camera images are read.
        folder: output folder.
        console: the output console.

    Returns:
        the result with the keys documented in `docs/results.md`.
    """
    result = {**collector.score.summary(), "stages_ms": collector.stages_ms(), "output_dir": str(folder)}
    write_json(result, folder / "metrics.json")
    console.print(phase_table(collector.score, collector.score.phases))
    _draw_phases(collector, label_space, streets, folder)
    p50, p95 = (number(result["latency_ms"][name]) for name in ("p50", "p95"))
    console.print(
        f"{result['masks']} masks for {result['sets_offered']} sets at {result['rate_hz']:.1f} Hz, "
        f"stamp to mask p50 {p50} ms, p95 {p95} ms; images, metrics.json and the result bag are in {folder}",
        highlight=False,
        soft_wrap=True,
    )
    return result


def _draw_phases(collector: DemoCollector, label_space: LabelSpace, streets: Sequence[Path], folder: Path) -> None:
    """Draw an image and an animation per phase, and `demo.webp` of all; camera images are read back from the bags."""
    summary: list[Image.Image] = []
    scores = {score.phase.name: score for score in collector.score.phases}
    points = _costmap_points(folder / "result", collector)
    drawn = 0
    with track("drawing", len(scores), "phases") as progress:
        for name, images in groupby(_camera_images(collector, streets), key=lambda image: image[0]):
            score = scores[name]
            seen = {stamp: rgb for _, stamp, rgb in images}
            gallery = Gallery(label_space, {} if score.phase.dropped == CAMERA else seen, points)
            masks = {stamp: mask for stamp, mask in collector.masks.items() if collector.score.phase_of(stamp) is score}
            frames = gallery.save(folder, name, _caption(score), masks, collector.ground_truths, _FPS)
            summary += frames[::_SUMMARY_STEP]
            drawn += 1
            progress(drawn, len(scores))
    if summary:
        save_animation(folder / "demo.webp", summary, _FPS)


def _costmap_points(result: Path, collector: DemoCollector) -> dict[int, dict[str, Points]]:
    """Stamp of every kept mask → topic → (n, 3) meters in the robot's frame, read back from the result bag."""
    found: dict[int, dict[str, Points]] = {stamp: {} for stamp in collector.masks}
    with BagReader(result) as bag:
        for entry in bag.messages([topic for topic in (GROUND_POINTS, OBSTACLE_POINTS) if topic in bag.topics]):
            head: Any = entry.message.header
            stamp = stamp_ns(head)
            if stamp in found:
                base_from_sensor = street_rig(collector.masks[stamp].shape).tree.lookup(BASE_FRAME, head.frame_id)
                points = np.asarray(entry.message.data).view(NAVIGATION_POINT)
                xyz = np.column_stack([points[axis] for axis in "xyz"])
                found[stamp][entry.topic] = base_from_sensor.apply(xyz)
    return found


def _camera_images(collector: DemoCollector, streets: Sequence[Path]) -> Iterator[tuple[str, int, RGB]]:
    """Yield (phase name, stamp as played, RGB image) for every camera image whose mask was kept."""
    store, playlist = typestore(), Playlist(streets)
    try:
        for message in playlist.stream(topics={TOPICS[CAMERA]}):
            image: Any = store.deserialize_cdr(message.raw, IMAGE)
            recorded = image.header.stamp.sec * NANOSECONDS + image.header.stamp.nanosec
            stamp = recorded - message.origin + collector.score.start
            score = collector.score.phase_of(stamp)
            if score is not None and stamp in collector.masks:
                yield score.phase.name, stamp, np.asarray(image.data).reshape(image.height, image.width, 3)
    finally:
        playlist.close()


def _caption(score: PhaseScore) -> str:
    return f"{score.phase.title}: mIoU {score.miou:.1f} %" if score.miou is not None else score.phase.title
