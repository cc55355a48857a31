# SPDX-License-Identifier: Apache-2.0
"""Traffic: no collisions with the ego vehicle."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.simulation.scene import Label
from mlesam_ros.simulation.street import draw_streams, place_movers
from mlesam_ros.simulation.street_layout import Ego, StreetLayout
from mlesam_ros.simulation.style import STYLES, draw_parts

ON_WHEELS = (Label.CARS, Label.BUS, Label.TRUCK)


def street(seed, style):
    rng = np.random.default_rng(seed)
    look, shapes, _, _ = draw_parts(STYLES[style], (seed,))
    layout = StreetLayout.draw(rng, shapes, look)
    ego = Ego.draw(layout, rng)
    return layout, ego, draw_streams(layout, ego, rng)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), style=st.sampled_from(sorted(STYLES)), t=st.floats(0, 600))
def test_no_vehicle_collides_with_the_ego_vehicle(seed, style, t):
    layout, ego, streams = street(seed, style)
    batch = place_movers(layout, ego, streams, seed, t)
    vertices = batch.vertices[np.unique(batch.triangles[np.isin(batch.classes, ON_WHEELS)])]
    pose = ego.pose(t)
    local = (vertices - pose.translation) @ pose.rotation
    assert not np.any((np.abs(local[:, 0]) < 2.4) & (np.abs(local[:, 1]) < 0.95) & (local[:, 2] < 1.6))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), style=st.sampled_from(sorted(STYLES)), t=st.floats(0, 600))
def test_movers_move_at_their_speed(seed, style, t):
    layout, ego, streams = street(seed, style)
    first, second = (place_movers(layout, ego, streams, seed, time).table for time in (t, t + 0.01))
    # Matched by their looks: seed and first color; who left or entered the stretch in between has no partner.
    looks = {tuple(row[5:9]): row for row in first}
    pairs = [(looks[tuple(row[5:9])], row) for row in second if tuple(row[5:9]) in looks]
    speeds = np.array([np.hypot(*(b[:2].astype(float) - a[:2])) / 0.01 for a, b in pairs])
    limit = max(abs(stream.speed) for stream in streams)
    assert pairs and np.all(speeds < limit * 1.1 + 0.3)
