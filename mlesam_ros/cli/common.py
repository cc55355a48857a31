"""Options, help texts and environment shared by the commands."""

from __future__ import annotations

import fcntl
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlesam_ros.errors import ConfigError
from mlesam_ros.files import atomic_write, check_writable, expand_path, is_standard_output
from mlesam_ros.parameter_file import NODE
from mlesam_ros.ros.middleware import check_environment, transport_environment
from mlesam_ros.types import MODALITIES

if TYPE_CHECKING:
    from mlesam_ros.config import NodeParameters


def epilog(*examples: str) -> str:
    """The closing lines of a help page: commands that can be typed as they stand."""
    return "\n".join(["[bold]Examples[/bold]", *(f"  [cyan]$ {example}[/cyan]" for example in examples)])


def format_help(command: Callable[..., Any]) -> str:
    """A command's docstring with each paragraph on one line, so that the terminal's width decides where it breaks."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


DOMAINS = range(100, 0, -1)
"""0 is everybody's; above 101 the ports of Linux' own outgoing connections begin."""

_CLAIM = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
"""A file of our own: others may write to the machine's temporary folder, too, and a link of theirs leads elsewhere."""


def allocate_domain(folder: Path | None = None) -> int:
    """A domain that nobody else who asked this function has.

    The claim is a lock on a file in the machine's temporary folder. The system drops it when this process ends, however
    that comes about.

    Args:
        folder: where the locks lie; one per user by default.

    Raises:
        ConfigError: all domains are claimed.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"mlesam_ros_domains_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for domain in DOMAINS:
        claim = os.open(folder / str(domain), _CLAIM, 0o600)  # open until the process ends
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
        else:
            return domain
    raise ConfigError(f"all {len(DOMAINS)} ROS domains are claimed in {folder}.", "End a demo, or set ROS_DOMAIN_ID.")


def configure_ros_env() -> None:
    """Keep discovery on this machine and give Fast DDS room for images, unless the user has decided otherwise.

    Raises:
        ConfigError: a variable with which no ROS process starts.
    """
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    check_environment()
    os.environ.update(transport_environment())


def prepare_own_domain() -> None:
    """Like `configure_ros_env`, in a domain apart from other robots on this machine unless one was chosen."""
    if not os.environ.get("ROS_DOMAIN_ID"):
        os.environ["ROS_DOMAIN_ID"] = str(allocate_domain())
    configure_ros_env()


def new_run_dir(parent: Path, kind: str = "demo") -> Path:
    """Make `<kind>-<date>-<time>` and point `latest` at it.

    Args:
        parent: folder that collects results.
        kind: of result.

    Raises:
        ConfigError: it cannot be written to.
    """
    stem = f"{kind}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    folder, number = parent / stem, 1
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while not _made(folder):
            number += 1
            folder = parent / f"{stem}-{number}"
        link = parent / f".latest.{os.getpid()}"
        link.symlink_to(folder.name)
        link.replace(parent / "latest")
    except OSError as error:
        raise ConfigError(
            f"results cannot be written to {parent}: {error.strerror}.", "Give another --output."
        ) from error
    return folder


def _made(folder: Path) -> bool:
    """Whether it was this process that made it, of several that may try at once."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON to this file, or to standard output with -."),
]


def json_target(value: str, made: Collection[Path]) -> str:
    """Expand the value of `--json`, and know that it can be written before anything is computed.

    Args:
        value: as given.
        made: folders that the command may make.

    Returns:
        `-` for standard output, however it is spelled; else the path.

    Raises:
        FileError: the file could not be written.
    """
    if is_standard_output(value):
        return "-"
    path = expand_path(value)
    check_writable(path, made)
    return str(path)


def write_json(result: dict[str, Any], target: str | Path) -> None:
    """Write a result where `--json` says.

    A file appears whole or not at all, so that another process may wait for it.

    Raises:
        FileError: the file cannot be written.
    """
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()  # a reader that waits for it has it now
        return
    atomic_write(target, text)


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
