# SPDX-License-Identifier: Apache-2.0
"""The long form's figures: a line of build/fuzz/<seed>.jsonl for each part, and a table at the end of the run."""

import json
import os
from pathlib import Path

from figures import read, summed, table
from fuzz_runner import FIGURES

REPORT = Path(__file__).parents[2] / "build" / "fuzz" / f"{os.environ.get('MLESAM_FUZZ_SEED', '0')}.jsonl"
LONG = "MLESAM_FUZZ" in os.environ


def pytest_configure(config):
    if LONG and not hasattr(config, "workerinput"):
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.unlink(missing_ok=True)


def pytest_runtest_logreport(report):
    """At once, so that nothing is lost with a process that ends; of several processes in the first one alone."""
    for key, value in report.user_properties if LONG and report.when == "call" else ():
        if key == FIGURES and "PYTEST_XDIST_WORKER" not in os.environ:
            with REPORT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(value) + "\n")


def pytest_terminal_summary(terminalreporter):
    if LONG and REPORT.exists():
        terminalreporter.section("damage")
        terminalreporter.write_line(table(summed(read(REPORT))))
