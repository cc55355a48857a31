"""The catalog, the code that finds and the page that explains say the same."""

import ast
import re
from pathlib import Path

import pytest

from mlesam_ros.doctor.rules import RULES, finding
from mlesam_ros.errors import SEVERITIES

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs/doctor.md").read_text(encoding="utf-8")
SOURCES = [*(CHECKOUT / "mlesam_ros/doctor").glob("*.py"), *(CHECKOUT / "mlesam_ros/ros").glob("*.py")]


def shown(template: str) -> str:
    return re.sub(r"\{[^}]*\}", "…", template)


@pytest.mark.parametrize("name", RULES)
def test_every_finding_is_explained(name):
    kind = RULES[name]
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}`, ")]
    label, message, cause, remedy = (cell.strip() for cell in row.strip("|").split(" | "))
    assert label == f"`{name}`, {kind.severity}" and kind.severity in SEVERITIES
    assert message == shown(kind.message)
    assert remedy == (shown(kind.remedy) or "none needed")
    assert len(cause) > 20 and cause.endswith((".", "`"))


def test_nothing_else_is_explained():
    assert re.findall(r"^\| `(\w+)`, ", PAGE, re.MULTILINE) == list(RULES)


def test_every_finding_is_found_somewhere():
    words = set()
    for path in SOURCES:
        if path.name != "catalogue.py":
            tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            words |= {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert set(RULES) <= words


def test_an_error_or_a_warning_has_a_remedy():
    for kind in RULES.values():
        assert kind.remedy or kind.severity == "note"


def test_what_is_missing_is_missed():
    found = finding("no_publisher", "lidar", topic="/points", modality="lidar", instead="")
    assert found.message == "no publisher on /points." and "lidar.topic" in found.remedy
    with pytest.raises(KeyError):
        finding("no_publisher", "lidar")
    with pytest.raises(KeyError):
        finding("no_such_thing", "lidar")
