# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for `launch` and `launch_ros`, which have no wheel, with the API that the launch files use.

`execute` does what `ros2 launch` would do up to the point of starting processes: it takes arguments, refuses wrong
ones, follows includes, and gives back the actions with everything substituted.
"""

from __future__ import annotations

import runpy
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass
class LaunchConfiguration:
    name: str

    def perform(self, context: Any) -> str:
        return context.launch_configurations[self.name]


@dataclass
class ExecutableInPackage:
    executable: str
    package: str

    def perform(self, context: Any) -> str:
        return f"{self.package}/{self.executable}"


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: str | None = None
    description: str | None = None
    choices: list[str] | None = None


@dataclass
class LogInfo:
    msg: str


@dataclass
class OpaqueFunction:
    function: Any


@dataclass
class SetEnvironmentVariable:
    name: str
    value: str


@dataclass
class LaunchDescription:
    entities: list[Any]


@dataclass
class PythonLaunchDescriptionSource:
    path: str


@dataclass
class IncludeLaunchDescription:
    source: PythonLaunchDescriptionSource
    launch_arguments: Any = ()


class Action:
    """`Node` or `ExecuteProcess`: its keyword arguments, substituted by `execute`."""

    def __init__(self, **options: Any) -> None:
        self.options = options


class Node(Action):
    pass


class ExecuteProcess(Action):
    pass


@dataclass
class EmitEvent:
    event: Any


@dataclass
class Shutdown:
    reason: str


@dataclass
class ProcessExited:
    returncode: int


@dataclass
class Result:
    """Result of a launch: arguments by name, processes, environment, log entries."""

    arguments: dict[str, DeclareLaunchArgument] = field(default_factory=dict)
    processes: list[Action] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


MODULES = {
    "launch": {"LaunchContext": SimpleNamespace, "LaunchDescription": LaunchDescription},
    "launch.actions": {
        c.__name__: c
        for c in (
            DeclareLaunchArgument,
            EmitEvent,
            ExecuteProcess,
            IncludeLaunchDescription,
            LogInfo,
            OpaqueFunction,
            SetEnvironmentVariable,
        )
    },
    "launch.events": {"Shutdown": Shutdown},
    "launch.events.process": {"ProcessExited": ProcessExited},
    "launch.launch_description_sources": {"PythonLaunchDescriptionSource": PythonLaunchDescriptionSource},
    "launch.substitutions": {"LaunchConfiguration": LaunchConfiguration},
    "launch_ros": {},
    "launch_ros.actions": {"Node": Node},
    "launch_ros.substitutions": {"ExecutableInPackage": ExecutableInPackage},
}


ABSENT: set[str] = set()
"""Packages that are not installed."""


def install(monkeypatch: Any, log_dir: Path) -> None:
    """Put the stand-ins where the launch files import from, for one test."""
    logging = {"launch_config": SimpleNamespace(log_dir=str(log_dir))}
    for name, contents in {**MODULES, "launch.logging": logging}.items():
        module = ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)


def execute(path: Path, environment: dict[str, str] | None = None, **given: str) -> Result:
    """Launch a file as far as the processes.

    Raises:
        RuntimeError: an argument without default was not given, or a value is not among its choices.
        AssertionError: something failed after a process was started. `ros2 launch` ends then, and the process does not.
    """
    result = Result(environment=dict(environment or {}))
    argv = [f"{name}:={value}" for name, value in given.items()]
    context = SimpleNamespace(launch_configurations=dict(given), environment=result.environment, argv=argv)
    try:
        _visit(runpy.run_path(str(path))["generate_launch_description"](), context, result)
    except Exception as error:
        left = [action.options.get("cmd", action.options.get("package")) for action in result.processes]
        assert not left, f"{left} would run on without its launch, which failed: {error}"
        raise
    return result


def _visit(entity: Any, context: Any, result: Result) -> None:
    if isinstance(entity, LaunchDescription):
        for part in entity.entities:
            _visit(part, context, result)
    elif isinstance(entity, DeclareLaunchArgument):
        _declare(entity, context, result)
    elif isinstance(entity, SetEnvironmentVariable):
        context.environment[entity.name] = entity.value
    elif isinstance(entity, LogInfo):
        result.said.append(entity.msg)
    elif isinstance(entity, OpaqueFunction):
        for part in entity.function(context) or ():
            _visit(part, context, result)
    elif isinstance(entity, IncludeLaunchDescription):
        context.launch_configurations.update({k: _text(v, context) for k, v in dict(entity.launch_arguments).items()})
        _visit(runpy.run_path(entity.source.path)["generate_launch_description"](), context, result)
    else:
        if entity.options.get("package") in ABSENT:
            raise LookupError(f"package {entity.options['package']!r} not found")
        entity.options = _text(entity.options, context)
        result.processes.append(entity)


def _declare(argument: DeclareLaunchArgument, context: Any, result: Result) -> None:
    result.arguments[argument.name] = argument
    value = context.launch_configurations.setdefault(argument.name, argument.default_value)
    if value is None:
        raise RuntimeError(f"argument {argument.name} is required")
    if argument.choices and value not in argument.choices:
        raise RuntimeError(f"argument {argument.name} is {value!r}, not one of {argument.choices}")


def _text(value: Any, context: Any) -> Any:
    if hasattr(value, "perform"):
        return value.perform(context)
    if isinstance(value, dict):
        return {key: _text(part, context) for key, part in value.items()}
    return [_text(part, context) for part in value] if isinstance(value, list) else value
