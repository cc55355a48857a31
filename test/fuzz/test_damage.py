# SPDX-License-Identifier: Apache-2.0
"""Good messages and files with seeded damage, in numbers: read or refused, in time and memory, and no mask of refuse.

MLESAM_FUZZ is how many cases are tried here, and a fiftieth as many in test_fuzz.py; by default some thousands, the
same ones every time. MLESAM_FUZZ_SEED chooses others. What is found says how to repeat it; a case that
ends the process does not, but the file `mark` in pytest's folder for the test holds its number.
"""

import math
import os
import time
from dataclasses import asdict

import pytest
from fuzz_runner import FIGURES, GULP, LONGEST, Attack
from targets import all_targets

from mlesam_ros.types import MESSAGE_TYPES, MODALITIES

DEFAULT = 8_000
CASES = int(os.environ.get("MLESAM_FUZZ", "0")) or DEFAULT
SEED = int(os.environ.get("MLESAM_FUZZ_SEED", "0"))
SHARES = {
    **{f"{modality} {kind.replace('/msg/', '/')}": 100 for modality, kinds in MESSAGE_TYPES.items() for kind in kinds},
    **{"sensor_msgs/CameraInfo": 20, "tf2_msgs/TFMessage": 20, "pcd file": 60, "still folder": 10},
    **{f"{kind} file": 5 for kind in ("rigs", "labels", "params", "training")},
    **{f"{kind} file": 4 for kind in (".mcap", ".mcap.zstd", ".db3", ".db3.zstd")},
    **{"bag folder": 4, "checkpoint": 0.5, "base weights": 10, "training state": 5},
}
"""Target → its share of all cases: most of what is quick."""
PART = 20_000
"""Cases of one test, so that two processes have as much to do."""


def parts():
    cases = {name: math.ceil(CASES * share / sum(SHARES.values())) for name, share in SHARES.items()}
    return [
        pytest.param(name, first, min(PART, cases[name] - first), id=f"{name} from {first}")
        for name in SHARES
        for first in range(0, cases[name], PART)
    ]


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return all_targets(tmp_path_factory.mktemp("damage"))


@pytest.fixture
def quiet(capfd):
    """The libraries that decode pictures tell the terminal of every one that they refuse."""
    yield
    capfd.readouterr()


@pytest.mark.parametrize(("name", "first", "cases"), parts())
def test_damage_is_read_or_refused(name, first, cases, targets, tmp_path, quiet, record_property):
    attack = Attack(name, targets[name], SEED, tmp_path / "mark")
    try:
        attack.run(first, cases)
    finally:
        record_property(FIGURES, asdict(attack.figures))
    assert cases < 100 or 0 < attack.figures.refused < cases, "it never got through, or was never noticed"


def test_every_target_has_a_share(targets):
    assert targets.keys() == SHARES.keys()
    assert {f"{m} {kind.replace('/msg/', '/')}" for m in MODALITIES for kind in MESSAGE_TYPES[m]} <= targets.keys()


class Bad:
    """Case 7 is trouble."""

    def __init__(self, trouble):
        self.trouble = trouble

    def case(self, rng):
        return rng.random()

    def run(self, case):
        self.cases = [*getattr(self, "cases", []), case]
        if len(self.cases) == 8:
            self.trouble()
        return False


def burn():
    end = time.process_time() + LONGEST * 1.1
    while time.process_time() < end:
        pass


@pytest.mark.parametrize(
    ("trouble", "words"),
    [(lambda: int("x"), "ValueError in test_damage.py"), (burn, "s of CPU"), (lambda: b"x" * int(GULP * 2**21), "MiB")],
    ids=["raises", "takes long", "takes memory"],
)
def test_trouble_is_found_with_the_number_of_its_case(trouble, words, tmp_path):
    attack = Attack("bad", Bad(trouble), 3, tmp_path / "mark")
    with pytest.raises(AssertionError, match=words) as caught:
        attack.run(0, 12)
    assert 'python test/fuzz/fuzz_runner.py "bad" 3 7' in str(caught.value)
    assert int((tmp_path / "mark").read_text()) == 11 and attack.figures.cases == 12


def test_the_same_number_is_the_same_case(tmp_path):
    first, second = Bad(int), Bad(int)
    Attack("some", first, 3, tmp_path / "mark").run(0, 5)
    Attack("some", second, 3, tmp_path / "mark").run(2, 3)
    assert first.cases[2:] == second.cases
