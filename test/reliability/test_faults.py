# SPDX-License-Identifier: Apache-2.0
"""Failing sensors, alone and in pairs, in separate processes: masks continue, faults are reported, sensors recover.

`make faults` measures times. This test checks only the order of events, so that it passes on a busy machine.
"""

import pytest

pytest.importorskip("rclpy")
from faults import GAP, mixed, report, same, singles, watched, written
from faulty import FAULTS
from outcome import Outcome, tolerated

from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES

CASES = [
    {CAMERA: "stopped"},
    {CAMERA: "killed"},
    {CAMERA: "frozen stamp"},
    {CAMERA: "clock 3 h behind"},
    {CAMERA: "delayed 1.5 s"},
    {CAMERA: "jittered 0 to 0.4 s"},
    {DEPTH: "delayed 0.3 s"},
    {DEPTH: "duplicated"},
    {EVENT: "ended"},
    {EVENT: "bursts of 1 s"},
    {LIDAR: "wrong QoS"},
    {LIDAR: "clock back by 2 s"},
    {CAMERA: "stopped", LIDAR: "frozen stamp"},
    {CAMERA: "clock 3 h ahead", EVENT: "stopped"},
]
NO_GAP = float("inf")


@pytest.fixture(scope="module")
def watch(tmp_path_factory, weights):
    with watched(tmp_path_factory.mktemp("faults"), weights) as made:
        yield made


@pytest.mark.parametrize("faults", CASES, ids=lambda faults: ", ".join(" ".join(f) for f in faults.items()))
def test_masks_continue_the_fault_is_reported_and_the_sensor_recovers(watch, faults):
    """Masks repeated offline are equal to the last pixel."""
    outcome = watch.case(faults, most=30.0, max_wait=60.0)
    assert outcome.wrong(NO_GAP) == []
    assert all(outcome.words[sensor] for sensor in set(faults) - tolerated(faults))


def test_cases_cover_every_fault_and_pair():
    assert len(singles()) == len(FAULTS) * len(MODALITIES)
    assert len(same()) == len(FAULTS) * 6 and all(len(case) == 2 for case in same())
    assert len({tuple(case.values()) for case in mixed()}) == len(FAULTS) * (len(FAULTS) - 1)


def test_only_delay_beside_a_delayed_primary_is_tolerated():
    late = "delayed 0.3 s"
    assert tolerated({CAMERA: late}) == {CAMERA}
    assert tolerated({LIDAR: late}) == set()
    assert tolerated({CAMERA: "stopped", LIDAR: late}) == {LIDAR}
    assert tolerated({CAMERA: late, LIDAR: late}) == {CAMERA, LIDAR}
    assert tolerated({CAMERA: late, LIDAR: "stopped"}) == {CAMERA}
    assert tolerated({CAMERA: "duplicated", LIDAR: late}) == set()


def test_report_has_the_worst_cases_and_failures():
    well = Outcome({CAMERA: "stopped"}, 0.3, 9, 0.2, 0.7, {CAMERA: "no message"}, 0.1, 0.2, 0.0, 20, 6, 6)
    late = Outcome({CAMERA: "delayed 0.3 s"}, 0.4, 9, 0.0, 0.0, {CAMERA: ""}, 0.1, 0.2, 0.0, 20, 6, 6)
    bad = Outcome({CAMERA: "stopped", LIDAR: "stopped"}, 5.0, 0, 0.2, masks=3, compared=6, equal=5)
    assert well.wrong(GAP) == late.wrong(GAP) == []
    assert len(bad.wrong(GAP)) == 6
    kinds = ("none", "single", "single", "same on two sensors")
    cases = [report(kind, case) for kind, case in zip(kinds, (well, well, late, bad), strict=True)]
    page = written({"device": "a machine", "versions": {"python": "3"}, "cases": cases})
    assert "| stopped | 0.30 | – | 5.00 | 0.20 | never | 0.10 | never | never |" in page
    assert "| delayed 0.3 s | 0.40 | – | – | – | – | 0.10 | – | 0.20 |" in page
    assert "23 of 24 masks equal" in page
    assert "Later than a second: 0 of 2 in ~/status, 1 of 2 in /diagnostics, 1 of 3 well." in page
    assert "only 0 masks while it lasted" in page
