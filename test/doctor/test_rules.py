# SPDX-License-Identifier: Apache-2.0
"""The rules, and the code that applies them."""

import ast
from pathlib import Path

import pytest

from mlesam_ros.doctor.rules import RULE_GROUPS, RULES, finding
from mlesam_ros.errors import SEVERITIES

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCES = [*(CHECKOUT / "mlesam_ros/doctor").glob("*.py"), *(CHECKOUT / "mlesam_ros/ros").glob("*.py")]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_a_severity_and_a_cause(name):
    assert RULES[name].severity in SEVERITIES
    assert len(RULES[name].cause) > 20 and RULES[name].cause.endswith(".")


def test_no_rule_is_in_two_groups():
    assert sum(map(len, RULE_GROUPS.values())) == len(RULES)


def test_every_rule_is_used():
    words = set()
    for path in SOURCES:
        if path.name != "rules.py":
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
