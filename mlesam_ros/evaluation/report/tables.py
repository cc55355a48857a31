"""Tables and bars as HTML text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from mlesam_ros.evaluation.report.plots import heat_map
from mlesam_ros.labels import LabelSpace
from mlesam_ros.sync import COUNTERS, OUTCOMES

Figures = Mapping[str, Any]


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """Format a figure; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}{unit}"


def cards(entries: Iterable[tuple[str, str, str]]) -> str:
    """Headline figures as cards.

    Args:
        entries: (value, name, remark).
    """
    return "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span><small>{escape(remark)}</small></div>'
        for value, name, remark in entries
    )


def class_bars(figures: Figures, space: LabelSpace) -> str:
    """A bar per class that occurs: its IoU if there is ground truth, else its share of the pixels."""
    scores = {n: v for n, v in figures["per_class"].items() if v is not None} if figures["compared"] else {}
    shares: Mapping[str, float] = figures["class_shares"]
    shown = scores or {name: share for name, share in shares.items() if name in space.names}
    rows = []
    for name, value in sorted(shown.items(), key=lambda item: -item[1]):
        color = _css(space.colors[space.names.index(name)])
        score = f"<td>{number(value)}</td>" if scores else ""
        rows.append(
            f'<tr><th><i style="background:{color}"></i>{escape(name)}</th><td class="bar">{bar(value, color)}</td>'
            f"{score}<td>{number(shares.get(name, 0.0), 2)}</td></tr>"
        )
    score = "<th>IoU, %</th>" if scores else ""
    head = f"<tr><th>class</th><th></th>{score}<th>of all pixels, %</th></tr>"
    return f'<table class="bars">{head}{"".join(rows)}</table>'


def bar(percent: float | None, color: str = "var(--accent)") -> str:
    """A horizontal bar of 0 to 100 percent."""
    width = 0.0 if percent is None else min(max(percent, 0.0), 100.0)
    return f'<span class="track"><span style="width:{width:.1f}%;background:{color}"></span></span>'


def confusion_map(figures: Figures, space: LabelSpace) -> str:
    """Confusion matrix in shares of the row: rows are ground-truth classes, columns predicted ones.

    Classes that never occur are left out.
    """
    counts = np.array(figures["confusion"], np.int64)
    there = [c for c in range(len(space)) if counts[c].sum() or counts[:, c].sum()]
    columns = [*there, len(space)] if counts[:, len(space)].any() else there
    names = [*space.names, "no class"]
    rows = [c for c in there if counts[c].sum()]
    part = counts[np.ix_(rows, columns)]
    shares = part / counts[rows].sum(1, keepdims=True)
    titles = [
        [
            f"{100 * shares[r, c]:.1f} % of {names[row]} was taken for {names[column]} ({part[r, c]:,} pixels)"
            for c, column in enumerate(columns)
        ]
        for r, row in enumerate(rows)
    ]
    return f'<div class="wide">{heat_map(shares, [names[r] for r in rows], [names[c] for c in columns], titles)}</div>'


def subset_table(figures: Figures) -> str:
    """A row per subset of the sensors."""
    rows = figures["subsets"]
    sensors = max((row["sensors"] for row in rows), key=len)
    truth = any(row["miou"] is not None for row in rows)
    head = "".join(f"<th>{escape(sensor)}</th>" for sensor in sensors)
    head += ('<th colspan="2">mIoU, %</th>' if truth else "") + '<th colspan="2">agrees with all sensors, %</th>'
    body = []
    for row in rows:
        dots = "".join(
            f'<td class="dot"><i class="{"on" if s in row["sensors"] else "off"}" style="--color:var(--{s})"></i></td>'
            for s in map(escape, sensors)
        )
        scored = f'<td>{number(row["miou"])}</td><td class="bar">{bar(row["miou"])}</td>' if truth else ""
        agreed = f'<td>{number(row["agreement"])}</td><td class="bar">{bar(row["agreement"], "var(--faint)")}</td>'
        body.append(f"<tr>{dots}{scored}{agreed}</tr>")
    return f'<div class="wide"><table class="subsets"><tr>{head}</tr>{"".join(body)}</table></div>'


def protocol_table(figures: Figures) -> str:
    """Averages over the subsets without failed sensors and by the published protocols; empty without results."""
    entries = {"left out, as on a robot": figures["any_modal"], "EMM: shown empty": figures["emm"]}
    entries |= {
        f"RMM: {100 * float(level):g} % of their values zeroed": found for level, found in figures["rmm"].items()
    }
    known = {name: found for name, found in entries.items() if found}
    table = ""
    if known:
        chances = next(iter(known.values()))["expected"]
        head = ["failed sensors are", "average", *(f"each fails {100 * float(p):g} % of the time" for p in chances)]
        rows = [
            [name, number(found["average"]), *(number(score) for score in found["expected"].values())]
            for name, found in known.items()
        ]
        table = plain_table(head, rows)
    if figures["nm"]:
        noise = [[level, number(score)] for level, score in figures["nm"].items()]
        table += plain_table(["NM: noise on every sensor", "mIoU, %"], noise)
    return table


def outcome_table(sensors: Figures) -> str:
    """Outcomes of every sensor's messages."""
    rows = []
    for modality, entry in sensors.items():
        total = max(entry["received"], 1)
        segments = "".join(
            f'<span class="{fate}" style="width:{100 * entry[fate] / total:.2f}%" title="{fate}: {entry[fate]}"></span>'
            for fate in OUTCOMES
        )
        skew = entry["skew_ms"]
        figures = "".join(f"<td>{entry[fate]}</td>" for fate in COUNTERS)
        rows.append(
            f'<tr><th><i style="background:var(--{escape(modality)})"></i>{escape(modality)}</th>'
            f'<td class="topic"><code>{escape(entry["topic"])}</code><small>{escape(entry["type"])}</small></td>'
            f'<td class="bar"><span class="track">{segments}</span></td>{figures}<td>{entry["unusable"]}</td>'
            f"<td>{number(skew['p50'])}</td><td>{number(skew['p95'])}</td></tr>"
        )
    names = "".join(f'<th class="{fate}">{fate}</th>' for fate in COUNTERS) + "<th>of these unusable</th>"
    head = f"<tr><th>sensor</th><th>topic</th><th></th>{names}<th>skew, ms: p50</th><th>p95</th></tr>"
    return f'<div class="wide"><table class="fates">{head}{"".join(rows)}</table></div>'


def plain_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts with a header row."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="plain"><tr>{top}</tr>{body}</table></div>'


def key_values(values: Mapping[str, Any]) -> str:
    """Names and values as a description list."""
    pairs = (f"<div><dt>{escape(k.replace('_', ' '))}</dt><dd>{escape(_text(v))}</dd></div>" for k, v in values.items())
    return f'<dl class="facts">{"".join(pairs)}</dl>'


def warning_list(warnings: Sequence[str]) -> str:
    """Warnings as a list, or a note that there are none."""
    if not warnings:
        return '<p class="good">Nothing to warn of.</p>'
    return f'<ul class="warnings">{"".join(f"<li>{escape(warning)}</li>" for warning in warnings)}</ul>'


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "–"
    return {None: "–", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)


def _css(color: tuple[int, int, int]) -> str:
    return "rgb({},{},{})".format(*color)
