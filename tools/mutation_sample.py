# SPDX-License-Identifier: Apache-2.0
r"""Mutation sampling: the same seeded mutants in two checkouts, and the share of them that each one's tests kill.

    python tools/mutation_sample.py trace --checkout OLD --out old_trace.json
    python tools/mutation_sample.py trace --checkout NEW --out new_trace.json
    python tools/mutation_sample.py sample --old OLD --new NEW --traces old_trace.json new_trace.json --out sample.json
    python tools/mutation_sample.py run --side old --checkout OLD --sample sample.json --trace old_trace.json \
        --out old.json
    python tools/mutation_sample.py run --side new --checkout NEW --sample sample.json --trace new_trace.json \
        --out new.json
    python tools/mutation_sample.py compare --sample sample.json --runs old.json new.json --out comparison.json

`trace` runs every test file once and records the duration of each test and the functions that it executes. `sample`
pairs functions of the two checkouts whose bodies are equal but for names, docstrings, annotations and messages, and
draws mutants of them: an index into the common normal form, and an operator. `run` applies one mutant after the other
and runs the tests that execute the function, until one fails. `compare` prints the share of killed mutants per area.

Mutants exist in memory only: the mutated module is compiled when a child process imports it, no file of a checkout
changes. Left out in both checkouts alike: tests of more than SLOW seconds, tests that initialize rclpy, and tests that
start a browser or Python or ROS processes, which would import unmutated modules. A mutant whose tests exceed their time
limit, crash or fail to import counts as killed. `trace` and `run` keep results in --out and add what is missing. Each
checkout needs its own environment in `.venv`.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import copy
import gc
import hashlib
import importlib
import json
import math
import os
import platform
import queue
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

# Folders and files of an area in either checkout; the area of a pair is that of its newer function.
AREAS = {
    "sync": ("mlesam_ros/sync/*.py",),
    "geometry": ("mlesam_ros/geometry/*.py",),
    "preprocessing": ("mlesam_ros/preprocessing/*.py", "mlesam_ros/encoding/*.py"),
    "model": ("mlesam_ros/model/*.py",),
    "training loop": (
        "training/*.py",
        *(
            f"training/mlesam_training/{name}.py"
            for name in ("activation_checkpointing", "augmentation", "batch_loader", "crops", "distributed", "loss")
        ),
        *(f"training/mlesam_training/{name}.py" for name in ("preflight", "stages", "state", "train_run", "trainer")),
    ),
}
TESTS_OF_AREA = {
    "sync": ("test/sync/",),
    "geometry": ("test/geometry/",),
    "preprocessing": ("test/preprocessing/", "test/encoding/"),
    "model": ("test/model/",),
    "training loop": ("test/training/",),
}
PER_FUNCTION = 2  # mutants of one function, at most
SLOW = 30.0  # seconds of processor time; longer tests are left out
FILE_LIMIT = 900.0  # seconds for one test file in `trace`
CONTROLS = 5  # runs without a mutation, which have to pass
PROGRAMS = ("python", "mlesam", "ros2", "perception_node", "colcon", "make", "cmake", "bash")
LIBRARIES = (
    "numpy",
    "torch",
    "cv2",
    "yaml",
    "hypothesis",
    "rich",
    "typer",
    "safetensors.torch",
    "rosbags",
    "h5py",
    "rclpy",
)
SPELLING = {
    "is(?=e|ing|ation|er)": "iz",
    "colour": "color",
    "grey": "gray",
    "centre": "center",
    "metre": "meter",
    "neighbour": "neighbor",
    "labelled": "labeled",
}

Json = dict[str, Any]


# --- Normal form of a function ---------------------------------------------------------------------------------------

_NOT_COMPARED = {"ctx", "type_comment", "annotation", "returns", "decorator_list", "type_params", "kind"}
_LOGGING = {"error", "debug", "info", "warn", "warning", "exception", "critical"}
_BUILTINS = set(dir(builtins))


@dataclass
class Form:
    """Normal form of a function: its nodes in order, its structure with numbered names, and the names."""

    nodes: list[ast.AST] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, node: ast.AST) -> None:
        """Append a node and what is below it. Messages, imports and assertions count as one token."""
        self.tokens.append(type(node).__name__)
        if _is_message(node):
            return
        self.nodes.append(node)
        if isinstance(node, ast.Raise):
            return
        for name, value in ast.iter_fields(node):
            if name in _NOT_COMPARED:
                continue
            items = value if isinstance(value, list) else [value]
            if name == "body" and isinstance(value, list):
                items = [item for item in items if not _is_text(item)]
            self.tokens.append(f"{name}:{len(items)}")
            for item in items:
                if isinstance(item, ast.AST):
                    self.add(item)
                elif isinstance(item, str) and not isinstance(node, ast.Constant):
                    self._name(item)
                else:
                    self.tokens.append("str" if isinstance(item, str) else repr(item))

    def _name(self, name: str) -> None:
        if name not in self.names:
            self.names.append(name)
        self.tokens.append(name if name in _BUILTINS else f"#{self.names.index(name)}")

    @property
    def shape(self) -> str:
        """Hash of the structure."""
        return hashlib.sha256(" ".join(self.tokens).encode()).hexdigest()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _called(node: ast.AST) -> str:
    """Last part of the name of the called function; empty for other nodes."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", "") or getattr(node.func, "id", "")


