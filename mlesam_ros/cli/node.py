# SPDX-License-Identifier: Apache-2.0
"""`mlesam node`: run the perception node without `ros2 run`."""

from __future__ import annotations

import typer

from mlesam_ros.cli.common import configure_ros_env, epilog, format_help

_EXAMPLES = epilog(
    "mlesam node",
    "mlesam node --ros-args -p device:=cuda:0 -r camera/image_raw:=/front/image_raw",
    "mlesam node --ros-args --params-file robot.yaml",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    pass_through = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(help=format_help(node), epilog=_EXAMPLES, context_settings=pass_through)(node)


def node(context: typer.Context) -> None:
    """Run the perception node, a lifecycle node; all arguments after the command are passed to ROS.

    With ROS 2 installed, prefer `ros2 launch mlesam_ros perception.launch.py`.
    """
    configure_ros_env()
    from mlesam_ros.ros.node import main
    from mlesam_ros.ros.process import exit_fast

    exit_fast(main(context.args))
