# SPDX-License-Identifier: Apache-2.0
"""Generated tables of docs/: `python tools/pages.py` rewrites them, `--check` only reports stale pages.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; NAME is a key of `TABLES` or one of `RECORDED`.
Sources are the code (docs/node.md, docs/doctor.md, docs/model.md), benchmarks/results/*.json (docs/performance.md,
docs/sensors.md) and weights/*.json (docs/training.md, docs/navigation.md). The tables of docs/reliability.md
are written by the runs that measure them.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / folder) for folder in (".", "training", "benchmarks")]

from goals import GOALS, ROUNDING, SWITCHES, speedup_of
from rich.console import Console

from mlesam_ros.cli.info import backbone_table
from mlesam_ros.config import NodeParameters, iter_parameters
from mlesam_ros.doctor.rules import RULE_GROUPS
from mlesam_ros.errors import ConfigError
from mlesam_ros.model.flops import backbone_costs
from mlesam_ros.parameter_groups import CONFIGURE, CameraParameters
from mlesam_ros.ros.diagnostics import LEVELS, PIPELINE_MESSAGES, SENSOR_MESSAGES, DiagnosticTemplate
from mlesam_ros.ros.publishers import DIAGNOSTICS, OUTPUTS, TopicSpec
from mlesam_ros.ros.snapshot import SERVICES
from mlesam_ros.ros.subscribers import queue_depth
from mlesam_ros.types import CAMERA, LIDAR, MESSAGE_TYPES, MODALITIES

Json = Mapping[str, Any]
Cell = str | float | None

DOCS, RESULTS, WEIGHTS = CHECKOUT / "docs", CHECKOUT / "benchmarks" / "results", CHECKOUT / "weights"
RECORDED = frozenset({"faults", "install", "soak"})
"""Tables that `make faults`, `make package` and `make soak` write; their sources are not in the checkout."""

_TABLE = re.compile(r"<!-- begin (\w+) -->\n(.*?)<!-- end \1 -->", re.DOTALL)
_MARKER = re.compile(r"<!-- (?:begin|end) \w+ -->")


def fill(page: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Replace the tables of a page that are in `tables`.

    Args:
        page: Markdown with markers.
        tables: table name → function that formats it.

    Raises:
        ConfigError: a table is unknown, or a marker has no counterpart.
    """

    def replaced(match: re.Match[str]) -> str:
        name, old = match.groups()
        if name not in tables and name not in RECORDED:
            raise ConfigError(f"table {name} is unknown.", f"Known are {', '.join([*tables, *sorted(RECORDED)])}.")
        new = f"{tables[name]().strip()}\n" if name in tables else old
        return f"<!-- begin {name} -->\n{new}<!-- end {name} -->"

    filled, count = _TABLE.subn(replaced, page)
    if len(_MARKER.findall(page)) != 2 * count:
        raise ConfigError("a marker has no counterpart.", "A table needs <!-- begin NAME --> and <!-- end NAME -->.")
    return filled


def write_recorded(page: Path, name: str, text: str) -> None:
    """Write one of the tables in `RECORDED` into a page.

    Raises:
        ConfigError: the page has no place for the table.
    """
    place = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    new, count = place.subn(lambda match: f"{match[1]}{text.strip()}\n{match[2]}", page.read_text(encoding="utf-8"))
    if not count:
        marked = f"<!-- begin {name} --> and <!-- end {name} -->"
        raise ConfigError(f"{page} has no {marked}.", "Put them on lines of their own where the table belongs.")
    page.write_text(new, encoding="utf-8")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """Format a Markdown table.

    Args:
        heads: heading of each column.
        rows: cells of each row.
        numbers: indices of the columns that are aligned to the right.
    """
    right = set(numbers)
    rule = ["--:" if column in right else "---" for column in range(len(heads))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, rule, *rows))


# docs/node.md


def published() -> str:
    """Topics that the node publishes; exceptions from the rate and condition of `labels` follow the content."""
    topics = {**{f"~/{name}": output for name, output in OUTPUTS.items()}, "/diagnostics": DIAGNOSTICS}
    return table(
        ("topic", "type", "content"),
        [(f"`{name}`", _short(o.type_name), f"{o.meaning}{_exceptions(o)}") for name, o in topics.items()],
    )


def _exceptions(topic: TopicSpec) -> str:
    usual = OUTPUTS["labels"]
    found = [fact for fact, other in ((topic.rate, usual.rate), (topic.when, usual.when)) if fact != other]
    return f" {', '.join(found).capitalize()}." if found else ""