def _is_message(node: ast.AST) -> bool:
    if isinstance(node, ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
        return True
    name = _called(node)
    return name in _LOGGING or name.endswith(("Error", "Warning"))


@dataclass
class Function:
    """A function or method of a checkout."""

    area: str
    path: str
    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    form: Form

    @property
    def key(self) -> str:
        """Unique name within a checkout."""
        return f"{self.path}:{self.name}"


def functions_of(source: str, path: str, area: str) -> Iterator[Function]:
    """Functions and methods of a module; a nested function belongs to the one around it."""

    def visit(body: list[ast.stmt], prefix: str) -> Iterator[Function]:
        seen: Counter[str] = Counter()
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield from visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                seen[node.name] += 1
                ordinal = f"#{seen[node.name]}" if seen[node.name] > 1 else ""
                form = Form()
                form.add(node)
                yield Function(area, path, f"{prefix}{node.name}{ordinal}", node, form)

    yield from visit(ast.parse(source).body, "")


def functions(checkout: Path) -> dict[str, Function]:
    """Functions of all areas of a checkout."""
    found: dict[str, Function] = {}
    for area, patterns in AREAS.items():
        for pattern in patterns:
            for path in sorted(checkout.glob(pattern)):
                name = path.relative_to(checkout).as_posix()
                found |= {each.key: each for each in functions_of(path.read_text("utf-8"), name, area)}
    return found


# --- Mutants ---------------------------------------------------------------------------------------------------------

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_SWAPS = {
    **{"min": "max", "minimum": "maximum", "amin": "amax", "fmin": "fmax", "argmin": "argmax"},
    **{"max": "min", "maximum": "minimum", "amax": "amin", "fmax": "fmin", "argmax": "argmin"},
}
_FLIPS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_TRUTH_CALLS = {"isinstance", "any", "all", "bool", "issubclass", "hasattr"}


@dataclass
class Mutation:
    """Replacement of a node of a function."""

    index: int
    category: str
    operator: str
    target: ast.AST
    text: str

    @property
    def key(self) -> str:
        """Name of the mutation within its function, the same in every checkout."""
        return f"{self.index}:{self.category}:{self.operator}"


def mutations(function: Function) -> dict[str, Mutation]:
    """Mutations of a function by key."""
    if function.name.rpartition(".")[2] in ("__repr__", "__str__"):
        return {}
    types = {
        id(below)
        for node in function.form.nodes
        if _called(node) in ("isinstance", "issubclass", "cast")
        for argument in node.args[1 if _called(node) != "cast" else 0 :][:1]  # type: ignore[attr-defined]
        for below in ast.walk(argument)
    }
    found = [
        Mutation(index, category, operator, target, text)
        for index, node in enumerate(function.form.nodes)
        if id(node) not in types
        for category, operator, target, text in _replacements(node, function.name)
    ]
    return {each.key: each for each in found}


def _replacements(node: ast.AST, function: str) -> Iterator[tuple[str, str, ast.AST, str]]:  # noqa: PLR0912
    if isinstance(node, ast.Compare):
        for place, kind in enumerate(node.ops):
            if other := _COMPARISONS.get(type(kind)):
                operators = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                yield "comparison", f"{place}", node, f"({_changed(node, ops=operators)})"
    elif isinstance(node, ast.BinOp):
        if type(node.op) in _ARITHMETIC and not (_is_string(node.left) or _is_string(node.right)):
            yield "arithmetic", "swap", node, f"({_changed(node, op=_ARITHMETIC[type(node.op)]())})"
    elif isinstance(node, ast.AugAssign):
        if type(node.op) in _ARITHMETIC and not _is_string(node.value):
            yield "arithmetic", "swap", node, _changed(node, op=_ARITHMETIC[type(node.op)]())
        yield "statement", "drop", node, "pass"
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield "constant", "+1", node, f"({node.value + 1})"
        yield "constant", "-1", node, f"({node.value - 1})"
    elif isinstance(node, ast.BoolOp):
        other_operator = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and/or", "swap", node, f"({_changed(node, op=other_operator)})"
    elif isinstance(node, ast.Return):
        yield from _returns(node)
    elif isinstance(node, ast.Call) and (name := _called(node)) in _SWAPS:
        field_name = "attr" if isinstance(node.func, ast.Attribute) else "id"
        swapped = ast.parse(_changed(node.func, **{field_name: _SWAPS[name]}), mode="eval").body
        yield "min/max", name, node, f"({_changed(node, func=swapped)})"
    elif _can_be_dropped(node, function):
        yield "statement", "drop", node, "pass"
    conditions = [node.test] if isinstance(node, ast.If | ast.While | ast.IfExp) else getattr(node, "ifs", [])
    for place, condition in enumerate(conditions):
        if isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not):
            yield "condition", f"{place}", condition, f"({ast.unparse(condition.operand)})"
        elif not isinstance(condition, ast.Compare) or isinstance(condition.ops[0], _FLIPS):
            yield "condition", f"{place}", condition, f"(not ({ast.unparse(condition)}))"


