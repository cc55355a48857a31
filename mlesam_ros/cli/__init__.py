"""The `mlesam` command: one file per subcommand, nothing heavy imported before it is needed."""

from mlesam_ros.cli.app import main

__all__ = ["main"]
