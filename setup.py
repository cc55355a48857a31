"""The pip way to what CMakeLists.txt lays down: the same messages, modules, executables and shared files.

colcon never reads this file. pip reads it, and runs the same CMakeLists.txt for the messages, so an environment with
ROS from wheels gets the layout of a ROS installation: `ros2 launch` and `rclpy` find everything in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)
NAME, TRAINING = "mlesam_ros", "mlesam_training"
BUILD = Path("build")
INTERFACES = Path(NAME) / "interfaces"
SHARED = ("config", "launch", "weights", "msg")
REQUIRE_MESSAGES = "MLESAM_REQUIRE_MESSAGES"


class Modules(build_py):
    """Copies the modules into an empty folder: setuptools would keep those that were deleted since the last build."""

    def run(self) -> None:
        if not self.editable_mode:
            for package in (NAME, TRAINING):
                shutil.rmtree(Path(self.build_lib) / package, ignore_errors=True)
        super().run()


class Messages(build_ext):
    """Generates and compiles the message types, and hands them to the wheel."""

    def run(self) -> None:
        if find_spec("rosidl_generator_py") is None:
            if os.environ.get(REQUIRE_MESSAGES):
                raise SystemExit("this Python has no rosidl_generator_py: install the ROS wheels or source ROS first.")
            print("no ROS in this Python: mlesam_ros is installed without its node and messages", file=sys.stderr)
            return
        prefix = built_messages()
        modules = next(prefix.glob("lib/python*/site-packages"))
        for path in sorted(p for p in prefix.rglob("*") if p.is_file()):
            if path.is_relative_to(modules):
                self._take_module(path, path.relative_to(modules))
            else:
                self.distribution.data_files.append((str(path.parent.relative_to(prefix)), [str(path)]))

    def _take_module(self, path: Path, module: Path) -> None:
        if path.suffix == ".c" or "egg-info" in module.parts[0] or module == Path(NAME, "__init__.py"):
            return
        target = Path(self.build_lib) / module
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)

    def get_outputs(self) -> list[str]:
        return []


def built_messages() -> Path:
    """The prefix with the compiled messages, built unless one of the same sources, Python and ROS lies there."""
    foreign = [path.parent.name for path in sorted(INTERFACES.glob("*/msg")) if is_missing(path.parent.name)]
    prefix = ROOT / BUILD / "messages" / fingerprint(foreign)
    if prefix.is_dir():
        return prefix
    work = prefix.with_suffix(f".{os.getpid()}")
    environment = {**os.environ, "AMENT_PREFIX_PATH": os.pathsep.join([sys.prefix, *ament_prefixes()])}
    options = {
        "MLESAM_FOREIGN": ";".join(foreign),
        "BUILD_TESTING": "OFF",
        "Python3_EXECUTABLE": sys.executable,
        "CMAKE_PREFIX_PATH": sys.prefix,
    }
    for command in (
        ["cmake", "-S", "cmake/pip", "-B", work / "build", *(f"-D{name}={value}" for name, value in options.items())],
        ["cmake", "--build", work / "build", "--parallel", str(os.cpu_count())],
        ["cmake", "--install", work / "build", "--prefix", work / "prefix"],
    ):
        subprocess.run(list(map(str, command)), check=True, env=environment)
    (work / "prefix").rename(prefix)
    shutil.rmtree(work)
    return prefix


def is_missing(package: str) -> bool:
    """Whether an interface package has to be generated: it is neither on the ROS path nor here, but for our copy."""
    if any((Path(prefix) / "share" / package / "package.xml").exists() for prefix in ament_prefixes()):
        return False
    found = find_spec(package)
    return found is None or found.origin in brought_along()


def brought_along() -> set[str]:
    """The packages, as paths of their first files, that an earlier installation of this project put here."""
    ours = (d for d in metadata.distributions() if d.name == NAME)
    return {str(d.locate_file(path)) for d in ours for path in d.files or () if path.name == "__init__.py"}


def ament_prefixes() -> list[str]:
    """The ROS installations and overlays that are sourced, but for this environment itself."""
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    return [prefix for prefix in prefixes if prefix and Path(prefix).resolve() != Path(sys.prefix).resolve()]


def fingerprint(foreign: list[str]) -> str:
    """What the compiled messages depend on, as a folder name."""
    releases = sorted(f"{d.name}={d.version}" for d in metadata.distributions() if d.name.startswith("ros"))
    digest = hashlib.sha256(repr((sys.prefix, sys.version, ament_prefixes(), releases, foreign)).encode())
    for path in (Path("CMakeLists.txt"), Path("package.xml"), *files("cmake"), *files("msg"), *files(INTERFACES)):
        digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def files(folder: str | Path) -> list[Path]:
    """Every file below a folder, in a fixed order; none where there is no such folder."""
    return sorted(p for p in Path(folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def shared_files() -> list[tuple[str, list[str]]]:
    """Where the files that are not modules go, below the prefix."""
    laid = [(f"share/{NAME}/{path.parent}", [str(path)]) for folder in SHARED for path in files(folder)]
    return [*laid, (f"share/{NAME}", ["package.xml"]), (f"lib/{NAME}", [str(p) for p in executables()])]


def executables() -> list[Path]:
    """The scripts that `ros2 run` finds, made to start this very Python, as pip does it for its own scripts."""
    folder = BUILD / "executables"
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for script in files("scripts"):
        path = folder / script.name
        path.write_text(script.read_text().replace("#!/usr/bin/env python3", f"#!{sys.executable}", 1))
        path.chmod(0o755)
        made.append(path)
    return made


setup(
    packages=[
        *find_packages(include=[NAME, f"{NAME}.*"]),
        *find_packages("training"),
    ],
    package_dir={TRAINING: f"training/{TRAINING}"},
    package_data={NAME: ["interfaces/*/msg/*.msg", "py.typed"]},
    data_files=shared_files(),
    ext_modules=[Extension(f"{NAME}.msg", sources=[])],
    cmdclass={"build_py": Modules, "build_ext": Messages},
    options={"build": {"build_base": str(BUILD / "pip")}, "egg_info": {"egg_base": str(BUILD)}},
)
