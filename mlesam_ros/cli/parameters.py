"""The options with which a command reads the description of the sensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlesam_ros.errors import ConfigError
from mlesam_ros.frame import MODALITIES
from mlesam_ros.parameter_file import NODE

if TYPE_CHECKING:
    from mlesam_ros.config import NodeParameters

TRUTH = "truth"
"""Name of the topic with true labels beside the sensors'; no parameter of the node."""

ParamsOption = Annotated[
    Path | None,
    typer.Option(
        "--params", "--params-file", metavar="FILE", help="Parameter file of the node, the description of the sensors."
    ),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        "--param",
        metavar="NAME:=VALUE",
        help="One parameter of the node, such as lidar.offset:=0.05; repeatable.",
    ),
]
NodeOption = Annotated[
    str, typer.Option("--node", metavar="NAME", help="Full name of the node, whose sections of the file count.")
]
TopicOption = Annotated[
    list[str] | None,
    typer.Option(metavar="SENSOR:=TOPIC", help="Short for -p SENSOR.topic:=TOPIC; repeatable."),
]


def read_parameters(
    params: Path | None,
    param: Sequence[str] | None,
    node: str = NODE,
    topic: Sequence[str] | None = None,
    others: Sequence[str] = (),
    **values: Any,
) -> NodeParameters:
    """The description of the sensors as a command was told it; its warnings go to standard error.

    Args:
        params: parameter file.
        param: `-p` rules.
        node: full name of the node.
        topic: `--topic` pairs.
        others: names beside the sensors' that the command reads from the pairs itself.
        values: parameter → value of an option of its own; None where it was not given.

    Raises:
        ConfigError: as the node refuses it.
    """
    from mlesam_ros.config import load_parameters

    topics = {f"{what}.topic": name for what, name in read_topics(topic, others).items() if what not in others}
    parameters = load_parameters(params, param or (), node, {**topics, **_given(values)})
    for warning in parameters.warnings:
        typer.echo(f"warning: {warning}", err=True)
    return parameters


def read_topics(pairs: Sequence[str] | None, others: Sequence[str] = ()) -> dict[str, str]:
    """`SENSOR:=TOPIC` pairs as sensor → topic.

    Args:
        pairs: as they were typed.
        others: accepted besides the sensors.

    Raises:
        ConfigError: a pair that cannot be read, or that names no sensor.
    """
    found = {}
    accepted = (*MODALITIES, *others)
    for pair in pairs or ():
        what, _, name = pair.partition(":=")
        if not name:
            raise ConfigError(
                f"--topic {pair!r} is no sensor and topic.", "Write SENSOR:=TOPIC, such as camera:=/image_raw."
            )
        if what not in accepted:
            raise ConfigError(f"--topic {pair!r} is for {what!r}; accepted are {', '.join(accepted)}.")
        found[what] = name
    return found


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items() if v is not None}
