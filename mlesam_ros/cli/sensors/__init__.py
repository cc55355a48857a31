"""`mlesam sensors`: check a calibration, and draw sensor data with it."""

import typer

from mlesam_ros.cli.common import epilog
from mlesam_ros.cli.sensors import check, show

_EXAMPLES = epilog("mlesam sensors check config/rigs/example.yaml", "mlesam sensors show drive/ --out pictures/")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Check a calibration, and see what the sensors show.", epilog=_EXAMPLES)
    check.register(group)
    show.register(group)
    app.add_typer(group, name="sensors", no_args_is_help=True)