def subscribed() -> str:
    """Topics that the node subscribes to."""
    rows: list[tuple[str, str, str, str]] = []
    for modality in MODALITIES:
        sensor = NodeParameters().sensor(modality)
        types = ", ".join(_short(name) for name in MESSAGE_TYPES[modality])
        rows.append((f"`{sensor.topic}`", f"`{modality}.topic`", types, f"best effort, {queue_depth(modality)}"))
        if isinstance(sensor, CameraParameters):
            info = _short("sensor_msgs/msg/CameraInfo")
            rows.append((f"`{sensor.info_topic}`", f"`{modality}.info_topic`", info, "best effort"))
    transforms = _short("tf2_msgs/msg/TFMessage")
    rows.append(("`/tf`", "", transforms, "reliable, else as published"))
    rows.append(("`/tf_static`", "", transforms, "reliable, transient local, else as published"))
    return table(("topic", "parameter", "types", "QoS"), rows)


def parameters() -> str:
    """Parameters of the node; each sensor parameter once for all sensors."""
    rows = []
    listed = set()
    for name, entry, default in iter_parameters():
        group, _, short = name.rpartition(".")
        meta = entry.metadata
        limits = ", ".join(choice or '""' for choice in meta["choices"])
        if meta["range"] is not None:
            limits = "{:.10g}…{:.10g}".format(*meta["range"])
        limits = f" ({limits})" if limits else ""
        change = "" if meta["change"] == CONFIGURE else f" *{meta['change']}*"
        text = meta["text"].replace("|", "\\|")
        if group not in MODALITIES:
            rows.append((f"`{name}`{change}", f"`{_yaml(default)}`{limits}", text))
        elif short not in listed:
            listed.add(short)
            by_sensor = short in ("topic", "info_topic") or _yaml(default) == ""
            value = "by sensor" if by_sensor else f"`{_yaml(default)}`{limits}"
            rows.append((f"`<sensor>.{short}`{change}", value, text))
    return table(("parameter", "default (accepted)", "meaning"), rows)


def services() -> str:
    """Services of the node."""
    rows = [(f"`~/{name}`", _short(service.type_name), service.meaning) for name, service in SERVICES.items()]
    return table(("service", "type", "effect"), rows)


def messages(templates: Mapping[Any, DiagnosticTemplate]) -> str:
    """Messages of a status on `/diagnostics`, which has the remedy with them."""
    rows = [(LEVELS[t.level], f"`{t.message.replace('.message}', '}')}`", t.cause) for t in templates.values()]
    return table(("level", "message", "cause"), rows)


def rules() -> str:
    """A table of the doctor's rules for each part of the diagnosis, placeholders as "…"."""
    parts = []
    for part, group in RULE_GROUPS.items():
        rows = [(rule.severity, re.sub(r"\{[^}]*\}", "…", rule.message), rule.cause) for rule in group.values()]
        parts.append(f"### {part}\n\n{table(('severity', 'message', 'cause'), rows)}")
    return "\n".join(parts)


def _short(type_name: str) -> str:
    return f"`{type_name.replace('/msg/', '/').replace('/srv/', '/')}`"


def _yaml(value: object) -> str:
    if isinstance(value, tuple):
        entries = ", ".join(str(entry) or '""' for entry in value)
        return f"[{entries}]"
    return str(value).lower() if isinstance(value, bool) else '""' if value == "" else str(value)


# docs/model.md


