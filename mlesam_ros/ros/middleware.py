# SPDX-License-Identifier: Apache-2.0
"""Checks of the middleware's environment: variables, log folder and shared memory.

Imports no rclpy, because an invalid environment aborts its process.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlesam_ros.errors import ConfigError, MlesamError, Problem
from mlesam_ros.files import atomic_write
from mlesam_ros.resources import resource_path

# Kilted and later read the first name and warn about the second; Jazzy and earlier read only the second.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
REFUSED = 2
"""Exit code for an invalid environment."""
_TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
_IRON, _KILTED = 4, 9  # major versions of their rclpy
_DOMAINS = range(233)
"""Domain ids that map to valid ports."""
_LOG_FOLDERS = {"ROS_LOG_DIR": ".", "ROS_HOME": "log", "HOME": ".ros/log"}
"""Variable → log folder of ROS 2 relative to its value. The first variable that is set takes precedence."""
_SHARED_MEMORY = Path("/dev/shm")
_DEFAULT_SEGMENT_SIZE = 512 << 10
"""Bytes of a participant's shared-memory segment without a profile."""
_SEGMENT_SIZE = 64 << 20
"""Bytes of the segment in the profiles of this package."""
_MIN_SEGMENT_SIZE = 8 << 20
"""Bytes of the smallest segment that carries 1080p images."""
_LARGER_MEMORY_REMEDY = (
    "Start the container with --shm-size=1g or --ipc=host, or enlarge the memory where it is mounted "
    f"(mount -o remount,size=1g {_SHARED_MEMORY})."
)
_SEGMENT_FILE = re.compile(r"fast(dds|rtps)_[0-9a-f]{16}")


def check_environment(environment: Mapping[str, str] | None = None) -> None:
    """Check for variables that prevent the start of a ROS process, or that cause silent loss of messages.

    Args:
        environment: the variables; those of this process by default.

    Raises:
        ConfigError: with the variable, its value and the accepted values.
    """
    environment = os.environ if environment is None else environment
    domain = environment.get("ROS_DOMAIN_ID", "")
    if domain and not (domain.isascii() and domain.isdigit() and int(domain) in _DOMAINS):
        raise ConfigError(
            f"ROS_DOMAIN_ID is {domain!r}; accepted are integers from 0 to {_DOMAINS[-1]}.",
            "Set it to one of them, the same for the whole robot, or unset it.",
        )
    _check_middleware(environment)
    for name in PROFILE_VARIABLES:
        if (path := environment.get(name)) and not Path(path).is_file():
            raise ConfigError(
                f"{name} is {path!r}, which is not a file.", "Set it to a Fast DDS profile that exists, or unset it."
            )
    _check_log_folder(environment)


