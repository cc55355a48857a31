# SPDX-License-Identifier: Apache-2.0
"""Shared by the commands: options, help texts, ROS environment, result files and the reading of parameters."""

from __future__ import annotations

import fcntl
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlesam_ros.errors import ConfigError
from mlesam_ros.files import atomic_write, check_writable, expand_path, is_standard_output
from mlesam_ros.types import MODALITIES, NODE

if TYPE_CHECKING:
    from mlesam_ros.config import NodeParameters


def epilog(*examples: str) -> str:
    """Format examples for the end of a help page."""
    return "\n".join(["[bold]Examples[/bold]", *(f"  [cyan]$ {example}[/cyan]" for example in examples)])


def format_help(command: Callable[..., Any]) -> str:
    """Return a command's docstring with each paragraph on one line, to be wrapped at the width of the terminal."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


DOMAINS = range(100, 0, -1)
"""Without the default domain 0; domains above 101 use ports in Linux's ephemeral range."""

_LOCK_FLAGS = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
"""`O_NOFOLLOW` since other users can create symbolic links in the temporary folder."""


def allocate_domain(folder: Path | None = None) -> int:
    """Return a ROS domain that no other caller of this function has claimed.

    The claim is a lock on a file in the temporary folder. The system releases it when this process ends.

    Args:
        folder: folder of the lock files; one per user by default.

    Raises:
        ConfigError: all domains are claimed.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"mlesam_ros_domains_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for domain in DOMAINS:
        lock = os.open(folder / str(domain), _LOCK_FLAGS, 0o600)  # stays open until the process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return domain
    raise ConfigError(f"all {len(DOMAINS)} ROS domains are claimed in {folder}.", "Stop a demo, or set ROS_DOMAIN_ID.")


def configure_ros_env() -> None:
    """Restrict discovery to this machine and enlarge Fast DDS's buffers for images, unless already configured.

    Raises:
        ConfigError: an environment variable has a value with which no ROS process starts.
    """
    from mlesam_ros.ros.middleware import check_environment, localhost_environment, transport_environment

    for name, value in localhost_environment().items():
        os.environ.setdefault(name, value)
    check_environment()
    os.environ.update(transport_environment())


def prepare_own_domain() -> None:
    """Like `configure_ros_env`, in a newly allocated domain unless `ROS_DOMAIN_ID` is set."""
    if not os.environ.get("ROS_DOMAIN_ID"):
        os.environ["ROS_DOMAIN_ID"] = str(allocate_domain())
    configure_ros_env()


def new_run_dir(parent: Path, kind: str = "demo") -> Path:
    """Create the folder `<kind>-<date>-<time>` and point the link `latest` to it.

    Args:
        parent: parent folder of results.
        kind: prefix of the folder name.

    Raises:
        ConfigError: `parent` is not writable.
    """
    stem = f"{kind}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    folder, number = parent / stem, 1
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while not _create(folder):
            number += 1
            folder = parent / f"{stem}-{number}"
        link = parent / f".latest.{os.getpid()}"
        link.symlink_to(folder.name)
        link.replace(parent / "latest")
    except OSError as error:
        raise ConfigError(f"{parent} is not writable: {error.strerror}.", "Choose another --output.") from error
    return folder


def _create(folder: Path) -> bool:
    """Create a folder; False if it exists already, such as by a concurrent process."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON to a file; - is standard output.")
]


def json_target(value: str, creatable: Collection[Path]) -> str:
    """Expand the value of `--json` and check that the file is writable before the command computes anything.

    Args:
        value: value of the option.
        creatable: folders that the command can create.

    Returns:
        `-` for standard output in any spelling; otherwise the path.

    Raises:
        FileError: the file is not writable.
    """
    if is_standard_output(value):
        return "-"
    path = expand_path(value)
    check_writable(path, creatable)
    return str(path)


