# SPDX-License-Identifier: Apache-2.0
"""Lifetime of a ROS process: environment, transport, start, spin, signals and shutdown."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import NoReturn

import rclpy
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from mlesam_ros.errors import ConfigError, MlesamError
from mlesam_ros.parameter_file import read_override, read_parameter_file, section_warnings
from mlesam_ros.ros.middleware import REFUSED, check_environment, memory_problem, transport_environment
from mlesam_ros.types import NODE

_MALLOC = ((-3, 32 << 20), (-1, 256 << 20), (-2, 32 << 20))
"""Options of mallopt(3) in bytes: M_MMAP_THRESHOLD (its maximum), M_TRIM_THRESHOLD, M_TOP_PAD (extra per request)."""
_REFUSED = (
    MlesamError,
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)


def tune_malloc() -> None:
    """Configure glibc to keep freed memory for the next message. Has no effect with other C libraries.

    By default glibc returns the memory of every camera image to the system and requests it again: 4,500 page faults,
    and two thirds of the time to receive a 1080p image. See mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _MALLOC:
            mallopt(parameter, value)


def spin_node(make_node: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Create a node and spin it until a signal or a shutdown.

    If the node has a method `start()`, it is called before the first spin. SIGTERM and one or two SIGINTs, as sent by
    Ctrl-C under `ros2 launch`, end cleanly.

    Args:
        make_node: creates the node; called after `rclpy.init`.
        args: the command line with its `--ros-args`; that of this process by default.

    Returns:
        exit code: 0; 1 for an invalid parameter or argument; 2 for an invalid environment. Errors print one sentence
        to stderr.
    """
    if not _environment_is_usable():
        return REFUSED
    os.environ.update(transport_environment())
    tune_malloc()
    starting = True

    def interrupt(*_: object) -> None:
        # Abort loading. After the start, rclpy's handler shuts down the context before it calls this one, and spin
        # returns; an exception would interrupt the executor within a step.
        if starting:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)  # before rclpy.init, whose handlers call existing ones
    try:
        files = _parameter_files(sys.argv[1:] if args is None else args)
        rclpy.init(args=list(args) if args is not None else None)
    except MlesamError as error:
        return _fail(str(error))
    except RuntimeError as error:  # rclpy does not export its name
        return _fail(f"invalid arguments after --ros-args: {_without_source(str(error))}")
    gc.freeze()  # exempt the objects of modules: saves 0.1 s in the last garbage collection
    node: Node | None = None
    try:
        node = make_node()
        _warn_of_unused_files(node, files)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        getattr(node, "start", _nothing)()
        starting = False
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except _REFUSED as error:
        return _fail(str(error))
    except Exception:
        if rclpy.ok():
            raise  # otherwise a signal invalidated the context between two steps of the executor
    finally:
        _close(node)
    return 0


def _fail(message: str) -> int:
    """Print an error in one line and return exit code 1."""
    print(f"mlesam_ros: {message}", file=sys.stderr)
    return 1


def _close(node: Node | None) -> None:
    """Destroy the node and shut down rclpy; signals must not interrupt the joining of threads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if node is not None:
        node.destroy_node()
    rclpy.try_shutdown()


def _environment_is_usable() -> bool:
    """Whether the environment is valid; print errors and warnings to stderr."""
    try:
        check_environment()
    except ConfigError as error:
        print(f"mlesam_ros: {error}", file=sys.stderr)
        return False
    if problem := memory_problem({**os.environ, **transport_environment()}):
        print(f"mlesam_ros: warning: {problem}", file=sys.stderr)
    return True


def _parameter_files(args: Sequence[str]) -> list[str]:
    """Return the parameter files of a command line, after a check of the files and of `-p` rules.

    Raises:
        ConfigError: a file cannot be read, or a file or rule is invalid.
    """
    ours, files = False, []
    for option, value in pairwise(args):
        ours = option == "--ros-args" or (ours and option != "--")
        if ours and option == "--params-file":
            read_parameter_file(value, NODE)
            files.append(value)
        elif ours and option in ("-p", "--param"):
            read_override(value, NODE)
    return files


def _warn_of_unused_files(node: Node, files: Sequence[str]) -> None:
    """Log a warning for each parameter file without a section for the node."""
    name = node.get_fully_qualified_name()
    for path in files:
        for warning in section_warnings(path, name, read_parameter_file(path, name)[1]):
            node.get_logger().warning(warning)


def _without_source(words: str) -> str:
    """Remove source locations from a message of rcl."""
    return re.sub(r"(, at \S+:\d+)+$", "", words)


def exit_fast(code: int) -> NoReturn:
    """End the process after `spin_node` without the teardown of Python and torch.

    The teardown takes 1 s of CPU time, and 10 s on a loaded host, after which a supervisor sends a further signal.

    Args:
        code: exit code.
    """
    rclpy.utilities.get_default_context().destroy()
    gc.collect()  # frees the reference cycle of executor and node, and with it the transport's memory
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader of the pipe has closed it
            stream.flush()
    os._exit(code)


def _nothing() -> None:
    """Do nothing; default for nodes without `start`."""
