# SPDX-License-Identifier: Apache-2.0
"""Findings of a rule of the doctor, and the rules that need a live graph."""

import re

from mlesam_ros.doctor.diagnosis import DoctorReport
from mlesam_ros.doctor.rules import RULES
from mlesam_ros.errors import Finding

LIVE = {
    "no_publisher", "empty_graph", "unreadable_type", "no_message", "qos_mismatch", "no_clock", "clock_unused",
    "several_publishers", "two_nodes", "transport_loss", "node_inactive",
}  # fmt: skip
"""Kinds whose remedy test/ros/test_live_remedies.py tries."""


def findings_of_rule(report: DoctorReport, kind: str) -> list[Finding]:
    """Findings whose severity, message and remedy are the kind's."""
    about = RULES[kind]

    def pattern(template: str) -> str:
        return ".*".join(map(re.escape, re.split(r"\{[^}]*\}", template)))

    return [
        found
        for found in report.findings
        if found.severity == about.severity
        and re.fullmatch(pattern(about.message), found.message)
        and re.fullmatch(pattern(about.remedy), found.remedy)
    ]