def write_json(result: dict[str, Any], target: str | Path) -> None:
    """Write a result to the target of `--json`.

    A file is written atomically, so that another process can wait for it.

    Raises:
        FileError: the file cannot be written.
    """
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    atomic_write(target, text)


ParamsOption = Annotated[
    Path | None,
    typer.Option(
        "--params", "--params-file", metavar="FILE", help="Parameter file of the node; it describes the sensors."
    ),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "-p", "--param", metavar="NAME:=VALUE", help="Set a node parameter, such as lidar.offset:=0.05; repeatable."
    ),
]
NodeOption = Annotated[
    str, typer.Option("--node", metavar="NAME", help="Full name of the node; selects the sections of --params.")
]
TopicOption = Annotated[
    list[str] | None,
    typer.Option("--topic", metavar="SENSOR:=TOPIC", help="Short for -p SENSOR.topic:=TOPIC; repeatable."),
]
CalibrationOption = Annotated[
    Path | None, typer.Option("--calibration", metavar="FILE", help="Short for -p calibration_file:=FILE.")
]
CheckpointOption = Annotated[Path | None, typer.Option("--checkpoint", help="Short for -p checkpoint:=FILE.")]
BaseWeightsOption = Annotated[
    Path | None, typer.Option("--base-weights", help="Short for -p base_weights:=FILE or NAME.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Short for -p device:=cpu, cuda or cuda:1.")]
StartOption = Annotated[float, typer.Option("--start", help="Seconds to skip at the beginning.")]
DurationOption = Annotated[float | None, typer.Option("--duration", help="Seconds to read; up to the end if omitted.")]
DropOption = Annotated[
    list[str] | None,
    typer.Option(
        "--drop",
        metavar="WHAT@FROM..TO",
        help="Drop a modality or topic in an interval, in seconds from the start; repeatable.",
    ),
]
OutputOption = Annotated[
    Path, typer.Option("--output", metavar="FOLDER", help="Parent folder of the new result folder.")
]


def read_parameters(
    params: Path | None,
    param: Sequence[str] | None,
    node: str = NODE,
    topic: Sequence[str] | None = None,
    others: Sequence[str] = (),
    **values: Any,
) -> NodeParameters:
    """Read the node parameters of one camera from the options of a command; warnings go to standard error.

    Args:
        params: parameter file.
        param: `-p` rules.
        node: full name of the node.
        topic: `--topic` pairs.
        others: names in the pairs that are not sensors; the command reads them itself.
        values: parameter → value of the command's own option; None if not given.

    Raises:
        ConfigError: the node would reject the parameters, or they are of several cameras.
    """
    from mlesam_ros.config import load_parameters

    given = {name: str(v) if isinstance(v, Path) else v for name, v in values.items() if v is not None}
    topics = {f"{sensor}.topic": name for sensor, name in read_topics(topic, others).items() if sensor not in others}
    parameters = load_parameters(params, param or (), node, {**topics, **given})
    for warning in parameters.warnings:
        typer.echo(f"warning: {warning}", err=True)
    return parameters.alone


def read_topics(pairs: Sequence[str] | None, others: Sequence[str] = ()) -> dict[str, str]:
    """Parse `SENSOR:=TOPIC` pairs into sensor → topic.

    Args:
        pairs: the pairs as typed.
        others: names that are accepted besides the sensors.

    Raises:
        ConfigError: a pair is malformed or its name is not accepted.
    """
    found = {}
    accepted = (*MODALITIES, *others)
    for pair in pairs or ():
        name, _, topic = pair.partition(":=")
        if not topic:
            raise ConfigError(
                f"--topic {pair!r} is not SENSOR:=TOPIC.", "Write SENSOR:=TOPIC, such as camera:=/image_raw."
            )
        if name not in accepted:
            raise ConfigError(f"--topic {pair!r} is for {name!r}; accepted are {', '.join(accepted)}.")
        found[name] = topic
    return found
