# SPDX-License-Identifier: Apache-2.0
"""The synthetic frames have the sizes that the benchmark names, and the stream is in order."""

import itertools
import json

import numpy as np

from mlesam_ros.bench.sensor_benchmark import EVENTS, POINTS, make_frames, run, run_sync, stream
from mlesam_ros.types import CAMERA, EVENT, LIDAR


def test_frames_have_the_named_sizes_and_the_camera_sees_the_lidar():
    rig, frames = make_frames()
    points = frames[LIDAR].payload.points
    assert len(points) == POINTS
    assert len(frames[EVENT].payload.x) == EVENTS
    optical = rig.extrinsic(LIDAR).apply(np.stack([points["x"], points["y"], points["z"]], axis=1))
    visible = len(rig.model(CAMERA).project_visible(optical)[0])
    assert POINTS / 10 < visible < POINTS / 2


def test_stream_is_in_order_of_arrival():
    arrivals = stream({CAMERA: 10, LIDAR: 10})
    assert len(arrivals) == 200
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(arrivals))
    assert all(now > frame.stamp for now, frame in arrivals)


def test_every_row_has_a_positive_duration():
    rows = [row.to_dict() for row in (*run(1), *run_sync(1))]
    json.dumps(rows, allow_nan=False)
    assert len(rows) > 7 and all(row["median"] > 0 for row in rows)