def _changed(node: ast.AST, **fields: Any) -> str:
    """Source of a node with other fields."""
    changed = copy.copy(node)
    vars(changed).update(fields)
    return ast.unparse(changed)


def _returns(node: ast.Return) -> Iterator[tuple[str, str, ast.AST, str]]:
    value = node.value
    if isinstance(value, ast.Constant):
        if isinstance(value.value, bool):
            yield "return", "flip", node, f"return {not value.value}"
        return
    if value is None:
        return
    negation = isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not)
    if negation or isinstance(value, ast.Compare | ast.BoolOp) or _called(value) in _TRUTH_CALLS:
        yield "return", "True", node, "return True"
        yield "return", "False", node, "return False"
    else:
        yield "return", "None", node, "return None"


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _can_be_dropped(node: ast.AST, function: str) -> bool:
    """Whether the function runs on without the statement; a name that is never bound is no mutant worth a run."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call) and not _is_message(node.value)
    if isinstance(node, ast.Raise):
        return node.exc is not None and "NotImplementedError" not in ast.unparse(node.exc)
    if isinstance(node, ast.Assign):
        bound_once = function.endswith("__init__") and any(isinstance(each, ast.Attribute) for each in node.targets)
        return not bound_once and all(isinstance(each, ast.Attribute | ast.Subscript) for each in node.targets)
    return False


def mutate(source: str, path: str, name: str, key: str) -> tuple[str, int, str, str]:
    """Apply a mutation: source of the module, line, text before, text after."""
    function = next(each for each in functions_of(source, path, "") if each.name == name)
    mutation = mutations(function)[key]
    target: Any = mutation.target
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    begin, end = starts[target.lineno - 1] + target.col_offset, starts[target.end_lineno - 1] + target.end_col_offset
    raw = source.encode()
    changed = raw[:begin] + mutation.text.encode() + raw[end:]
    return changed.decode(), target.lineno, " ".join(raw[begin:end].decode().split()), mutation.text


# --- Pairs of functions ----------------------------------------------------------------------------------------------


@dataclass
class Names:
    """Table of names in the changelog: modules old to new, and names old to new in each new module."""

    modules: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    names: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))

    def paths(self, old: str) -> set[str]:
        """Files that a file became; a file that the table does not list keeps its name."""
        return self.modules.get(old) or {old}

    def translate(self, name: str, path: str) -> set[str]:
        """What an old name may be in a file of the new checkout."""
        spelled = name
        for pattern, text in SPELLING.items():
            spelled = re.sub(pattern, text, spelled)
        return {name, spelled} | self.names[path][name]


def read_names(changelog: str) -> Names:
    """Read the section "Names" of the changelog."""
    table = Names()
    section = re.split(r"\nNames\n~+\n", changelog)[-1].split("\n\n")
    text = "\n".join(part for part in section if part.startswith("* "))
    for lines in re.split(r"^\* ", text, flags=re.MULTILINE):
        entry = " ".join(lines.split())
        where, colon, renames = entry.partition(": ")
        if colon and where.endswith(".py"):
            for rename in renames.split(", "):
                old, _, new = rename.partition(" → ")
                table.names[_located(where)][old].add(new.rstrip("."))
        elif " → " in entry:
            old, _, new = entry.partition(" → ")
            for path in old.split(", "):
                table.modules[_located(path)].add(_located(new))
    return table


def _located(path: str) -> str:
    return path if path.startswith("training/") else f"mlesam_ros/{path}"


def pair(old: dict[str, Function], new: dict[str, Function], table: Names) -> list[tuple[Function, Function]]:
    """Functions of equal normal form that also agree in names or place; the best pairs first, one to one."""
    by_shape: dict[str, list[Function]] = defaultdict(list)
    for function in new.values():
        by_shape[function.form.shape].append(function)
    scored = []
    for first in old.values():
        for second in by_shape[first.form.shape]:
            place = second.path in table.paths(first.path)
            parts, other = first.name.split("."), second.name.split(".")
            name = other[-1] in table.translate(parts[-1], second.path)
            around = len(parts) == len(other) and other[0] in table.translate(parts[0], second.path)
            mine = set().union(*(table.translate(each, second.path) for each in first.form.names))
            theirs = set(second.form.names)
            common = len(mine & theirs) / max(len(theirs), 1)
            if (name and place) or (name and common >= 0.5) or (place and common >= 0.6):
                scored.append((-(2 * place + 2 * name + around + common), first.key, second.key))
    pairs: list[tuple[Function, Function]] = []
    used: set[str] = set()
    for _, first_key, second_key in sorted(scored):
        if not {f"old {first_key}", f"new {second_key}"} & used:
            used |= {f"old {first_key}", f"new {second_key}"}
            pairs.append((old[first_key], new[second_key]))
    return pairs


# --- Sample ----------------------------------------------------------------------------------------------------------


def draw(pairs: list[tuple[Function, Function]], seed: int, count: int) -> list[Json]:
    """Draw mutants: equal shares for the areas, what an area lacks from the others, PER_FUNCTION of a function.

    The order depends on the seed and the names in the old checkout alone: a pair that disappears changes nothing but
    its own mutants.
    """
    ranked: dict[str, list[tuple[str, Json]]] = {area: [] for area in AREAS}
    for old, new in pairs:
        by_category: dict[str, list[str]] = defaultdict(list)
        of_old, of_new = mutations(old), mutations(new)
        for key in of_old.keys() & of_new.keys():
            by_category[of_old[key].category].append(key)
        if len(by_category) > 1 and all(key.endswith(":None") for key in by_category["return"]):
            del by_category["return"]  # almost any test kills `return None`
        for category, keys in by_category.items():
            key = min(keys, key=lambda each: _rank(seed, old.key, each))
            mutant: Json = {"area": new.area, "category": category, "key": key}
            mutant |= {"old": {"path": old.path, "function": old.name}, "new": {"path": new.path, "function": new.name}}
            ranked[new.area].append((_rank(seed, old.key, category), mutant))
    chosen: dict[str, list[Json]] = {}
    for area, entries in ranked.items():
        taken: Counter[str] = Counter()
        chosen[area] = []
        for _, mutant in sorted(entries, key=lambda entry: entry[0]):
            name = f"{mutant['old']['path']}:{mutant['old']['function']}"
            if taken[name] < PER_FUNCTION:
                taken[name] += 1
                chosen[area].append({"id": f"{name}:{mutant['key']}", **mutant})
    quota = dict.fromkeys(AREAS, 0)
    while sum(quota.values()) < min(count, sum(map(len, chosen.values()))):
        area = min((each for each in AREAS if quota[each] < len(chosen[each])), key=lambda each: quota[each])
        quota[area] += 1
    return [mutant for area in AREAS for mutant in chosen[area][: quota[area]]]


def _rank(seed: int, *parts: str) -> str:
    return hashlib.sha256(":".join((str(seed), *parts)).encode()).hexdigest()


def sample(given: argparse.Namespace) -> None:
    """Command `sample`."""
    old, new = functions(given.old), functions(given.new)
    table = read_names((given.new / "CHANGELOG.rst").read_text("utf-8"))
    pairs = pair(old, new, table)
    executed = [
        {name for test in read_trace(path).values() if test["outcome"] == "passed" for name in test["functions"]}
        for path in given.traces
    ]
    tested = [(a, b) for a, b in pairs if a.key in executed[0] or b.key in executed[1]]
    mutants = draw(tested, given.seed, given.count)
    for mutant in mutants:
        for side, checkout in (("old", given.old), ("new", given.new)):
            place = mutant[side]
            source = (checkout / place["path"]).read_text("utf-8")
            _, place["line"], place["before"], place["after"] = mutate(
                source, place["path"], place["function"], mutant["key"]
            )
    areas = {
        area: {
            "functions of the old checkout": sum(each.area == area for each in old.values()),
            "functions of the new checkout": sum(each.area == area for each in new.values()),
            "pairs of equal normal form": sum(each.area == area for _, each in pairs),
            "of them executed by tests": sum(each.area == area for _, each in tested),
            "mutants": sum(each["area"] == area for each in mutants),
        }
        for area in AREAS
    }
    result = {"command": f"mutation_sample.py sample --seed {given.seed} --count {given.count}", "seed": given.seed}
    result |= {"old": commit(given.old), "new": commit(given.new), "areas": areas, "mutants": mutants}
    _write(given.out, result)
    for area, counts in areas.items():
        print(f"{area:14}", *(f"{name}: {number};" for name, number in counts.items()))


# --- Child processes that run tests ----------------------------------------------------------------------------------


class SlowTestError(BaseException):
    """A test exceeded SLOW seconds."""


class Guard:
    """pytest plugin: skips tests that initialize rclpy or start processes which would import unmutated modules."""

    def __init__(self) -> None:
        original = subprocess.Popen.__init__

        def start(process: Any, args: Any, *rest: Any, **options: Any) -> None:
            program = args[0] if isinstance(args, list | tuple) else str(args).split()[0]
            if Path(os.fsdecode(program)).name.startswith(PROGRAMS):
                _skip("starts a process")
            original(process, args, *rest, **options)

        subprocess.Popen.__init__ = start  # type: ignore[method-assign, assignment]
        if "rclpy" in sys.modules:
            context: Any = importlib.import_module("rclpy.context")
            context.Context.init = lambda *args, **options: _skip("live ROS")


def _skip(reason: str) -> None:
    importlib.import_module("pytest").skip(reason)


class Tracer:
    """pytest plugin: duration, outcome and executed functions of each test."""

    def __init__(self) -> None:
        self.tests: dict[str, Json] = {}
        self._current: set[str] = set()
        self._imports: set[str] = set()
        self._fixtures: dict[Any, set[str]] = defaultdict(set)
        builtins.__dict__["_executed_function"] = self._note
        signal.signal(signal.SIGPROF, self._stop)

    def _note(self, name: str) -> None:
        self._current.add(name)

    @staticmethod
    def _stop(number: int, frame: FrameType | None) -> None:
        raise SlowTestError

    def pytest_collection_finish(self) -> None:
        """Functions that imports execute count for all tests of the file."""
        self._imports = set(self._current)

    def pytest_runtest_protocol(self, item: Any) -> Generator[None, Any, Any]:
        """Collect the functions that the test executes."""
        self._current = set()
        test = self.tests[item.nodeid] = {"outcome": "passed"}
        began = sum(os.times()[:4])
        signal.setitimer(signal.ITIMER_PROF, SLOW)
        result = yield
        signal.setitimer(signal.ITIMER_PROF, 0)
        test |= {"seconds": round(sum(os.times()[:4]) - began, 2), "functions": sorted(self._current | self._imports)}
        return result

    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        """Collect what the fixture executes, for every test that uses it."""
        around, self._current = self._current, set()
        try:
            return (yield)
        finally:
            self._fixtures[fixturedef] |= self._current
            self._current |= around

    def pytest_runtest_teardown(self, item: Any) -> None:
        """Add the functions of fixtures that were set up for an earlier test."""
        for fixture in item._request._fixture_defs.values():
            self._current |= self._fixtures[fixture]

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note anything but a pass."""
        test = self.tests[report.nodeid]
        if report.outcome != "passed":
            slow = "SlowTestError" in str(report.longrepr)
            test["outcome"] = "slow" if slow else report.outcome
            test["why"] = str(report.longrepr)[-300:]


