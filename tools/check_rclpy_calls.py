# SPDX-License-Identifier: Apache-2.0
"""Type check of mlesam_ros/ros against the rclpy of other ROS 2 distributions, without an installation of them.

    git clone --branch humble https://github.com/ros2/rclpy /tmp/humble
    python tools/check_rclpy_calls.py humble=/tmp/humble/rclpy

mypy resolves `rclpy` in each of these folders and reports modules, attributes and arguments that do not exist there.
What rclpy does at run time, such as the arguments that it passes to a callback, it cannot know.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
CHECKED = CHECKOUT / "mlesam_ros" / "ros"
KINDS = ("attr-defined", "call-arg", "call-overload", "import-not-found")
"""Error codes of mypy for what does not exist. Types are not compared: most of Humble's rclpy has none."""

_CONFIG = """
[mypy]
no_site_packages = true
ignore_missing_imports = true
follow_imports = silent
check_untyped_defs = true
cache_dir = {cache}

[mypy-rclpy.*]
ignore_missing_imports = false

[mypy-mlesam_ros.msg.*]
follow_imports = skip
"""


def findings(sources: Path, checked: Path = CHECKED) -> list[str]:
    """Check our calls against one rclpy.

    Args:
        sources: folder that contains the package `rclpy`.
        checked: file or folder that is checked.

    Returns:
        One line per module, attribute or argument that this rclpy does not have.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "mypy.ini")
        config.write_text(_CONFIG.format(cache=Path(folder, "cache")), encoding="utf-8")
        command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--no-error-summary", str(checked)]
        path = {"MYPYPATH": f"{sources.resolve()}:{CHECKOUT}"}
        done = subprocess.run(command, cwd=CHECKOUT, env=path, capture_output=True, text=True, check=False)
    if done.returncode > 1 or done.stderr:
        raise SystemExit(done.stdout + done.stderr)
    found = [line for line in done.stdout.splitlines() if line.endswith(tuple(f"[{kind}]" for kind in KINDS))]
    return [line for line in found if "? has no attribute" not in line]  # types of NumPy, which mypy does not see here


def main() -> None:
    """Check every folder given; exit with an error if a call has no counterpart in one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="NAME=FOLDER", help="distribution, and the folder of its rclpy")
    failed = False
    for name, _, folder in (given.partition("=") for given in parser.parse_args().sources):
        if not Path(folder, "rclpy", "__init__.py").is_file():
            parser.error(f"{folder or name} has no package rclpy; give NAME=FOLDER with the folder above it")
        found = findings(Path(folder))
        failed |= bool(found)
        print("\n".join([f"{name}: {len(found)} calls without a counterpart", *found]))
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
