"""An evaluation as JSON with stable keys, and as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from mlesam_ros.labels import LabelSpace
from mlesam_ros.metrics import Confusion
from mlesam_ros.robustness import ANY, Corruption, Subset, figures
from mlesam_ros.training.evaluate import Score

FORMAT = 2
"""Of `evaluation.json`."""
Scores = Mapping[Subset, Score]


def to_json(scores: Scores, space: LabelSpace, data: str) -> dict[str, Any]:
    """Everything about the subsets; `docs/results.md` documents the keys. All scores are in percent.

    Args:
        scores: subset → what was counted.
        space: what the labels mean.
        data: what it was measured on, in words.
    """
    entries = [_entry(subset, score, space.names) for subset, score in scores.items()]
    out = {
        "format": FORMAT, "data": data, "label_space": space.name, "classes_present": _present(scores, space),
        "subsets": entries,
    }  # fmt: skip
    means = {key: _mean([entry[key] for entry in entries]) for key in ("miou", "miou_all")}
    out["mean_of_subsets"] = means
    if _complete(scores):
        found = {Corruption(ANY, subset): score.whole.miou_present for subset, score in scores.items()}
        out[ANY] = figures(found, max(scores, key=len))[ANY]
    return out


def tables(scores: Scores, title: str) -> list[Table]:
    """For the terminal, in percent: scores per subset of the sensors, and mIoU per condition where there are any."""
    made, columns = [_rich(title, "sensors", _SCORES, _subset_rows(scores))], _columns(scores)
    if rows := _condition_rows(scores, columns):
        made.append(_rich("mIoU by condition", "condition", list(columns), rows))
    return made


def robustness_table(summary: Mapping[str, Any]) -> Table:
    """EMM, RMM and NM as the benchmark prints them: mIoU in percent."""
    made = Table(title="failing sensors, mIoU", title_justify="left")
    for heading in ("protocol", "average", *(f"E(p={p})" for p in summary["emm"]["expected"])):
        made.add_column(heading, justify="left" if heading == "protocol" else "right")
    rows = {"EMM": summary["emm"], **{f"RMM r={share}": each for share, each in summary["rmm"].items()}}
    for name, row in rows.items():
        made.add_row(name, f"{row['average']:.2f}", *(f"{value:.2f}" for value in row["expected"].values()))
    for level, miou in summary["nm"].items():
        made.add_row(f"NM {level}", f"{miou:.2f}")
    return made


def _entry(subset: Subset, score: Score, names: Sequence[str]) -> dict[str, Any]:
    kinds = {
        kind: {name: _summary(part, names) for name, part in parts.items()} for kind, parts in score.conditions.items()
    }
    return {"sensors": list(subset), **_summary(score.whole, names), "conditions": kinds}


def _summary(matrix: Confusion, names: Sequence[str]) -> dict[str, Any]:
    """`miou` over the classes present in the truth; `miou_predicted` over those predicted somewhere as well."""
    found = matrix.summary(names)
    return {"miou": found["miou_present"], "miou_predicted": found["miou"], **{
        key: found[key] for key in ("miou_all", "macc", "fwiou", "pixel_accuracy", "per_class")
    }}  # fmt: skip


def _present(scores: Scores, space: LabelSpace) -> int:
    return int((next(iter(scores.values())).whole.pixels > 0).sum())


def _complete(scores: Scores) -> bool:
    return len(scores) == 2 ** max(map(len, scores)) - 1


_SCORES = ["mIoU", "over all classes", "mAcc", "fwIoU", "pixel accuracy"]


def _subset_rows(scores: Scores) -> list[list[str]]:
    values = {" + ".join(subset): _values(score.whole) for subset, score in scores.items()}
    mean = [float(value) for value in np.mean(list(values.values()), 0)]
    every = {**values, f"mean of the {len(scores)}": mean}
    return [[name, *map(_percent, row)] for name, row in every.items()]


def _values(matrix: Confusion) -> list[float]:
    return [matrix.miou_present, matrix.miou_all, matrix.mean_accuracy, matrix.fwiou, matrix.pixel_accuracy]


def _condition_rows(scores: Scores, columns: Mapping[str, Subset]) -> list[list[str]]:
    """Kinds of conditions of which only one occurs say nothing and have no row."""
    kinds = next(iter(scores.values())).conditions
    names = [(kind, name) for kind, parts in kinds.items() if len(parts) > 1 for name in parts]
    return [
        [f"{kind}: {name}", *(_percent(scores[s].conditions[kind][name].miou_present) for s in columns.values())]
        for kind, name in names
    ]


def _columns(scores: Scores) -> dict[str, Subset]:
    """Heading → subset: all sensors, and one."""
    full = max(scores, key=len)
    out = {"all": full} if len(full) > 1 else {}
    out |= {name: (name,) for name in dict.fromkeys(m for subset in scores for m in subset)}
    return {heading: subset for heading, subset in out.items() if subset in scores}


def _rich(title: str, first: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    made = Table(title=title, title_justify="left")
    made.add_column(first, no_wrap=True)
    for heading in headings:
        made.add_column(heading, justify="right")
    for row in rows:
        made.add_row(*row)
    return made


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 2) if known else None
