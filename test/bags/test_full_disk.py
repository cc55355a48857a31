# SPDX-License-Identifier: Apache-2.0
"""A full disk while a bag, a snapshot or an evaluation is written."""

from full_disk import run_on_a_small_disk

BAG = """
import sys
import numpy as np
from pathlib import Path
from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.errors import BagError

noise = np.random.default_rng(0)
path = Path(sys.argv[1]) / "bag"
try:
    with BagWriter(path) as bag:
        for second in range(1000):
            stamp = (second + 1) * 10**9
            bag.add_raw("/noise", "std_msgs/msg/String", stamp, noise.bytes(30_000))
except BagError as error:
    print(error)
with BagReader(path) as bag:
    found = [stamp for _, _, stamp, _ in bag.raw_messages()]
print(len(found), found == [(n + 1) * 10**9 for n in range(len(found))])
"""

SNAPSHOT = """
import sys
import numpy as np
from pathlib import Path
from mlesam_ros.ros.snapshot import BufferedMessage, RingBuffer, write_snapshot
from mlesam_ros.errors import BagError

ring, noise = RingBuffer(1e6, 10**9), np.random.default_rng(0)
for second in range(50):
    ring.add(BufferedMessage("/noise", "std_msgs/msg/String", second * 10**9, noise.bytes(100_000)))
try:
    write_snapshot(ring, Path(sys.argv[1]) / "snapshot")
except BagError as error:
    print(error)
"""


def test_full_disk_keeps_written_messages_and_is_reported(tmp_path):
    done = run_on_a_small_disk(tmp_path, 4000, "-c", BAG, str(tmp_path))
    reason, counted, left = done.stdout.splitlines()[-3:]
    assert done.returncode == 0 and "No space left on device" in reason, done.stderr
    count, ordered = counted.split()
    assert int(count) >= 50 and ordered == "True"
    assert left == "left: bag/bag.mcap"


def test_snapshot_is_complete_or_absent(tmp_path):
    done = run_on_a_small_disk(tmp_path, 2000, "-c", SNAPSHOT, str(tmp_path))
    assert done.returncode == 0, done.stderr
    reason, left = done.stdout.splitlines()
    assert "snapshot cannot be written: No space left on device" in reason and left == "left:"


WHOLE = """
import sys
import numpy as np
from pathlib import Path
from mlesam_ros.cli.common import write_json
from mlesam_ros.errors import MlesamError
from mlesam_ros.evaluation.results import write_ply
from mlesam_ros.evaluation.report import write_overview
from mlesam_ros.labels import load_label_space
from mlesam_ros.semantic_points import POINT

folder = Path(sys.argv[1])
(folder / "metrics.json").write_text("old")
milliseconds = {"p50": 1.0, "p95": 2.0, "p99": 3.0}
figures = {
    "masks": 1, "sets": 1, "compared": 0, "confidence": 50.0, "consistency": None, "latency_ms": milliseconds,
    "counters": {"received": 1, "used": 1}, "per_class": {}, "class_shares": {}, "subsets": [], "reliability": [],
    "miou": None,
    "warnings": ["x" * 500_000], "config": {}, "versions": {},
}
for write in (
    lambda: write_json({"long": "x" * 500_000}, folder / "metrics.json"),
    lambda: write_ply(folder / "1.ply", np.zeros(50_000, POINT)),
    lambda: write_overview(folder / "report.html", figures, [], load_label_space("deliver")),
):
    try:
        write()
    except (MlesamError, OSError) as error:
        print(error)
print((folder / "metrics.json").read_text())
"""


def test_outputs_are_complete_or_unchanged(tmp_path):
    done = run_on_a_small_disk(tmp_path, 300, "-c", WHOLE, str(tmp_path))
    assert done.returncode == 0, done.stderr
    *reasons, old, left = done.stdout.splitlines()
    assert len(reasons) == 3 and all("No space left on device" in reason for reason in reasons)
    assert (old, left) == ("old", "left: metrics.json")
