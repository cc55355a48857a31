"""`mlesam simulate`: a stretch of the simulated street as a bag, or as live sensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlesam_ros.cli.environment import prepare_ros
from mlesam_ros.cli.help import epilog, prose
from mlesam_ros.cli.progress import track

_EXAMPLES = epilog(
    "mlesam simulate street/",
    "mlesam simulate night_street/ --daylight night --seed 3 --moments 100",
    "mlesam simulate street/ --play",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=prose(simulate), epilog=_EXAMPLES)(simulate)


def simulate(
    out: Annotated[Path, typer.Argument(help="The bag to write, a folder that does not exist yet.")],
    seed: Annotated[int, typer.Option(help="Which street.")] = 0,
    daylight: Annotated[str, typer.Option(help="day or night.")] = "day",
    moments: Annotated[int, typer.Option(help="How many moments, ten a second.")] = 200,
    side: Annotated[int, typer.Option(help="Height and width of the pictures in pixels.")] = 512,
    play: Annotated[bool, typer.Option("--play", help="Then play it in a loop, until Ctrl-C.")] = False,
) -> None:
    """Render a street with four sensors and its true labels into a bag.

    With --play its sensors are live afterwards, in real time: two cores cannot render and segment ten moments a second
    at once.
    """
    from mlesam_ros.bags.street import write_street
    from mlesam_ros.world.world import World

    world = World(seed, daylight, (side, side), length=moments)
    with track("rendering", moments, "moments") as progress:
        write_street(out, world, progress=lambda done: progress(done, moments))
    if play:
        prepare_ros()
        from mlesam_ros.ros.player import PlayOptions
        from mlesam_ros.ros.player import play as play_bags
        from mlesam_ros.ros.playlist import Playlist

        typer.echo(f"playing {out}; Ctrl-C ends it", err=True)
        play_bags(Playlist([out]), PlayOptions(loop=True))
