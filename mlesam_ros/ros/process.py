"""The life of a ROS process of ours: transport, start, spin, signals, a clean end."""

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

from mlesam_ros.config import other_sections
from mlesam_ros.errors import ConfigError, MlesamError
from mlesam_ros.parameter_file import NODE, read_override, read_parameter_file
from mlesam_ros.ros.middleware import REFUSED, check_environment, memory_problem, transport_environment

_MALLOC = ((-3, 32 << 20), (-1, 256 << 20), (-2, 32 << 20))
"""M_MMAP_THRESHOLD, at its largest; M_TRIM_THRESHOLD; M_TOP_PAD: how much more is asked for at once. Bytes."""
_REFUSED = (
    MlesamError,
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)


def tune_malloc() -> None:
    """Tell glibc to keep freed megabytes for the next message; other C libraries are left as they are.

    By default it gives the memory of every camera picture back to the system and asks for it again, page by page: 4,500
    page faults and two thirds of the time that it takes to receive 1080p. See mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _MALLOC:
            mallopt(parameter, value)


def spin_node(make_node: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Make a node and spin it until a signal or a shutdown ends it.

    The node's `close()`, where it has one, is called at the end to join its threads; its `start()`, where it has one,
    before the first spin. One or two SIGINTs (what Ctrl-C under `ros2 launch` sends) and SIGTERM end cleanly.

    Args:
        make_node: called once rclpy is initialized.
        args: the command line with its `--ros-args`; that of this process by default.

    Returns:
        the exit code: 0; 1 when a parameter or argument was refused, 2 when the environment was, with one sentence on
        stderr.
    """
    if not _environment_is_usable():
        return REFUSED
    os.environ.update(transport_environment())
    tune_malloc()
    starting = True

    def interrupt(*_: object) -> None:
        # Loading is broken off. Later on rclpy's handler, which calls this one, has shut down the context already, and
        # spin returns by itself; an exception inside the executor would only leave things half done.
        if starting:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)  # before rclpy.init, whose handlers pass on to what they find
    try:
        files = _parameter_files(sys.argv[1:] if args is None else args)
        rclpy.init(args=list(args) if args is not None else None)
    except MlesamError as error:
        print(f"mlesam_ros: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:  # rclpy does not export its name
        print(f"mlesam_ros: what follows --ros-args is refused: {_without_source(str(error))}", file=sys.stderr)
        return 1
    gc.freeze()  # what the modules made stays; without it a last look for the rest takes a tenth of a second
    node: Node | None = None
    try:
        node = make_node()
        for path in files:
            name = node.get_fully_qualified_name()
            for words in other_sections(path, name, read_parameter_file(path, name)[1]):
                node.get_logger().warning(words)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        getattr(node, "start", _nothing)()
        starting = False
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except _REFUSED as error:
        print(f"mlesam_ros: {error}", file=sys.stderr)
        return 1
    except Exception:
        if rclpy.ok():
            raise  # else a signal has invalidated the context between two steps of the executor
    finally:
        # From here on nothing must interrupt the joining of threads.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if node is not None:
            getattr(node, "close", _nothing)()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _environment_is_usable() -> bool:
    """Whether a node can start here; if not, or not well, stderr has the reason."""
    try:
        check_environment()
    except ConfigError as error:
        print(f"mlesam_ros: {error}", file=sys.stderr)
        return False
    if problem := memory_problem({**os.environ, **transport_environment()}):
        print(f"mlesam_ros: warning: {problem}", file=sys.stderr)
    return True


def _parameter_files(args: Sequence[str]) -> list[str]:
    """Parameter files of a command line; those and `-p` rules are refused in the words that the other commands use.

    Raises:
        ConfigError: one cannot be read.
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


def _without_source(words: str) -> str:
    """A message of rcl without the places in its source code."""
    return re.sub(r"(, at \S+:\d+)+$", "", words)


def exit_fast(code: int) -> NoReturn:
    """End the process after `spin_node`, without taking Python and torch apart.

    That would take a second of a core, on a busy machine ten; whoever sent the signal would have sent another by then.

    Args:
        code: the exit code.
    """
    rclpy.utilities.get_default_context().destroy()
    gc.collect()  # executor and node refer to each other; with the last of them the transport gives its memory back
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads any more
            stream.flush()
    os._exit(code)


def _nothing() -> None:
    """What a node without `start` or `close` does."""
