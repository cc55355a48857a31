"""Fill the template of `report.html` with plots, tables and samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from mlesam_ros.evaluation.report import tables
from mlesam_ros.evaluation.report.plots import Line, line_plot, presence_plot, stacked_plot
from mlesam_ros.evaluation.report.samples import ReportSample
from mlesam_ros.evaluation.report.tables import number
from mlesam_ros.evaluation.scores import MaskMetrics
from mlesam_ros.files import atomic_write
from mlesam_ros.labels import LabelSpace
from mlesam_ros.resources import resource_path
from mlesam_ros.types import MODALITIES, Modality

_STAGES = {"encode": "var(--lidar)", "model": "var(--camera)", "decode": "var(--depth)"}
_FATES_NOTE = (
    "Every message ends in exactly one column: it went into a mask, a newer one was there first, its moment had been "
    "segmented already, nothing lay close enough in time, or it was not acceptable. Unusable are those of the refused "
    "that went into a set but had no part in its mask."
)
_ROUTER_NOTE = (
    "How much each sensor weighed on every level of the pyramid; the finest level decides edges, the coarsest what is "
    "where."
)
_IOU_NOTE = (
    "Intersection over union of every class that is true or predicted somewhere; the mean counts those with true "
    "pixels."
)
_SHARE_NOTE = "There is no truth to compare with: this is how many of the pixels each class was given."
_STAGE_NAMES = {"encode": "encoding", "model": "network", "decode": "decoding"}


def write_report(
    path: Path,
    figures: Mapping[str, Any],
    traces: Sequence[MaskMetrics],
    moments: Sequence[ReportSample],
    space: LabelSpace,
) -> None:
    """Write the page of one bag.

    Args:
        path: the file.
        figures: as `metrics` returns them.
        traces: one per mask.
        moments: samples of masks to show.
        space: names and colors.

    Raises:
        FileError: the file cannot be written.
    """
    name = Path(figures["bag"]).name
    parts = [
        _headline(figures),
        _strip(moments, space),
        _section("Over time", _over_time(traces, figures), "What every mask was worth and what it came from."),
        _router(traces),
        _section("Classes", tables.class_bars(figures, space), _classes_note(figures)),
        _confusion(figures, space),
        _robustness(figures),
        _section(
            "What became of the messages",
            tables.outcome_table(figures["sensors"]),
            _FATES_NOTE,
        ),
        _section("Warnings", tables.warning_list(figures["warnings"])),
        _section("How it was made", tables.key_values(_provenance(figures))),
    ]
    start = traces[0].stamp
    data = {
        "moments": [moment.to_dict(start) for moment in moments],
        "palette": [list(color) for color in space.colors],
    }
    _write(path, f"{name} – evaluation", parts, data)


def write_overview(
    path: Path, figures: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], space: LabelSpace
) -> None:
    """Write the page of several bags: figures of all of them, and of each with a link to its own page.

    Args:
        path: the file.
        figures: as `summary` returns them.
        rows: per bag `bag`, and either `report` (a relative path), `masks`, `miou`, `latency_ms`, `consistency` and
            `warnings`, or `error`.
        space: names and colors.

    Raises:
        FileError: the file cannot be written.
    """
    parts = [
        _headline(figures),
        _section("Bags", _bag_table(rows)),
        _section("Classes, over all bags", tables.class_bars(figures, space), _classes_note(figures)),
        _confusion(figures, space),
        _robustness(figures),
        _section("Warnings", tables.warning_list(figures["warnings"])),
        _section("How it was made", tables.key_values({**figures["config"], **figures["versions"]})),
    ]
    _write(path, f"{len(rows)} bags – evaluation", parts, {"moments": [], "palette": []})


def _write(path: Path, title: str, parts: Sequence[str], data: Mapping[str, Any]) -> None:
    folder = resource_path("config/report")
    script = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page = Template((folder / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        style=(folder / "style.css").read_text(encoding="utf-8"),
        script=(folder / "page.js").read_text(encoding="utf-8"),
        body="\n".join(filter(None, parts)),
        data=script,
    )
    atomic_write(path, page)


def _section(title: str, body: str, note: str = "") -> str:
    said = f"<p>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{said}{body}</section>"


def _headline(figures: Mapping[str, Any]) -> str:
    latency, counters = figures["latency_ms"], figures["counters"]
    used = 100 * counters["used"] / max(counters["received"], 1)
    slow = f"p95 {number(latency['p95'], 0)}, p99 {number(latency['p99'], 0)}"
    warnings = len(figures["warnings"])
    quality = (
        (number(figures["miou"], 1, " %"), "mIoU", f"over {figures['compared']} masks with a truth")
        if figures["compared"]
        else (number(figures["confidence"], 1, " %"), "confidence", "no truth to compare with")
    )
    return '<div class="cards">' + tables.cards([
        quality,
        (str(figures["masks"]), "masks", f"of {figures['sets']} sets"),
        (number(latency["p50"], 0, " ms"), "per mask", slow),
        (number(used, 1, " %"), "of the messages used", f"of {counters['received']}"),
        (number(figures["consistency"], 1, " %"), "consistency", "pixels that keep their class"),
        (str(warnings), "warning" if warnings == 1 else "warnings", "below" if warnings else "nothing was amiss"),
    ]) + "</div>"  # fmt: skip


def _strip(moments: Sequence[ReportSample], space: LabelSpace) -> str:
    if not moments:
        return ""
    layers = ["mask", "truth", "wrong", "confidence"]
    there = [layer for layer in layers if any(layer in moment.layers for moment in moments)]
    options = "".join(f'<option value="{layer}">{layer}</option>' for layer in there)
    inputs = "".join(
        f'<figure data-modality="{m}"><img alt="what the {m} expert read" hidden><div class="silent">silent</div>'
        f'<figcaption><i style="background:var(--{m})"></i>{m}</figcaption></figure>'
        for m in MODALITIES
        if any(m in moment.inputs for moment in moments)
    )
    present = sorted({c for moment in moments for c in moment.classes if c < len(space)})
    legend = "".join(
        f'<span><i style="background:rgb{space.colors[c]}"></i>{escape(space.names[c])}</span>' for c in present
    )
    cloud = (
        '<figure class="cloud"><canvas width="1380" height="600"></canvas>'
        "<figcaption>labelled LiDAR points; drag to turn, pinch or Ctrl + wheel to come closer</figcaption></figure>"
        if any(moment.cloud for moment in moments)
        else ""
    )
    template = Template((resource_path("config/report") / "strip.html").read_text(encoding="utf-8"))
    return template.substitute(last=len(moments) - 1, options=options, inputs=inputs, legend=legend, cloud=cloud)


def _over_time(traces: Sequence[MaskMetrics], figures: Mapping[str, Any]) -> str:
    times = _times(traces)
    quality = [
        Line("mIoU of the mask alone", "var(--accent)", _column(t.miou for t in traces)),
        Line("confidence", "var(--event)", _column(t.confidence for t in traces)),
        Line("consistency", "var(--faint)", _column(t.consistency for t in traces)),
    ]
    quality = [Line(q.name, q.color, 100 * q.values) for q in quality if np.isfinite(q.values).any()]
    used = [Line(m, f"var(--{m})", _column(float(m in t.used) for t in traces)) for m in figures["sensors"]]
    stages = [
        Line(_STAGE_NAMES[stage], color, _column(1e3 * t.timings.get(stage, 0.0) for t in traces))
        for stage, color in _STAGES.items()
    ]
    skews = [Line(m, f"var(--{m})", _skew(traces, m)) for m in figures["sensors"]]
    return _grid({
        "Quality": line_plot(times, quality, "%", 0.0, 100.0),
        "Sensors that took part": presence_plot(times, used),
        "Time per mask": stacked_plot(times, stages, "ms"),
        "Skew to the mask's moment": line_plot(times, skews, "ms", -1.0, 1.0),
    })  # fmt: skip


def _router(traces: Sequence[MaskMetrics]) -> str:
    plots = {}
    for level in traces[0].weights:
        names = [m for m in MODALITIES if any(m in trace.weights[level] for trace in traces)]
        lines = [Line(m, f"var(--{m})", _column(t.weights[level].get(m) for t in traces)) for m in names]
        plots[level] = stacked_plot(_times(traces), lines, "share", 1.0)
    return _section("Router", _grid(plots), _ROUTER_NOTE)


def _grid(plots: Mapping[str, str]) -> str:
    cells = "".join(f"<div><h3>{escape(name)}</h3>{plot}</div>" for name, plot in plots.items())
    return f'<div class="grid-of-plots">{cells}</div>'


def _classes_note(figures: Mapping[str, Any]) -> str:
    return _IOU_NOTE if figures["compared"] else _SHARE_NOTE


def _confusion(figures: Mapping[str, Any], space: LabelSpace) -> str:
    if not figures["compared"]:
        return ""
    note = "Each row is a true class and says, in percent, what its pixels were taken for."
    return _section("Confusion", tables.confusion_map(figures, space), note)


def _robustness(figures: Mapping[str, Any]) -> str:
    if not figures["subsets"]:
        return ""
    note = (
        f"The same {figures['subsets'][0]['masks']} moments with every subset of their sensors: what would be left if "
        "the others died."
    )
    return _section("When sensors fail", tables.subset_table(figures) + tables.protocol_table(figures), note)


def _bag_table(rows: Sequence[Mapping[str, Any]]) -> str:
    body = []
    for row in rows:
        if "error" in row:
            cells = f'<td>{escape(row["bag"])}</td><td colspan="6" class="bad">{escape(row["error"])}</td>'
        else:
            link = (
                f'<a href="{escape(row["report"])}">{escape(row["bag"])}</a>' if row["report"] else escape(row["bag"])
            )
            cells = (
                f"<td>{link}</td><td>{row['masks']}</td><td>{number(row['miou'])}</td>"
                f'<td class="bar">{tables.bar(row["miou"])}</td><td>{number(row["latency_ms"]["p50"], 0)}</td>'
                f"<td>{number(row['consistency'])}</td><td>{row['warnings']}</td>"
            )
        body.append(f"<tr>{cells}</tr>")
    head = "".join(f"<th>{h}</th>" for h in ("bag", "masks", "mIoU, %", "", "p50, ms", "consistency, %", "warnings"))
    return f'<div class="wide"><table class="plain"><tr>{head}</tr>{"".join(body)}</table></div>'


def _provenance(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "bag": figures["bag"], "SHA-256": figures["bag_sha256"], **figures["config"], **figures["versions"],
    }  # fmt: skip


def _times(traces: Sequence[MaskMetrics]) -> np.ndarray[Any, np.dtype[np.float64]]:
    stamps = np.array([trace.stamp for trace in traces], np.int64)
    return (stamps - stamps[0]) / 1e9


def _column(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _skew(traces: Sequence[MaskMetrics], modality: Modality) -> np.ndarray[Any, np.dtype[np.float64]]:
    return 1e3 * _column(trace.skews.get(modality) for trace in traces)