def _check_middleware(environment: Mapping[str, str]) -> None:
    wanted = environment.get("RMW_IMPLEMENTATION")
    prefixes = [Path(prefix) for prefix in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    folders = [Path(folder) for folder in environment.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]
    folders += [prefix / "lib" for prefix in (*prefixes, Path(sys.prefix))]
    installed = {
        path.stem.removeprefix("lib")
        for folder in folders
        for path in folder.glob("librmw_*_cpp.so")
        if "__" not in path.name
    }
    installed = {name for name in installed if not name.endswith("_shared_cpp")}
    if wanted and installed and not any((folder / f"lib{wanted}.so").exists() for folder in folders):
        raise ConfigError(
            f"RMW_IMPLEMENTATION is {wanted!r}, which is not installed; installed are {', '.join(sorted(installed))}.",
            "Unset it, set it to one of them, or install its package.",
        )


def _check_log_folder(environment: Mapping[str, str]) -> None:
    name = next((name for name in _LOG_FOLDERS if environment.get(name)), None)
    home = environment.get("HOME", "")
    remedy = "Set ROS_LOG_DIR to a folder that can be written, such as /tmp/ros_log."
    if name is None or (environment[name].startswith("~") and not home):
        raise ConfigError("HOME is not set, so ROS 2 has no folder for its log.", remedy)
    value = environment[name]
    folder = Path(home + value[1:] if value.startswith("~") else value) / _LOG_FOLDERS[name]
    reason = "no permission"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except (OSError, ValueError) as error:
        writable, reason = False, getattr(error, "strerror", None) or str(error)
    if not writable:
        message = f"{name} is {value!r}, and ROS 2 cannot write its log to {folder}: {reason}."
        raise ConfigError(message, remedy)


def transport_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that select a Fast DDS profile for camera images between processes.

    With the default segment of 512 KiB, best-effort images over about half a megabyte are lost silently. If discovery
    is limited to localhost, the profile also binds every receiving socket to 127.0.0.1. If /dev/shm is small, such as
    the 64 MiB of a container, a copy of the profile is used with segments of which four fit.

    Args:
        environment: the variables that are set already; those of this process by default.

    Returns:
        one variable to set; empty if the user has selected a profile or built-in transports.
    """
    environment = os.environ if environment is None else environment
    if any(environment.get(name) for name in (*PROFILE_VARIABLES, _TRANSPORTS)):
        return {}
    local = _is_local(environment)
    profile = str(_fit_profile(resource_path(f"config/dds/{'fastdds_localhost' if local else 'fastdds'}.xml")))
    return {PROFILE_VARIABLES[0 if _rclpy_version() >= _KILTED else 1]: profile}


def localhost_environment() -> dict[str, str]:
    """Return the variables that limit discovery to this host; Humble reads only `ROS_LOCALHOST_ONLY`."""
    old = {"ROS_LOCALHOST_ONLY": "1"} if _rclpy_version() < _IRON else {}  # later releases warn about it
    return {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", **old}


def _is_local(environment: Mapping[str, str]) -> bool:
    """Whether discovery is limited to this host."""
    chosen = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() == "LOCALHOST"
    return chosen or environment.get("ROS_LOCALHOST_ONLY") == "1"


def _rclpy_version() -> int:
    """Return the major version of rclpy; that of Kilted if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 (8 ms of every start otherwise)

    try:
        return int(version("rclpy").partition(".")[0])
    except PackageNotFoundError:
        return _KILTED


def _fit_profile(profile: Path) -> Path:
    """Return the profile, or a copy with a smaller segment if /dev/shm has no space for two of its segments."""
    text = profile.read_text(encoding="utf-8")
    size = next(iter(_segment_sizes(text)))
    total = _memory_size()
    if not 4 * _MIN_SEGMENT_SIZE <= total < 2 * size:
        return profile
    room = total // 4 >> 20
    folder = Path(tempfile.gettempdir()) / f"mlesam_ros_dds_{os.getuid()}"
    copy = folder / f"{profile.stem}_{room}_mib.xml"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return profile  # another user could change the copy
        atomic_write(copy, text.replace(str(size), str(room << 20)))
    except (OSError, MlesamError):
        return profile
    return copy


def _memory_size() -> int:
    """Return the bytes of /dev/shm; 0 if it does not exist."""
    try:
        return shutil.disk_usage(_SHARED_MEMORY).total
    except OSError:
        return 0


def _segment_sizes(profile: str) -> list[int]:
    """Return the bytes of the segments in a profile."""
    return [int(size) for size in re.findall(r"<segment_size>\s*(\d+)\s*</segment_size>", profile)]


def memory_problem(environment: Mapping[str, str] | None = None) -> Problem | None:
    """Check that /dev/shm has space for the segments of publisher and node; None if it has or none are needed.

    Without that space Fast DDS uses UDP, which loses large best-effort messages.

    Args:
        environment: the variables; those of this process by default.
    """
    environment = os.environ if environment is None else environment
    segment = _segment_size(environment)
    if not segment:
        return None
    try:
        usage = shutil.disk_usage(_SHARED_MEMORY)
    except OSError:
        return Problem(
            f"{_SHARED_MEMORY} does not exist, so images go over UDP and are lost.",
            f"Mount a tmpfs at {_SHARED_MEMORY}.",
        )
    need = f"publisher and node need {segment / 2**20:.0f} MiB each for images"
    if usage.total < 2 * segment:
        return Problem(f"{_SHARED_MEMORY} has {usage.total / 2**20:.0f} MiB, and {need}.", _LARGER_MEMORY_REMEDY)
    if usage.free < segment:
        return Problem(
            f"{_SHARED_MEMORY} has {usage.free / 2**20:.0f} MiB free of {usage.total / 2**20:.0f}, and {need}.",
            f"End all ROS processes and remove what killed ones have left: rm {_SHARED_MEMORY}/fast*_*",
        )
    return None


def transport_remedy(environment: Mapping[str, str] | None = None) -> str:
    """Return the change of the environment that lets large messages reach this process, unless already applied.

    Args:
        environment: the variables; those of this process by default.
    """
    environment = os.environ if environment is None else environment
    middleware = environment.get("RMW_IMPLEMENTATION", "")
    if middleware and "fastrtps" not in middleware:
        return f"Give {middleware} larger receive buffers on both sides; its documentation names them."
    if problem := memory_problem(environment):
        return problem.remedy
    others = {name: value for name, value in environment.items() if name not in (*PROFILE_VARIABLES, _TRANSPORTS)}
    ((name, path),) = transport_environment(others).items()
    wanted = _segment_size({name: path})
    if _segment_size(environment) < wanted:
        set_now = next((n for n in (_TRANSPORTS, *PROFILE_VARIABLES) if environment.get(n)), None)
        instead = f", instead of {set_now}={environment[set_now]}" if set_now else ""
        return f"Set {name}={path}{instead}, where the driver starts and where the node starts."
    if _has_small_segments(wanted):
        return f"Set {name}={path} where the driver starts, as it is set here."
    if wanted < _SEGMENT_SIZE:
        return _LARGER_MEMORY_REMEDY
    return f"Start the driver without {_TRANSPORTS} and without another profile than the node's {name}."


def _segment_size(environment: Mapping[str, str]) -> int:
    """Return the bytes of shared memory that a participant requests; 0 if it uses none."""
    if transports := environment.get(_TRANSPORTS):
        return 0 if "UDP" in transports.upper() else _DEFAULT_SEGMENT_SIZE
    path = next((environment[name] for name in PROFILE_VARIABLES if environment.get(name)), None)
    if path is None:
        return _DEFAULT_SEGMENT_SIZE
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _DEFAULT_SEGMENT_SIZE
    uses_udp_only = "<useBuiltinTransports>false" in text and "SHM" not in text
    return 0 if uses_udp_only else max(_segment_sizes(text), default=_DEFAULT_SEGMENT_SIZE)


def _has_small_segments(wanted: int) -> bool:
    """Whether a process on this host has a segment smaller than `wanted` bytes, and thus another profile."""
    try:
        sizes = [entry.stat().st_size for entry in os.scandir(_SHARED_MEMORY) if _SEGMENT_FILE.fullmatch(entry.name)]
    except OSError:
        return False
    return any(size < wanted for size in sizes)