class Selector:
    """pytest plugin: runs the chosen tests in the given order, and remembers which one failed."""

    def __init__(self, chosen: list[str], known: list[str]) -> None:
        self.failed = ""
        self.ran = 0
        self._order = {name: place for place, name in enumerate(chosen)}
        self._known = set(known)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Sort and select. A test whose name is unknown may be a chosen one that a mutation has renamed."""
        items[:] = sorted(
            (item for item in items if item.nodeid in self._order or item.nodeid not in self._known),
            key=lambda item: self._order.get(item.nodeid, len(self._order)),
        )

    def pytest_collectreport(self, report: Any) -> None:
        """Remember a file that cannot be imported."""
        if report.failed:
            self.failed = self.failed or f"{report.nodeid} (import)"

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Remember the first failure."""
        self.ran += report.when == "call"
        if report.failed:
            self.failed = self.failed or report.nodeid


def _compile_changed(modules: dict[str, CodeType]) -> None:
    """Have imports of the given files execute the given code."""
    original = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, name: str) -> CodeType | None:
        return modules.get(os.path.realpath(loader.get_filename(name))) or original(loader, name)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]


@cache
def _instrumented_modules() -> dict[str, CodeType]:
    """Code of the modules of all areas, whose functions report their names when they are called."""
    paths: dict[str, dict[int, str]] = defaultdict(dict)
    for function in functions(Path.cwd()).values():
        paths[function.path][function.node.lineno] = function.key
    modules = {}
    for path, by_line in paths.items():
        tree = ast.parse(Path(path).read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.lineno in by_line:
                call = ast.parse(f"_executed_function({by_line[node.lineno]!r})").body[0]
                for below in ast.walk(call):
                    ast.copy_location(below, node.body[0])
                node.body.insert(1 if ast.get_docstring(node) is not None else 0, call)
        modules[os.path.realpath(path)] = compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)
    return modules


