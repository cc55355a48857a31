"""Generator of the tables in `docs/node.md`. Usage: python -m mlesam_ros.ros.node_page docs/node.md.

Replaces the text between `<!-- begin NAME -->` and `<!-- end NAME -->` by the table of that name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from mlesam_ros.config import CameraParameters, NodeParameters, iter_parameters
from mlesam_ros.errors import ConfigError
from mlesam_ros.messages import MESSAGE_TYPES
from mlesam_ros.ros.diagnostics import LEVELS, PIPELINE_MESSAGES, SENSOR_MESSAGES, DiagnosticTemplate
from mlesam_ros.ros.subscribers import queue_depth
from mlesam_ros.ros.topics import DIAGNOSTICS, OUTPUTS, SERVICES, TopicSpec
from mlesam_ros.types import MODALITIES

_REMEDY, _SAID = re.compile(r"\{\w+\.remedy\}"), "As the message says."
_TYPES = {bool: "bool", int: "int", float: "double", str: "string", tuple: "list"}


def published() -> str:
    """Table of the published topics."""
    topics = {f"~/{name}": output for name, output in OUTPUTS.items()}
    return _table(
        ("topic", "type", "published", "computed", "QoS", "what it says"),
        (
            (f"`{name}`", _short(o.type_name), o.rate, o.when, _qos(o), o.meaning)
            for name, o in {**topics, "/diagnostics": DIAGNOSTICS}.items()
        ),
    )


def subscribed() -> str:
    """Table of the subscribed topics."""
    rows = []
    for modality in MODALITIES:
        sensor = NodeParameters().sensor(modality)
        types = ", ".join(_short(name) for name in MESSAGE_TYPES[modality])
        rows.append((f"`{sensor.topic}`", f"`{modality}.topic`", types, f"best effort, {queue_depth(modality)}"))
        if isinstance(sensor, CameraParameters):
            infos = f"`{sensor.info_topic}`", f"`{modality}.info_topic`"
            rows.append((*infos, _short("sensor_msgs/msg/CameraInfo"), "best effort"))
    rows.append(("`/tf`", "", _short("tf2_msgs/msg/TFMessage"), "reliable, else as published"))
    rows.append(("`/tf_static`", "", _short("tf2_msgs/msg/TFMessage"), "reliable, transient local, else as published"))
    return _table(("topic", "parameter", "types", "QoS"), rows)


def parameters() -> str:
    """Table of the parameters; each sensor parameter once for all sensors."""
    rows = []
    sensors: dict[str, list[str]] = {}
    for name, entry, default in iter_parameters():
        modality, _, short = name.rpartition(".")
        meta = entry.metadata
        limits = ", ".join(c or '""' for c in meta["choices"])
        if meta["range"] is not None:
            limits = "{:.10g} to {:.10g}".format(*meta["range"])
        facts = _TYPES[type(default)], limits, meta["change"], meta["text"].replace("|", "\\|")
        if not modality:
            rows.append((f"`{name}`", f"`{_yaml(default)}`", *facts))
        elif short in sensors:
            sensors[short].append(modality)
        else:
            sensors[short] = [modality]
            which = "" if short in ("topic", "info_topic") else _yaml(default)
            rows.append((f"`<sensor>.{short}`", f"`{which}`" if which else "by sensor", *facts))
    return _table(("parameter", "default", "type", "accepted", "set", "meaning"), rows)


def services() -> str:
    """Table of the services."""
    return _table(
        ("service", "type", "what it does"),
        ((f"`~/{name}`", _short(service.type_name), service.meaning) for name, service in SERVICES.items()),
    )


def sensor_words() -> str:
    """Table of the messages in a sensor's status on `/diagnostics`."""
    return _message_rows(SENSOR_MESSAGES.values())


def pipeline_words() -> str:
    """Table of the messages in the pipeline's status on `/diagnostics`."""
    return _message_rows(PIPELINE_MESSAGES.values())


TABLES: dict[str, Callable[[], str]] = {
    make.__name__: make for make in (published, subscribed, parameters, services, sensor_words, pipeline_words)
}


def refreshed(text: str) -> str:
    """Return a document with every table regenerated.

    Raises:
        ConfigError: the markers of a table are missing.
    """
    for name, make in TABLES.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if begin not in text or end not in text:
            raise ConfigError(f"the document has no {begin} … {end}.", "Put the two where the table belongs.")
        before, rest = text.split(begin, 1)
        text = f"{before}{begin}\n{make()}\n{end}{rest.split(end, 1)[1]}"
    return text


def _message_rows(sayings: Iterable[DiagnosticTemplate]) -> str:
    rows = ((LEVELS[s.level], f"`{_named(s.message)}`", s.cause, _REMEDY.sub(_SAID, s.remedy)) for s in sayings)
    return _table(("level", "message", "cause", "remedy"), rows)


def _named(template: str) -> str:
    """Replace placeholders such as `{failure.message}` by `{failure}`."""
    return template.replace(".message}", "}")


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _short(type_name: str) -> str:
    return f"`{type_name.replace('/msg/', '/').replace('/srv/', '/')}`"


def _qos(output: TopicSpec) -> str:
    return "reliable, transient local, 1" if output.latched else f"reliable, {output.qos.depth}"


def _yaml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return (
        {True: "true", False: "false"}[value]
        if isinstance(value, bool)
        else f'"{value}"'
        if value == ""
        else str(value)
    )


def main() -> int:
    """Regenerate the document named on the command line."""
    (path,) = map(Path, sys.argv[1:])
    path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
