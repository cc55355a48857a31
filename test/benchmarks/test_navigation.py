# SPDX-License-Identifier: Apache-2.0
"""benchmarks/navigation.py and costmap_layers.py: lines of rays, and counts of cells."""

import numpy as np
import pytest
from costmap_layers import FREE, LETHAL, UNKNOWN, ObstacleLayer
from hypothesis import given
from hypothesis import strategies as st
from navigation import Score, Truth

from mlesam_ros.semantic_points import GROUND, OBSTACLE

COSTMAP = {"width": 10, "height": 10, "resolution": 0.5, "track_unknown_space": True}
LAYER = {
    "min_obstacle_height": 0.2,
    "max_obstacle_height": 2.0,
    "observation_sources": "obstacles ground",
    "obstacles": {"min_obstacle_height": 0.2, "max_obstacle_height": 2.0, "obstacle_max_range": 4.0},
    "ground": {
        "marking": False, "clearing": True, "min_obstacle_height": -1.0, "max_obstacle_height": 0.3,
        "raytrace_max_range": 4.0,
    },
}  # fmt: skip
ORIGIN = np.array([0.0, 0.0, 1.0])
NOTHING = np.zeros((0, 3))


def line(start, end, farthest):
    """Cells by the loop of nav2_util's raytrace_line_2d.hpp."""
    delta = np.subtract(end, start)
    length = np.hypot(*delta)
    scale = min(1.0, farthest / length) if length else 1.0
    (long, cross) = (0, 1) if abs(delta[0]) >= abs(delta[1]) else (1, 0)
    steps, error, cell, cells = np.abs(delta), abs(int(delta[long])) // 2, list(start), [tuple(start)]
    for _ in range(min(int(scale * steps[long]), int(steps[long]))):
        cell[long] += 1 if delta[long] > 0 else -1
        error += int(steps[cross])
        if error >= steps[long]:
            cell[cross] += 1 if delta[cross] > 0 else -1
            error -= int(steps[long])
        cells.append(tuple(cell))
    return set(cells)


@given(st.tuples(st.floats(-4.9, 4.9), st.floats(-4.9, 4.9)))
def test_ray_clears_the_cells_of_nav2s_line(end):
    layer = ObstacleLayer(COSTMAP, LAYER)
    layer.update({"ground": (ORIGIN, np.array([[*end, 0.0]]))})
    (cell,), _ = layer.cells(np.array([[*end, 0.0]]))
    assert set(map(tuple, np.argwhere(layer.costs == FREE))) == line((10, 10), cell, 8)


@pytest.mark.parametrize(
    ("point", "cost"),
    [((2, 0, 1), LETHAL), ((2, 0, 0.1), UNKNOWN), ((2, 0, 2.1), UNKNOWN), ((4.2, 0, 1), UNKNOWN), ((6, 0, 1), UNKNOWN)],
    ids=["obstacle", "low", "high", "far", "off the map"],
)
def test_points_mark_within_heights_and_range(point, cost):
    layer = ObstacleLayer(COSTMAP, LAYER)
    layer.update({"obstacles": (ORIGIN, np.array([point, (np.nan,) * 3]))})
    assert (layer.costs == LETHAL).sum() == (cost == LETHAL)


def test_cells_are_counted_with_one_cell_of_tolerance_for_obstacles():
    costs = np.full((1, 12), UNKNOWN, np.uint8)
    costs[0, [0, 1, 6]] = LETHAL, LETHAL, FREE
    costs[0, [8, 9, 11]] = FREE  # 9 is not hit, 11 is hit and not drivable
    obstacle, drivable, hit = np.zeros((3, 1, 12), bool)
    obstacle[0, [0, 2, 6]] = True
    drivable[0, [8, 10]] = True
    hit[0, [0, 2, 6, 8, 10, 11]] = True
    score = Score()
    score.add(costs, obstacle, drivable, hit, np.ones((1, 12), bool))
    assert score.figures() == {
        "obstacle_precision": 100.0, "obstacle_recall": 66.7, "drivable_precision": 33.3, "drivable_recall": 50.0,
    }  # fmt: skip
    assert set(Score().figures().values()) == {None}


def test_truth_has_cells_that_enough_rays_hit():
    layer = ObstacleLayer(COSTMAP, LAYER)
    truth = Truth(layer, np.array([GROUND, OBSTACLE], np.uint8), (0.2, 2.0))
    assert truth._hit(np.tile([[2.1, 0.1, 0]], (3, 1))).sum() == 1 and not truth._hit(np.array([[2.1, 0.1, 0]])).any()
    assert truth.area.any() and not truth.area[:10].any(), "ahead of the robot alone"