def _child(request: Json) -> Json:
    """Run tests in this process, which has imported nothing of the project yet."""
    pytest: Any = importlib.import_module("pytest")
    hypothesis: Any = importlib.import_module("hypothesis")
    hypothesis.settings.register_profile("mutants", database=None, derandomize=True, deadline=None)
    hypothesis.settings.load_profile("mutants")
    arguments = ["-q", "--tb=native", "-p", "no:cacheprovider", f"--basetemp={request['scratch']}/files"]
    if request["kind"] == "trace":
        tracer = Tracer()
        _compile_changed(_instrumented_modules())
        code = pytest.main([*arguments, request["file"]], plugins=[Guard(), tracer])
        return {"code": int(code), "tests": tracer.tests}
    selector = Selector(request["tests"], request["known"])
    if "path" in request:
        path = Path(request["path"])
        changed, *_ = mutate(path.read_text("utf-8"), request["path"], request["function"], request["key"])
        _compile_changed({os.path.realpath(path): compile(changed, path, "exec", dont_inherit=True)})
    arguments += ["-x"] * (request["kind"] == "mutant") + list(dict.fromkeys(map(_file, request["tests"])))
    code = pytest.main(arguments, plugins=[Guard(), selector])
    return {"code": int(code), "failed": selector.failed, "ran": selector.ran}


def _file(test: str) -> str:
    return test.split("::", maxsplit=1)[0]


