"""The `mlesam` command: one module per subcommand; heavy imports happen only inside the commands."""

import sys
from typing import NoReturn

from mlesam_ros.cli.ending import run_cli
from mlesam_ros.files import end_with_named_parent
from mlesam_ros.resources import limit_blas_threads


def main() -> NoReturn:
    """Entry point of the console script."""
    end_with_named_parent()
    sys.exit(run_cli(_application))


def _application() -> None:
    limit_blas_threads()
    from mlesam_ros.cli.app import app

    app()
