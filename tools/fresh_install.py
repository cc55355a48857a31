# SPDX-License-Identifier: Apache-2.0
"""Test of the wheel in a new environment: `python tools/fresh_install.py --page docs/install.md`.

Builds and checks the wheel, installs it and then each extra into a virtual environment with ROS 2 from wheels, and runs
the node on a played bag without extras, the demo with `sim`, and the node with `openvino`. The times include downloads.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pages import CHECKOUT, table, write_recorded

from mlesam_ros.cli.common import allocate_domain
from mlesam_ros.extras import EXTRAS

HERE = Path(sys.executable).parent
REQUIREMENTS = CHECKOUT / "requirements"
MASKS = 20
LISTENER = f"""
import time, rclpy
from sensor_msgs.msg import Image
rclpy.init()
node, masks = rclpy.create_node("listener"), []
node.create_subscription(Image, "/mlesam/labels", masks.append, 10)
end = time.monotonic() + 120
while len(masks) < {MASKS} and time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.5)
classes = {{value for mask in masks for value in bytes(mask.data)}}
assert len(masks) >= {MASKS} and len(classes) > 3, (len(masks), classes)
print(f"{{len(masks)}} masks of {{masks[0].width}}x{{masks[0].height}} pixels with {{len(classes)}} classes")
"""
FOREIGN = ("sam2", "hydra", "iopath")
"""Packages of SAM 2 and its configuration, which are not needed."""
EXPORT = ("export", "street", "--format", "openvino")
PIP = ("-m", "pip", "-qq", "--no-input", "--disable-pip-version-check")
Row = tuple[str, float, float]
"""Step, its duration in seconds, and the megabytes that it added to the disk."""


class FreshEnvironment:
    """A new virtual environment, and the duration and size of each step in it.

    Args:
        folder: folder of the environment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, list[Row]()
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)

    def command(self, *words: object) -> list[str]:
        """Return a command line of its Python."""
        return [str(self.folder / "bin" / "python"), *map(str, words)]

    def run(self, *words: object) -> str:
        """Run its Python and return the standard output."""
        done = subprocess.run(self.command(*words), text=True, stdout=subprocess.PIPE, check=True, cwd=self.folder)
        return done.stdout

    def install(self, what: str, *words: object) -> None:
        """Install with pip, and append a row to the table."""
        start, before = time.monotonic(), size_of(self.folder)
        self.run(*PIP, "install", *words)
        row = (what, time.monotonic() - start, size_of(self.folder) - before)
        print(f"{row[0]}: {row[1]:.0f} s, {row[2]:.0f} MB", flush=True)
        self.rows.append(row)