def serve() -> None:
    """Answer requests, one line of JSON each: a fork of this process runs the tests within the time limit."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    pytest: Any = importlib.import_module("pytest")
    wrapper = pytest.hookimpl(wrapper=True)
    for hook in ("pytest_runtest_protocol", "pytest_fixture_setup"):
        setattr(Tracer, hook, wrapper(getattr(Tracer, hook)))
    Tracer.pytest_runtest_teardown = pytest.hookimpl(tryfirst=True)(Tracer.pytest_runtest_teardown)  # type: ignore[method-assign]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        request = json.loads(line)
        if request["kind"] == "trace":
            _instrumented_modules()
        gc.freeze()
        scratch = Path(tempfile.mkdtemp(prefix="mutant-"))
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _fork(request | {"scratch": str(scratch)}, scratch)
        answer = _wait(pid, request["limit"])
        with contextlib.suppress(OSError, ValueError):
            answer |= json.loads((scratch / "result.json").read_text("utf-8"))
        with contextlib.suppress(OSError):
            answer["output"] = (scratch / "output.txt").read_text("utf-8", "replace")[-3000:]
        shutil.rmtree(scratch, ignore_errors=True)
        print(json.dumps(answer | {"seconds": round(time.monotonic() - began, 2)}), file=answers, flush=True)


def _fork(request: Json, scratch: Path) -> None:
    code = 1
    try:
        os.setsid()
        if "processor_limit" in request:
            resource.setrlimit(resource.RLIMIT_CPU, (request["processor_limit"],) * 2)
        output = os.open(scratch / "output.txt", os.O_WRONLY | os.O_CREAT)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        result = _child(request)
        (scratch / "result.json").write_text(json.dumps(result), encoding="utf-8")
        code = 0
    finally:
        os._exit(code)


def _wait(pid: int, limit: float) -> Json:
    """Wait for the child, kill its session at the limit."""
    ends = time.monotonic() + limit
    expired = False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > ends and not expired:
            expired = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return {"expired": expired, "status": status, "processor": round(usage.ru_utime + usage.ru_stime, 2)}


# --- Parent process --------------------------------------------------------------------------------------------------


def answer_all(checkout: Path, requests: list[Json], jobs: int, done: Callable[[Json, Json], None]) -> None:
    """Have `jobs` servers answer the requests; `done` is called with each request and answer, one at a time."""
    waiting: queue.SimpleQueue[Json] = queue.SimpleQueue()
    for request in requests:
        waiting.put(request)
    lock = threading.Lock()
    variables = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MLESAM_REQUIRE_MESSAGES": "1"}
    variables |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def work() -> None:
        command = [str(checkout / ".venv/bin/python"), str(Path(__file__).resolve()), "serve"]
        with subprocess.Popen(
            command, cwd=checkout, env=os.environ | variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdin and server.stdout
            with contextlib.suppress(queue.Empty):
                while True:
                    request = waiting.get_nowait()
                    print(json.dumps(request), file=server.stdin, flush=True)
                    answer = json.loads(server.stdout.readline())
                    with lock:
                        done(request, answer)
            server.stdin.close()

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def trace(given: argparse.Namespace) -> None:
    """Command `trace`."""
    checkout = given.checkout.resolve()
    files = [path.relative_to(checkout).as_posix() for path in sorted((checkout / "test").rglob("test_*.py"))]
    files.sort(key=lambda file: not file.startswith(sum(TESTS_OF_AREA.values(), ())))
    tests = read_trace(given.out) if given.out.exists() else {}
    earlier = _read(given.out)["seconds"] if given.out.exists() else 0
    traced = {_file(name) for name in tests}
    problems: dict[str, str] = {}
    began = time.monotonic()

    def done(request: Json, answer: Json) -> None:
        tests.update(answer.get("tests", {}))
        if answer.get("code") not in (0, 1, 5):
            problems[request["file"]] = "time limit" if answer["expired"] else answer.get("output", "")[-600:]
        names = sorted({name for test in tests.values() for name in test["functions"]})
        places = {name: place for place, name in enumerate(names)}
        short = {n: test | {"functions": [places[name] for name in test["functions"]]} for n, test in tests.items()}
        result = {"checkout": commit(checkout), "seconds": earlier + round(time.monotonic() - began)}
        given.out.write_text(json.dumps(result | {"problems": problems, "functions": names, "tests": short}), "utf-8")
        print(f"{answer['seconds']:7.1f} s  {request['file']}: {len(answer.get('tests', {}))} tests", flush=True)

    requests = [{"kind": "trace", "file": file, "limit": FILE_LIMIT} for file in files if file not in traced]
    answer_all(checkout, requests, given.jobs, done)
    print(dict(Counter(test["outcome"] for test in tests.values())), f"files without a result: {sorted(problems)}")


def read_trace(path: Path) -> dict[str, Json]:
    """Tests of a file of `trace`."""
    content = _read(path)
    for test in content["tests"].values():
        test["functions"] = {content["functions"][place] for place in test["functions"]}
    return content["tests"]


def tests_for(function: str, area: str, traced: dict[str, Json], budget: float) -> list[str]:
    """Passing tests that execute the function: those of the area first, then by file, the shortest first."""
    files: dict[str, list[str]] = defaultdict(list)
    for name, test in traced.items():
        if test["outcome"] == "passed" and test["seconds"] <= SLOW and function in test["functions"]:
            files[_file(name)].append(name)
    durations = {file: sum(traced[name]["seconds"] for name in names) for file, names in files.items()}
    ordered = sorted(files, key=lambda file: (not file.startswith(TESTS_OF_AREA[area]), durations[file], file))
    chosen: list[str] = []
    total = 0.0
    for file in ordered:
        for name in sorted(files[file], key=lambda each: traced[each]["seconds"]):
            total += traced[name]["seconds"]
            if total > budget and chosen:
                return chosen
            chosen.append(name)
    return chosen


def run(given: argparse.Namespace) -> None:
    """Command `run`."""
    checkout = given.checkout.resolve()
    traced = read_trace(given.trace)
    state = _read(given.out) if given.out.exists() else {"results": {}}
    results: dict[str, Json] = state["results"]
    state |= {"checkout": commit(checkout), "side": given.side, "machine": machine()}
    sampled = _read(given.sample)
    began, earlier = time.monotonic(), state.get("seconds", 0)

    def request(mutant: Json, kind: str, budget: float = given.budget) -> Json:
        place = mutant[given.side]
        tests = tests_for(f"{place['path']}:{place['function']}", mutant["area"], traced, budget)
        files = {_file(name) for name in tests}
        expected = sum(traced[name]["seconds"] for name in tests)
        every = tests_for(f"{place['path']}:{place['function']}", mutant["area"], traced, math.inf)
        asked = {
            "kind": kind,
            "id": mutant["id"],
            "tests": tests,
            "left out": len(every) - len(tests),
            "known": [n for n in traced if _file(n) in files],
        }
        asked |= {"limit": FILE_LIMIT + 15 * expected, "processor_limit": int(60 + 4 * expected), "budget": budget}
        return asked | (
            {"path": place["path"], "function": place["function"], "key": mutant["key"]} if kind == "mutant" else {}
        )

    def done(asked: Json, answer: Json) -> None:
        result = _result(asked, answer)
        if asked["kind"] == "control":
            state.setdefault("controls", {})[asked["id"]] = result
        else:
            results[asked["id"]] = result
        state["seconds"] = round(earlier + time.monotonic() - began)
        _write(given.out, state)
        print(
            f"{answer['seconds']:7.1f} s  {asked['kind']} {result['outcome']} {asked['id']}  {result['killer']}",
            flush=True,
        )

    def is_open(mutant: Json, budget: float) -> bool:
        found = results.get(mutant["id"])
        truncated = found and found["outcome"] == "survived" and found.get("tests beyond the budget")
        return not found or bool(truncated and found["budget"] < budget)

    missing = [mutant for mutant in sampled["mutants"] if is_open(mutant, given.budget)]
    requests = [request(mutant, "mutant") for mutant in missing]
    for asked in [asked for asked in requests if not asked["tests"]]:
        results[asked["id"]] = {"outcome": "survived", "killer": "", "seconds": 0.0, "tests": 0}
    controls = [request(mutant, "control") for mutant in sampled["mutants"][:: len(sampled["mutants"]) // CONTROLS]]
    controls = [asked for asked in controls if asked["tests"] and asked["id"] not in state.get("controls", {})]
    answer_all(checkout, [asked for asked in requests if asked["tests"]] + controls, given.jobs, done)
    if given.other:
        killed = {name for name, result in _read(given.other)["results"].items() if result["outcome"] == "killed"}
        again = [each for each in sampled["mutants"] if each["id"] in killed and is_open(each, math.inf)]
        answer_all(checkout, [request(each, "mutant", math.inf) for each in again], given.jobs, done)
    state["unreliable"] = _unreliable(checkout, results, traced, given.jobs)
    _write(given.out, state)
    counts = Counter(results[mutant["id"]]["outcome"] for mutant in sampled["mutants"])
    print(f"{dict(counts)} in {state['seconds']} s; controls: {_killed(state['controls'])} failed")
    print(f"tests that killed a mutant, but fail without one: {state['unreliable']}")


def _result(asked: Json, answer: Json) -> Json:
    """Outcome of a mutant, and the test that killed it."""
    killer = answer.get("failed", "")
    if answer["expired"]:
        killer = "time limit"
    elif answer["status"]:
        number = answer["status"] & 127
        killer = signal.Signals(number).name if number else "crash"
    killed = bool(killer) or answer["code"] not in (0, 5)
    result = {"outcome": "killed" if killed else "survived", "killer": killer, "seconds": answer["seconds"]}
    result |= {"processor seconds": answer["processor"]}
    result |= {"budget": asked["budget"], "tests": len(asked["tests"]), "tests beyond the budget": asked["left out"]}
    return result | ({"output": answer.get("output", "")[-500:]} if killed and not answer.get("failed") else {})


def _killed(results: dict[str, Json]) -> int:
    return sum(result["outcome"] == "killed" for result in results.values())


def _unreliable(checkout: Path, results: dict[str, Json], traced: dict[str, Json], jobs: int) -> list[str]:
    """Tests that killed mutants and fail without a mutation, too."""
    files: dict[str, list[str]] = defaultdict(list)
    for killer in {result["killer"] for result in results.values() if "::" in result["killer"]}:
        files[_file(killer)].append(killer)
    failed = []

    def done(asked: Json, answer: Json) -> None:
        if answer.get("code") != 0:
            failed.append(answer.get("failed") or asked["tests"][0])

    requests: list[Json] = [{"kind": "check", "tests": names, "limit": FILE_LIMIT} for names in files.values()]
    for asked in requests:
        asked["known"] = [name for name in traced if _file(name) == _file(asked["tests"][0])]
    answer_all(checkout, requests, jobs, done)
    return failed


def compare(given: argparse.Namespace) -> None:
    """Command `compare`."""
    sampled = _read(given.sample)
    sides = dict(zip(("old", "new"), map(_read, given.runs), strict=True))
    rows = []
    for area in [*AREAS, "all"]:
        row: Json = {"area": area, "mutants": 0, "old": 0, "new": 0}
        for mutant in sampled["mutants"]:
            if area in ("all", mutant["area"]):
                row["mutants"] += 1
                for side, ran in sides.items():
                    row[side] += ran["results"][mutant["id"]]["outcome"] == "killed"
        rows.append(row)
    mutants = [
        mutant | {"results": {side: ran["results"][mutant["id"]] for side, ran in sides.items()}}
        for mutant in sampled["mutants"]
    ]
    result = {key: sampled[key] for key in ("command", "seed", "areas")}
    result |= {
        side: {key: ran.get(key) for key in ("checkout", "machine", "seconds", "unreliable")}
        | {"controls": len(ran["controls"]), "failed controls": _killed(ran["controls"])}
        for side, ran in sides.items()
    }
    _write(given.out, result | {"killed": rows, "mutants": mutants})
    print("| area | mutants | killed, old | killed, new |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['area']} | {row['mutants']} | {row['old']} | {row['new']} |")
    for title, wanted in (
        ("survived in both", ("survived", "survived")),
        ("killed in the old checkout only", ("killed", "survived")),
        ("killed in the new checkout only", ("survived", "killed")),
    ):
        print(f"\n{title}:")
        for mutant in mutants:
            found = mutant["results"]
            if tuple(found[side]["outcome"] for side in sides) == wanted:
                place = mutant["new"]
                print(
                    f"- {place['path']}:{place['line']} {place['function']}: `{place['before']}` → `{place['after']}`"
                )
                print(f"  old {found['old']['killer'] or found['old']['tests']}, ", end="")
                print(f"new {found['new']['killer'] or found['new']['tests']}")


def commit(checkout: Path) -> str:
    """Commit of a checkout, with a plus sign if its files differ from it."""
    git = ["git", "-C", str(checkout)]
    name = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    folders = ["mlesam_ros", "training", "test"]
    changed = subprocess.run(
        [*git, "status", "--porcelain", *folders], capture_output=True, text=True, check=True
    ).stdout
    return name + "+" * bool(changed.strip())


def machine() -> str:
    """Processor and number of cores."""
    found = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    )
    return f"{found[1] if found else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def _read(path: Path) -> Json:
    return json.loads(path.read_text("utf-8"))


def _write(path: Path, content: Json) -> None:
    path.with_suffix(".tmp").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    path.with_suffix(".tmp").replace(path)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    options: dict[str, Json] = {
        "--checkout": {"type": Path},
        "--old": {"type": Path},
        "--new": {"type": Path},
        "--trace": {"type": Path},
        "--traces": {"type": Path, "nargs": 2, "metavar": ("OLD", "NEW")},
        "--runs": {"type": Path, "nargs": 2, "metavar": ("OLD", "NEW")},
        "--sample": {"type": Path},
        "--out": {"type": Path},
        "--side": {"choices": ("old", "new")},
    }
    wanted: dict[str, tuple[Callable[[argparse.Namespace], None], str]] = {
        "trace": (trace, "--checkout --out"),
        "sample": (sample, "--old --new --traces --out"),
        "run": (run, "--side --checkout --sample --trace --out"),
        "compare": (compare, "--sample --runs --out"),
    }
    for name, (function, names) in wanted.items():
        command = commands.add_parser(name, help=function.__doc__)
        command.set_defaults(function=function)
        for option in names.split():
            command.add_argument(option, required=True, **options[option])
        if name in ("trace", "run"):
            command.add_argument("--jobs", type=int, default=2, help="tests that run side by side")
        if name == "run":
            command.add_argument(
                "--budget", type=float, default=30.0, help="seconds of processor time of a mutant's tests"
            )
            command.add_argument(
                "--other", type=Path, help="results of the other side: survivors that it kills run all tests"
            )
        if name == "sample":
            command.add_argument("--seed", type=int, default=16)
            command.add_argument("--count", type=int, default=100)
    commands.add_parser("serve").set_defaults(function=lambda given: serve())
    given = parser.parse_args()
    given.function(given)


if __name__ == "__main__":
    main()
