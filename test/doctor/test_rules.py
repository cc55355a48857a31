# SPDX-License-Identifier: Apache-2.0
"""The rules, the code that applies them and docs/doctor.md agree."""

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
def test_every_rule_is_documented(name):
    kind = RULES[name]
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}`, ")]
    label, message, cause = (cell.strip() for cell in row.strip("|").split(" | "))
    assert label == f"`{name}`, {kind.severity}" and kind.severity in SEVERITIES
    assert message == shown(kind.message)
    assert len(cause) > 20 and cause.endswith((".", "`"))


def test_page_has_no_other_rules():
    assert re.findall(r"^\| `(\w+)`, ", PAGE, re.MULTILINE) == list(RULES)


def test_every_rule_is_used():
    words = set()
    for path in SOURCES:
        if path.name != "catalogue.py":
            tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            words |= {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert set(RULES) <= words


def test_errors_and_warnings_have_a_remedy():
    for kind in RULES.values():
        assert kind.remedy or kind.severity == "note"


def test_missing_values_and_unknown_rules_raise():
    found = finding("no_publisher", "lidar", topic="/points", modality="lidar", instead="")
    assert found.message == "no publisher on /points." and "lidar.topic" in found.remedy
    with pytest.raises(KeyError):
        finding("no_publisher", "lidar")
    with pytest.raises(KeyError):
        finding("no_such_thing", "lidar")
