"""The end of the demo: figures, pictures and where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mlesam_ros.bags.street import TOPICS
from mlesam_ros.bags.typestore import typestore
from mlesam_ros.cli.demo.pictures import Gallery, Picture
from mlesam_ros.cli.demo.score import PhaseScore
from mlesam_ros.cli.demo.view import number, phase_row
from mlesam_ros.cli.demo.witness import IMAGE, DemoCollector
from mlesam_ros.cli.results import write_json
from mlesam_ros.frame import CAMERA, NANOSECONDS
from mlesam_ros.labels import LabelSpace
from mlesam_ros.progress import track
from mlesam_ros.ros.playlist import Playlist

_FPS = 5.0


def write_results(
    witness: DemoCollector, label_space: LabelSpace, streets: Sequence[Path], folder: Path, console: Console
) -> dict[str, Any]:
    """Write `metrics.json` and the pictures, print the table and the closing line.

    Args:
        witness: what was seen.
        label_space: names and colors.
        streets: the bags that were played, for the camera's pictures.
        folder: where to.
        console: for people.

    Returns:
        the result with the keys that `docs/results.md` documents.
    """
    result = {**witness.score.summary(), "stages_ms": witness.stages_ms(), "output_dir": str(folder)}
    write_json(result, folder / "metrics.json")
    _print_phases(witness, console)
    _draw(witness, label_space, streets, folder)
    p50, p95 = (number(result["latency_ms"][name]) for name in ("p50", "p95"))
    console.print(
        f"{result['masks']} masks for {result['sets_offered']} sets at {result['rate_hz']:.1f} Hz, "
        f"stamp to mask p50 {p50} ms, p95 {p95} ms; pictures, metrics.json and the result bag are in {folder}",
        highlight=False,
        soft_wrap=True,
    )
    return result


def _print_phases(witness: DemoCollector, console: Console) -> None:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for title in ("phase", "masks", "of", "mIoU", "p50", "longest gap"):
        table.add_column(title, justify="left" if title == "phase" else "right")
    for score in witness.score.phases:
        table.add_row(*phase_row(score, witness.score.longest_gap(score)))
    console.print(table)


def _draw(witness: DemoCollector, label_space: LabelSpace, streets: Sequence[Path], folder: Path) -> None:
    """A still and an animation per phase; the camera's pictures are read back from the street, phase by phase."""
    scores = {score.phase.name: score for score in witness.score.phases}
    drawn = 0
    with track("drawing", len(scores), "phases") as progress:
        for name, pictures in groupby(_camera(witness, streets), key=lambda picture: picture[0]):
            score = scores[name]
            seen = {stamp: rgb for _, stamp, rgb in pictures}
            gallery = Gallery(label_space, {} if score.phase.lost == CAMERA else seen)
            masks = {stamp: mask for stamp, mask in witness.kept.items() if witness.score.phase_of(stamp) is score}
            gallery.save(folder, name, _caption(score), masks, witness.truths, _FPS)
            drawn += 1
            progress(drawn, len(scores))


def _camera(witness: DemoCollector, streets: Sequence[Path]) -> Iterator[tuple[str, int, Picture]]:
    """(phase, stamp as it was played, RGB) of every camera picture whose mask was kept."""
    store, playlist = typestore(), Playlist(streets)
    try:
        for message in playlist.stream(topics={TOPICS[CAMERA]}):
            image: Any = store.deserialize_cdr(message.raw, IMAGE)
            recorded = image.header.stamp.sec * NANOSECONDS + image.header.stamp.nanosec
            stamp = recorded - message.origin + witness.score.start
            score = witness.score.phase_of(stamp)
            if score is not None and stamp in witness.kept:
                yield score.phase.name, stamp, np.asarray(image.data).reshape(image.height, image.width, 3)
    finally:
        playlist.close()


def _caption(score: PhaseScore) -> str:
    return f"{score.phase.title}: mIoU {score.miou:.1f} %" if score.miou is not None else score.phase.title
