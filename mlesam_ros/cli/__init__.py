"""The `mlesam` command: one file per subcommand, nothing heavy imported before it is needed."""

from mlesam_ros.cli.ending import main

__all__ = ["main"]