def backbones() -> str:
    """What `mlesam info --backbones` prints."""
    console = Console(file=io.StringIO(), width=120)
    console.print(backbone_table(backbone_costs()))
    return "\n".join(line.strip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


# docs/performance.md, docs/sensors.md

_RESULT_HEADS = ("", "median (CPU)", "compared with")
_SAME_TIME = 0.05
"""Largest relative difference between processor time and median at which the table has the median alone."""
_UNLISTED = re.compile(
    r"step, fp32;|memory of a step, fp32|(stamp to mask of|three sets)|1080p (bayer|yuyv)|~/(camera_info|aligned/conf)"
    r"|(camera|depth|event|lidar) to an image|page faults|masks without one|all but ~/aligned/\* and|decide and read"
)
"""Beginnings of rows that only benchmarks/results/ has."""


def benchmark_table(result: Json) -> str:
    """Rows of a benchmark's result without columns that are empty in all of them, and a caption.

    The speedup is that of the processor time where both have it, else that of the medians.
    """
    rows = [_result_row(row) for row in _listed(result["rows"])]
    kept = [column for column in range(len(_RESULT_HEADS)) if column == 0 or any(row[column] for row in rows)]
    heads, *rows = [[row[column] for column in kept] for row in (_RESULT_HEADS, *rows)]
    return f"{table(heads, rows, range(1, len(heads) - 1))}\n{_caption(result)}\n"


def _listed(rows: Iterable[Json]) -> list[Json]:
    return [row for row in rows if not _UNLISTED.match(row["name"].partition(": ")[2] or row["name"])]


def _result_row(row: Json) -> list[str]:
    median, used = f"{_figure(row['median'])} {row['unit']}", row.get("cpu")
    if used is not None and abs(used - row["median"]) > _SAME_TIME * row["median"]:
        median += f" ({_figure(used)})"
    if not row["alternative"]:
        return [row["name"], median, ""]
    other = f"{row['alternative']}: {_figure(row['alternative_median'])}"
    return [row["name"], median, other if row["ratio"] is None else f"{other} (×{_figure(speedup_of(row))})"]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{float(f'{value:.3g}'):g}"


def _caption(*results: Json) -> str:
    first = results[0]
    commands = "; ".join(f"`{result['command']}`" for result in results)
    return f"{first['device']}, {first['date']}, load {first['load']:g}. {commands}."


def networks(results: Mapping[str, Json]) -> str:
    """Times of the network and of its stages: a column per result `model` and `model_*`."""
    of_model = [result for name, result in results.items() if name.partition("_")[0] == "model"]
    columns = []
    for result in of_model:
        first = result["rows"][0]
        times = {"four sensors as one batch": first["median"]}
        for row in _listed(result["rows"]):
            name = row["alternative"] or row["name"].partition(": ")[2]
            times[name] = row["alternative_median"] if row["alternative"] else row["median"]
        columns.append((first["name"].partition(",")[0], times))
    rows = [[name, *(_figure(times.get(name)) for _, times in columns)] for name in columns[0][1]]
    return f"{table(['ms', *(head for head, _ in columns)], rows, range(1, len(columns) + 1))}\n{_caption(*of_model)}\n"


_OF_RUNTIME = {
    "labels of fp32": "labels of fp32, %", "mIoU on held-out streets": "mIoU (fp32), %", "its file": "file, MB",
    "from its file to the first mask": "start, ms",
}  # fmt: skip


def runtimes(results: Mapping[str, Json]) -> str:
    """Times of the network in each runtime, and the size, start and masks of its file: a row per runtime."""
    cells: dict[str, dict[str, str]] = {}
    for row in results["runtimes"]["rows"]:
        name, _, of = row["name"].partition(": ")
        own, median, fp32 = cells.setdefault(name, {}), _figure(row["median"]), row["alternative_median"]
        if of:
            own[_OF_RUNTIME[of]] = f"{median} ({_figure(fp32)})" if fp32 else median
        else:
            own |= {
                "median, ms": median,
                "CPU, ms": _figure(row["cpu"]),
                "beside torch fp32": f"×{speedup_of(row):.2f}",
            }
    heads = list(dict.fromkeys(head for own in cells.values() for head in own))
    rows = [[name, *(own.get(head, "") for head in heads)] for name, own in cells.items()]
    return f"{table(['', *heads], rows, range(1, len(heads) + 1))}\n{_caption(results['runtimes'])}\n"


def encoders(results: Mapping[str, Json]) -> str:
    """Times of SAM 2's encoders in ms, and how many times as fast as Meta's they are: a column per square size."""
    cells: dict[str, dict[str, str]] = {}
    for row in results["encoders"]["rows"]:
        backbone, size = row["name"].partition(",")[0].split()
        cells.setdefault(backbone, {})[size] = f"{_figure(row['median'])} ({speedup_of(row):.2f})"
    sizes = [size for size in dict.fromkeys(chain(*cells.values())) if len({*size.split("x")}) == 1]
    rows = [[backbone, *(found.get(size, "") for size in sizes)] for backbone, found in cells.items()]
    return f"{table(['', *sizes], rows, range(1, len(sizes) + 1))}\n{_caption(results['encoders'])}\n"


def node_stages(results: Mapping[str, Json]) -> str:
    """Rates, latencies and stages of the node: medians, and the 99th percentile of times; two columns per rig."""
    cells: dict[str, dict[str, tuple[str, str]]] = {}
    for row in _listed(_of_node(results, in_process=False)):
        rig, _, name = row["name"].partition(": ")
        median = _figure(row["median"])
        alone = f"{median} ({_figure(row['p99'])})" if row["unit"] == "ms" and row["repeats"] > 1 else median
        cells.setdefault(f"{name}, {row['unit']}", {})[rig] = alone, _figure(row["alternative_median"])
    rigs = list(dict.fromkeys(rig for of_name in cells.values() for rig in of_name))
    heads = ["", *(head for rig in rigs for head in (rig, "every topic"))]
    rows = [[name, *(cell for rig in rigs for cell in found.get(rig, ("", "")))] for name, found in cells.items()]
    return f"{table(heads, rows, range(1, len(heads)))}\n{_caption(results['node'])}\n"


def node_parts(results: Mapping[str, Json]) -> str:
    """Parts of a set in one process."""
    return benchmark_table({**results["node"], "rows": _of_node(results, in_process=True)})


def _of_node(results: Mapping[str, Json], in_process: bool) -> list[Json]:
    return [row for row in results["node"]["rows"] if (": " not in row["name"]) == in_process]


def goals(results: Mapping[str, Json]) -> str:
    """Performance targets beside the measured figures; of those for a GPU without figures from a CPU."""
    rows = []
    for goal in GOALS:
        standing, figure = goal.verdict(results[goal.result] if goal.result else None)
        found = [standing if goal.gpu and "not" in standing else ", ".join(filter(None, [figure, standing]))]
        rows.append((goal.words, goal.limit, "; ".join(filter(None, [*found, goal.remark]))))
    return table(("goal", "limit", "found"), rows)


def switches(results: Mapping[str, Json]) -> str:
    """Optimizations that can be turned off and their speedups; tolerances unless the usual one."""
    heads = "switch", "optimization", "speedup, memory (without)", "tolerance"
    rows = [(s.name, s.words, s.speedup(results), "" if s.tolerance == ROUNDING else s.tolerance) for s in SWITCHES]
    names = dict.fromkeys(name for switch in SWITCHES for name, _ in switch.rows)
    return f"{table(heads, rows)}\n{_caption(*(results[name] for name in names))}\n"


# docs/training.md

_SCORES = {"miou": "mIoU", "calibration_error_before": "error", "calibration_error": "calibrated"}
_SINGLED_OUT = CAMERA, LIDAR


def subsets(evaluation: Json) -> str:
    """Mean IoU and expected calibration error of every subset of the sensors, in percent, and their mean."""
    scale = {key: 100 if "error" in key else 1 for key in _SCORES}
    figures = [[scale[key] * entry[key] for key in _SCORES] for entry in evaluation["subsets"]]
    names = [" + ".join(entry["sensors"]) for entry in evaluation["subsets"]]
    means = [sum(column) / len(names) for column in zip(*figures, strict=True)]
    rows = zip([*names, f"mean of the {len(names)}"], [*figures, means], strict=True)
    return _scores(["sensors", *_SCORES.values()], [[name, *row] for name, row in rows])


def conditions(evaluation: Json) -> str:
    """Mean IoU per weather and fault with all sensors, without camera or LiDAR, and with one of these alone."""
    shown = _shown(evaluation)
    rows = [
        [f"{kind}: {name}", *(entry["conditions"][kind][name]["miou"] for entry in shown.values())]
        for kind, names in shown["all"]["conditions"].items()
        for name in names
        if len(names) > 1
    ]
    return _scores(["condition", *shown], rows)


def classes(evaluation: Json) -> str:
    """IoU of every class in the ground truth, in descending order: of all sensors, without LiDAR, of the camera."""
    shown = {name: e for name, e in _shown(evaluation).items() if name in ("all", f"no {LIDAR}", CAMERA)}
    best = sorted(shown["all"]["per_class"].items(), key=lambda item: -(item[1] or 0))
    names = [name for name, iou in best if iou is not None]
    return _scores(["class", *shown], [[name, *(e["per_class"][name] for e in shown.values())] for name in names])


def protocols(evaluation: Json) -> str:
    """Average and expected mIoU with failing sensors: left out, empty, with holes or noisy."""
    emm = evaluation["emm"]
    failing = {
        "left out (any-modal)": evaluation["any_modal"],
        "empty (EMM)": emm,
        **{f"{float(ratio):.0%} holes (RMM)": found for ratio, found in evaluation["rmm"].items()},
    }
    rows: list[list[Cell]] = [[name, f["average"], *f["expected"].values()] for name, f in failing.items()]
    unknown = [None] * len(emm["expected"])
    rows += [[f"{level} noise in all (NM)", miou, *unknown] for level, miou in evaluation["nm"].items()]
    return _scores(["sensors that fail are", "average", *(f"p = {p}" for p in emm["expected"])], rows)


def yardstick(found: Json) -> str:
    """Figures of an earlier commit's weights and of the shipped ones on the same streets, in percent."""
    return _scores(["on the frozen streets", "before", "shipped"], [[n, *pair] for n, pair in found["figures"].items()])


def ablation(found: Json) -> str:
    """The four rows of the paper's ablation."""
    rows = [[row["name"].replace("_", " "), row["miou"], row["mean_of_subsets"]] for row in found["rows"]]
    return _scores(["features", "all sensors", "mean of all subsets"], rows)


def costmap(found: Json) -> str:
    """Precision and recall of a costmap's cells, in percent."""
    heads = [name.replace("_", " ") for name in found["rows"][0]]
    return _scores(heads, [list(row.values()) for row in found["rows"]])


def warm_start(found: Json) -> str:
    """Mean mIoU of the seeds by step, of experts that start cold and from the shipped checkpoint."""
    steps = list(found["rows"][-1]["miou"])
    rows = [[row["start"], *(row["miou"].get(step) for step in steps), row["spread"]] for row in found["rows"]]
    heads = ["start", *(f"step {step}" for step in steps), "standard deviation"]
    how = f"{len(found['seeds'])} seeds, {found['size']} pixels, {found['minutes']:g} min on two cores"
    return f"{_scores(heads, rows)}\n{how}: `{found['command']}`.\n"


def _shown(evaluation: Json) -> dict[str, Json]:
    """Heading → entry: all sensors, all but camera or LiDAR, and each of these alone."""
    entries = {frozenset(entry["sensors"]): entry for entry in evaluation["subsets"]}
    full = max(entries, key=len)
    names = [name for name in _SINGLED_OUT if name in full]
    wanted = {"all": full, **{f"no {n}": full - {n} for n in names}, **{n: frozenset({n}) for n in names}}
    return {heading: entries[subset] for heading, subset in wanted.items() if subset in entries}


def _scores(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    def text(value: Cell) -> str:
        return value if isinstance(value, str) else "" if value is None else f"{value:.1f}"

    return table(heads, [[text(value) for value in row] for row in rows], range(1, len(heads)))


# All pages

PIVOTED = {"model": networks, "runtimes": runtimes, "encoders": encoders, "node": node_stages}
"""Results with a table of their own form."""


def _load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _tables() -> dict[str, Callable[[], str]]:
    results = {path.stem: _load(path) for path in sorted(RESULTS.glob("*.json"))}
    evaluation, ablated = _load(WEIGHTS / "evaluation.json"), _load(WEIGHTS / "ablation.json")
    return {
        **{make.__name__: make for make in (published, subscribed, parameters, services, rules, backbones)},
        "sensor_messages": partial(messages, SENSOR_MESSAGES),
        "pipeline_messages": partial(messages, PIPELINE_MESSAGES),
        **{f"bench_{name}": partial(benchmark_table, result) for name, result in results.items()},
        **{f"bench_{name}": partial(make, results) for name, make in PIVOTED.items()},
        **{make.__name__: partial(make, results) for make in (goals, switches, node_parts)},
        **{make.__name__: partial(make, evaluation) for make in (subsets, conditions, classes, protocols)},
        "yardstick": partial(yardstick, _load(WEIGHTS / "yardstick.json")),
        "ablation": partial(ablation, ablated),
        "warm_start": partial(warm_start, _load(WEIGHTS / "warm_start.json")),
        "costmap": partial(costmap, _load(WEIGHTS / "costmap.json")),
    }


TABLES = _tables()
"""Table name → function that formats it."""


def stale_pages() -> Iterator[tuple[Path, str]]:
    """Yield (page, new text) of every page of docs/ that has a stale table."""
    for page in sorted(DOCS.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        if (new := fill(old, TABLES)) != old:
            yield page, new


def main() -> None:
    """Rewrite stale pages, or with `--check` exit with an error that names them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with an error on a stale page")
    check = parser.parse_args().check
    stale = dict(stale_pages())
    for page, text in stale.items():
        if not check:
            page.write_text(text, encoding="utf-8")
        print(f"{'stale' if check else 'rewritten'}: {page.relative_to(CHECKOUT)}")
    raise SystemExit(check and bool(stale))


if __name__ == "__main__":
    main()
