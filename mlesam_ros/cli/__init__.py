"""The `mlesam` command: one file per subcommand, nothing heavy imported before it is needed."""

import sys
from typing import NoReturn

from mlesam_ros.blas import keep_to_one_core
from mlesam_ros.cli.ending import end
from mlesam_ros.ownership import end_with_named_parent


def main() -> NoReturn:
    """Entry point of the console script."""
    end_with_named_parent()
    sys.exit(end(_application))


def _application() -> None:
    keep_to_one_core()
    from mlesam_ros.cli.app import app

    app()
