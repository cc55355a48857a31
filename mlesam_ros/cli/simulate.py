# SPDX-License-Identifier: Apache-2.0
"""`mlesam simulate`: render the simulated street into a bag, live topics, or a data set."""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mlesam_ros.cli.common import JsonOption, configure_ros_env, epilog, format_help, write_json
from mlesam_ros.errors import BagError, ConfigError
from mlesam_ros.files import write_error
from mlesam_ros.types import EVENT, LIDAR

_EXAMPLES = epilog(
    "mlesam simulate street/",
    "mlesam simulate wet_street/ --weather rain --fault motionblur --seed 3 --steps 100",
    "mlesam simulate blind_street/ --weather night --drop camera",
    "mlesam simulate street/ --play",
    "mlesam simulate --deliver data/STREET --split train --weather all --fault all --streets 4 --steps 10 --every 20",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=format_help(simulate), epilog=_EXAMPLES)(simulate)


def simulate(
    out: Annotated[Path | None, typer.Argument(help="Folder of the new bag; it must not exist yet.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the street.")] = 0,
    weather: Annotated[str, typer.Option(help="cloud, fog, night, rain or sun.")] = "sun",
    fault: Annotated[
        str, typer.Option(help="none, or one of the faults that docs/data.md lists, as motionblur.")
    ] = "none",
    style: Annotated[str, typer.Option(help="plain, the street of the shipped weights, or varied.")] = "plain",
    drop: Annotated[list[str] | None, typer.Option(help="Omit a sensor; repeatable.")] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:=DEGREES",
            help="A further camera with depth, turned to the left, with topics below its name; repeatable.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Number of time steps, at 10 Hz.")] = 200,
    image_size: Annotated[
        tuple[int, int], typer.Option("--image-size", metavar="H W", help="Size of the images in pixels.")
    ] = (512, 512),
    play: Annotated[bool, typer.Option("--play", help="Play the bag afterwards in a loop, until Ctrl-C.")] = False,
    deliver: Annotated[Path | None, typer.Option(help="Write a data set in DELIVER's layout instead.")] = None,
    split: Annotated[str, typer.Option(help="With --deliver: train, val or test.")] = "train",
    streets: Annotated[int, typer.Option(help="With --deliver: number of streets, with seeds from --seed on.")] = 1,
    every: Annotated[int, typer.Option(help="With --deliver: time steps from one frame to the next.")] = 1,
    json: JsonOption = None,
) -> None:
    """Render a street with four sensors and its ground truth labels into a bag.

    Weather and fault change the sensor data; a seed always gives the same street. With --deliver, --weather and --fault
    accept several values, separated by commas, or all; each combination is a separate scene.

    With --play the bag is played afterwards in real time: two cores cannot render and segment at 10 Hz at once.
    """
    if (out is None) == (deliver is None):
        raise ConfigError("simulate writes either a bag or a data set.", "Give the folder of a bag, or --deliver.")
    if deliver is not None:
        if min(streets, every, steps) < 1:
            raise ConfigError(f"streets {streets}, every {every} and steps {steps} must be at least 1.")
        numbers = range(0, steps * every, every)
        seeds = range(seed, seed + streets)
        written, count = (
            deliver,
            _write_deliver(deliver, split, seeds, (weather, fault, style), numbers, image_size, drop or []),
        )
    else:
        assert out is not None
        _write_bag(out, seed, (weather, fault, style), drop or [], _turns(camera or []), steps, image_size)
        written, count = out, steps
    if json is not None:
        conditions = {
            "seed": seed,
            "weather": weather,
            "fault": fault,
            "style": style,
            "dropped": drop or [],
            "image_size": list(image_size),
        }
        write_json({"written": str(written), "steps": count, **conditions}, json)
    if play and out is not None:
        _play(out)


def _turns(cameras: list[str]) -> dict[str, float]:
    """Camera → degrees of `NAME:=DEGREES`."""
    found = {}
    for given in cameras:
        matched = re.fullmatch(r"([A-Za-z][A-Za-z0-9_]*):=(-?[0-9]+(?:\.[0-9]+)?)", given)
        if matched is None or matched[1] in found:
            raise ConfigError(f"--camera is {given!r}; accepted is NAME:=DEGREES, such as left:=70, each name once.")
        found[matched[1]] = float(matched[2])
    return found


def _write_bag(
    out: Path,
    seed: int,
    conditions: tuple[str, str, str],
    drop: list[str],
    turns: dict[str, float],
    steps: int,
    image_size: tuple[int, int],
) -> None:
    from mlesam_ros.progress import track
    from mlesam_ros.simulation.export import write_simulated_bag
    from mlesam_ros.simulation.world import World

    weather, fault, style = conditions
    street = partial(World, seed, weather, image_size, length=steps, fault=fault, style=style)
    world = street(dropped=drop)
    cameras = {name: street(dropped=[EVENT, LIDAR], yaw=yaw) for name, yaw in turns.items()}
    is_new = not out.exists()
    try:
        with track("rendering", steps, "steps") as progress:
            write_simulated_bag(out, world, progress=lambda done: progress(done, steps), cameras=cameras)
    except BaseException as error:
        if is_new:  # an incomplete bag would block the next run
            shutil.rmtree(out, ignore_errors=True)
        if isinstance(error, BagError) and isinstance(error.__cause__, OSError):
            raise write_error(out, error.__cause__, 0) from error
        raise


def _write_deliver(
    root: Path,
    split: str,
    seeds: range,
    conditions: tuple[str, str, str],
    steps: range,
    image_size: tuple[int, int],
    drop: list[str],
) -> int:
    """Write the scenes in DELIVER's layout and return the number of frames."""
    from mlesam_ros.progress import track
    from mlesam_ros.simulation.export import write_deliver_scene
    from mlesam_ros.simulation.weather import FAULTS, WEATHERS, fault_name, weather_name
    from mlesam_ros.simulation.world import World

    weathers = [weather_name(name) for name in _split_names(conditions[0], WEATHERS)]
    faults = [fault_name(name) for name in _split_names(conditions[1], FAULTS)]
    scenes = [(seed, weather, fault) for seed in seeds for weather in weathers for fault in faults]
    total, done = len(scenes) * len(steps), 0
    with track("rendering", total, "frames") as progress:
        for seed, weather, fault in scenes:
            world = World(seed, weather, image_size, fault=fault, dropped=drop, style=conditions[2])
            done += len(write_deliver_scene(root, world, split, steps))
            progress(done, total)
    return done


def _split_names(names: str, known: tuple[str, ...]) -> list[str]:
    return list(known) if names == "all" else [name.strip() for name in names.split(",")]


def _play(bag: Path) -> None:
    configure_ros_env()
    from mlesam_ros.ros.player import Playlist, PlayOptions
    from mlesam_ros.ros.player import play as play_bags

    typer.echo(f"playing {bag} until Ctrl-C", err=True)
    play_bags(Playlist([bag]), PlayOptions(loop=True))