def size_of(folder: Path) -> float:
    """Return the size of the files below a folder in megabytes, without compiled modules."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.suffix != ".pyc")
    return sum(path.stat().st_size for path in files) / 1e6


def build_wheel(folder: Path) -> Path:
    """Build the wheel in an isolated environment, and check it with twine and check-wheel-contents."""
    subprocess.run([sys.executable, *PIP, "wheel", "--no-deps", "-w", folder, CHECKOUT], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([HERE / "twine", "check", "--strict", wheel], check=True)
    subprocess.run([HERE / "check-wheel-contents", wheel], check=True)
    return wheel


def play_to_node(fresh: FreshEnvironment, bag: Path, *options: object) -> str:
    """Play a bag to the node with options of `mlesam node`, and return the number of masks as a sentence."""
    node = subprocess.Popen(fresh.command("-m", "mlesam_ros.cli", "node", *options), cwd=fresh.folder)
    words = ("-m", "mlesam_ros.cli", "play", bag, "--loop", "--wait", 60)
    player = subprocess.Popen(fresh.command(*words), cwd=fresh.folder)
    listener = subprocess.Popen(fresh.command("-c", LISTENER), cwd=fresh.folder, stdout=subprocess.PIPE, text=True)
    try:
        while listener.poll() is None:
            assert node.poll() is None and player.poll() is None, "the node or the player has ended"
            time.sleep(0.5)
        assert listener.returncode == 0
        return listener.communicate()[0].strip()
    finally:
        for process in (listener, player, node):
            process.send_signal(signal.SIGINT)
            process.wait(60)


def refused(fresh: FreshEnvironment, *words: object) -> str:
    """Return the error of a command whose extra is not installed."""
    command = fresh.command("-m", "mlesam_ros.cli", *words)
    done = subprocess.run(command, cwd=fresh.folder, text=True, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2 and "pip install" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def main() -> None:
    """Build, check, install and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ros", default="kilted", help="ROS distribution of the wheels")
    parser.add_argument("--page", type=Path, help="page in which to replace the table")
    parser.add_argument("--json", type=Path, help="file for the table as JSON")
    given = parser.parse_args()
    for name in ("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH", "PYTHONPATH"):  # of this process's environment
        os.environ.pop(name, None)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.setdefault("ROS_DOMAIN_ID", str(allocate_domain()))
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        start = time.monotonic()
        wheel = build_wheel(work)
        built: Row = (f"{wheel.name}, built", time.monotonic() - start, wheel.stat().st_size / 1e6)
        bag = work / "street"
        simulate = ["-m", "mlesam_ros.cli", "simulate", bag, "--steps", "40"]
        subprocess.run([sys.executable, *simulate], cwd=CHECKOUT, check=True)
        os.environ["XDG_CACHE_HOME"] = scratch
        fresh = FreshEnvironment(work / "venv")
        fresh.install("PyTorch", "-r", REQUIREMENTS / "torch.txt")
        fresh.install(f"ROS 2 {given.ros.title()}", "-r", REQUIREMENTS / f"ros-{given.ros}.txt")
        fresh.install("`mlesam_ros`", wheel)
        absent = {module for module in EXTRAS if not list(fresh.folder.glob(f"lib/*/site-packages/{module}"))}
        assert {"h5py", "open3d", "tensorboard"} <= absent, absent  # PyTorch brings jinja2
        print(f"not installed: {', '.join(sorted(absent))}")
        assert not (found := foreign_imports(fresh)), found
        print(f"no installed module imports {', '.join(FOREIGN)}")
        fresh.run("-m", "mlesam_ros.cli", "--help")
        print(refused(fresh, "demo", "--headless"))
        print(refused(fresh, *EXPORT))
        print(play_to_node(fresh, bag))
        for extra in ("report", "train", "sim", "openvino", "export", "onnx"):
            fresh.install(f"`mlesam_ros[{extra}]`", f"{wheel}[{extra}]")
        print(fresh.run(*PIP, "list", "--format", "freeze"), end="")
        start = time.monotonic()
        words = ("demo", "--headless", "--quick", "--cache", work / "cache", "--output", work / "runs", "--json", "-")
        demo = json.loads(fresh.run("-m", "mlesam_ros.cli", *words))
        print(f"demo: {time.monotonic() - start:.0f} s, {demo['masks']} masks of {demo['sets_offered']} sets")
        assert demo["masks"] > demo["sets_offered"] / 4
        fresh.run("-m", "mlesam_ros.cli", *EXPORT)
        print("OpenVINO:", play_to_node(fresh, bag, "--ros-args", "-p", "runtime:=openvino"))
        report([built, *fresh.rows], given)


def foreign_imports(fresh: FreshEnvironment) -> list[str]:
    """Return the installed modules of the package that import one of `FOREIGN`."""
    package = next(fresh.folder.glob("lib/*/site-packages/mlesam_ros")).parent
    pattern = re.compile(rf"^\s*(?:from|import) +(?:{'|'.join(FOREIGN)})\b", re.MULTILINE)
    modules = [path for name in ("mlesam_ros", "mlesam_training") for path in (package / name).rglob("*.py")]
    assert len(modules) > 100, modules
    return [str(path) for path in modules if pattern.search(path.read_text())]


def report(rows: list[Row], given: argparse.Namespace) -> None:
    """Write the rows to the page and the JSON file, if given."""
    if given.json:
        names = ("what", "seconds", "megabytes")
        given.json.write_text(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=1))
    if given.page:
        cells = [(what, f"{seconds:.0f}", f"{size:.0f}") for what, seconds, size in rows]
        write_recorded(given.page, "install", table(("", "seconds", "MB"), cells, (1, 2)))


if __name__ == "__main__":
    main()
