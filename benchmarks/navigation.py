# SPDX-License-Identifier: Apache-2.0
"""Precision and recall of a costmap's cells on simulated streets, for every condition and without each sensor.

    python benchmarks/navigation.py [--streets 16] [--steps 3] [-p NAME:=VALUE …] [--checkpoint FILE] [--json FILE]

A costmap as in config/nav2/obstacle_layer.yaml reads the two clouds that the node publishes for one mask, by the rules
of nav2's obstacle layer (`costmap_layers.py`). Truth are the cells that rays of the label camera hit, up to 20 m ahead:
an obstacle where a ray hits a class of `navigation.obstacle_classes` within the layer's heights, drivable where rays
hit classes of `navigation.ground_classes` alone. A marked cell is right if an obstacle is within one cell, an obstacle
is found if a marked cell is within one cell; a cleared cell is right if it is drivable, wrong if rays hit anything
else in it, such as terrain.
Streets are those of seeds from 9000 on, which training does not use.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlesam_ros.resources import limit_blas_threads

limit_blas_threads()  # as `mlesam` does, before NumPy is imported

import cv2
import numpy as np
import numpy.typing as npt
import yaml
from costmap_layers import FREE, LETHAL, ObstacleLayer

from mlesam_ros.config import NodeParameters, load_parameters
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.mask_messages import mask_messages
from mlesam_ros.pipeline import Pipeline, load_pipeline
from mlesam_ros.resources import resource_path
from mlesam_ros.semantic_points import GROUND, NAVIGATION_POINT, OBSTACLE, role_table
from mlesam_ros.simulation.sensors import BASE_FRAME, ODOM_FRAME
from mlesam_ros.simulation.world import EPOCH, PERIOD, SimFrame, World
from mlesam_ros.types import CAMERA, MODALITIES, NANOSECONDS, FrameSet, Modality

AHEAD_M = 20.0
WEATHERS = ("day", "night")
_FIRST_SEED, _FIRST_STEP, _STEPS_APART = 9000, 5, 40
_SOURCES = {"obstacles": "obstacle_points", "ground": "ground_points"}
_NEIGHBORS = np.ones((3, 3), np.uint8)
_MIN_HITS = 3
"""Rays that have to hit a cell for it to have a truth."""

Cells = npt.NDArray[np.bool_]


@dataclass
class Score:
    """Counts of cells."""

    marked: int = 0
    marked_right: int = 0
    obstacles: int = 0
    obstacles_found: int = 0
    cleared: int = 0
    cleared_right: int = 0
    drivable: int = 0
    drivable_found: int = 0

    def add(self, costs: npt.NDArray[np.uint8], obstacle: Cells, drivable: Cells, hit: Cells, area: Cells) -> None:
        """Count the cells of one costmap inside `area`, cleared ones where rays hit anything."""
        lethal, free = (costs == LETHAL) & area, (costs == FREE) & area
        near_obstacle, near_lethal = (
            cv2.dilate(cells.astype(np.uint8), _NEIGHBORS).astype(bool) for cells in (obstacle, lethal)
        )
        self.marked += int(lethal.sum())
        self.marked_right += int((lethal & near_obstacle).sum())
        self.obstacles += int(obstacle.sum())
        self.obstacles_found += int((obstacle & near_lethal).sum())
        self.cleared += int((free & hit).sum())
        self.cleared_right += int((free & drivable).sum())
        self.drivable += int(drivable.sum())
        self.drivable_found += int((free & drivable).sum())

    def figures(self) -> dict[str, float | None]:
        """Percent."""
        shares = {
            "obstacle_precision": (self.marked_right, self.marked),
            "obstacle_recall": (self.obstacles_found, self.obstacles),
            "drivable_precision": (self.cleared_right, self.cleared),
            "drivable_recall": (self.drivable_found, self.drivable),
        }
        return {name: round(100 * part / whole, 1) if whole else None for name, (part, whole) in shares.items()}


class Truth:
    """Cells that rays of the label camera hit.

    Args:
        layer: layer with the grid of the costmap.
        roles: role of each class id.
        heights: lowest and highest obstacle in meters.
    """

    def __init__(self, layer: ObstacleLayer, roles: npt.NDArray[np.uint8], heights: tuple[float, float]) -> None:
        self._layer, self._roles, self._heights = layer, roles, heights
        ahead = layer.origin + (np.stack(np.indices(layer.costs.shape), -1) + 0.5) * layer.resolution
        self.area = (ahead[..., 0] > 0) & (np.hypot(ahead[..., 0], ahead[..., 1]) < AHEAD_M)

    def cells(self, world: World, sample: SimFrame) -> tuple[Cells, Cells, Cells]:
        """Obstacle cells, drivable cells and all that rays hit, in the frame of the robot's base."""
        hits, shading, _ = world._render(
            world._snapshot(sample.index * PERIOD), sample.pose, world._rays, 1 / world.rig.camera.K[0, 0]
        )
        points = sample.pose.inverse().apply(hits.point.astype(np.float64))
        roles = self._roles[shading.classes]
        low, high = self._heights
        is_obstacle = (roles == OBSTACLE) & (points[:, 2] >= low) & (points[:, 2] <= high)
        obstacle = self._hit(points[is_obstacle])
        drivable = self._hit(points[roles == GROUND]) & ~self._hit(points[is_obstacle], 1)
        low_enough = np.isfinite(points).all(1) & (points[:, 2] <= high)
        return obstacle & self.area, drivable & self.area, self._hit(points[low_enough]) & self.area

    def _hit(self, points: npt.NDArray[np.float64], least: int = _MIN_HITS) -> Cells:
        cells, on_map = self._layer.cells(points)
        count = np.zeros(self._layer.costs.shape, int)
        np.add.at(count, tuple(cells[on_map].T), 1)
        return count >= least


class CostmapMaker:
    """Costmaps of masks, as nav2 would make them from the node's topics."""

    def __init__(self, parameters: NodeParameters) -> None:
        text = resource_path("config/nav2/obstacle_layer.yaml").read_text(encoding="utf-8")
        self.costmap: Mapping[str, Any] = yaml.safe_load(text)["local_costmap"]["local_costmap"]["ros__parameters"]
        self.layer: Mapping[str, Any] = self.costmap["semantic_obstacles"]
        self.pipeline: Pipeline = load_pipeline(parameters)
        self.parameters = parameters

    def empty(self) -> ObstacleLayer:
        """A layer before its first cloud."""
        return ObstacleLayer(self.costmap, self.layer)

    def costs(self, rig: Rig, sample: SimFrame, sensors: Iterable[Modality]) -> npt.NDArray[np.uint8]:
        """Costs after one mask of some sensors, around the robot's base."""
        frames = {m: sample.frames[m] for m in sensors}
        primary = next(m for m in (CAMERA, *frames) if m in frames)
        frame_set = FrameSet(sample.stamp, primary, frames, dict.fromkeys(frames, 0))
        mask = self.pipeline.segment(frame_set, rig)
        made = mask_messages(mask, frame_set, rig, self.pipeline.config.label_space, self.parameters)
        layer, clouds = self.empty(), {}
        for source, topic in _SOURCES.items():
            if topic in made:
                message = made[topic]()
                base_from_sensor = rig.tree.lookup(BASE_FRAME, message["header"]["frame_id"])
                points = message["data"].view(NAVIGATION_POINT)
                xyz = np.column_stack([points[axis] for axis in "xyz"]).astype(np.float64)
                clouds[source] = base_from_sensor.translation, base_from_sensor.apply(xyz)
        layer.update(clouds)
        return layer.costs


def conditions() -> dict[str, tuple[Modality, ...]]:
    """Name → sensors: all, and without each."""
    return {
        "all sensors": MODALITIES,
        **{f"without {lost}": tuple(m for m in MODALITIES if m != lost) for lost in MODALITIES},
    }


def samples(streets: int, steps: int, weather: str) -> Iterator[tuple[World, SimFrame]]:
    """Yield samples of streets, several seconds apart."""
    for seed in range(_FIRST_SEED, _FIRST_SEED + streets):
        world = World(seed, weather)
        for step in range(steps):
            sample = world.sample(_FIRST_STEP + step * _STEPS_APART)
            add_odometry(world, sample)
            yield world, sample


def add_odometry(world: World, sample: SimFrame) -> None:
    """Add the robot's motion around a stamp to the rig, as the bag of a street has it."""
    for offset in range(-PERIOD, PERIOD + 1, PERIOD // 5):
        pose = world.ego.pose((sample.stamp + offset - EPOCH) / NANOSECONDS)
        world.rig.tree.set(ODOM_FRAME, BASE_FRAME, pose, sample.stamp + offset)


def main() -> None:
    """Simulate, segment, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streets", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("-p", action="append", default=[], metavar="NAME:=VALUE", help="parameter of the node")
    parser.add_argument("--checkpoint", default="", help="experts; the shipped ones by default")
    parser.add_argument("--json", type=Path, help="file for the result")
    given = parser.parse_args()
    rules = [*given.p, *([f"checkpoint:={given.checkpoint}"] if given.checkpoint else [])]
    maker = CostmapMaker(load_parameters(None, rules))
    roles = role_table(maker.pipeline.config.label_space, maker.parameters.navigation)
    heights = (maker.layer["obstacles"]["min_obstacle_height"], maker.layer["obstacles"]["max_obstacle_height"])
    truth = Truth(maker.empty(), roles, heights)
    rows: list[dict[str, Any]] = []
    print("weather  sensors         obstacle_precision  obstacle_recall  drivable_precision  drivable_recall")
    for weather in WEATHERS:
        scores = {name: Score() for name in conditions()}
        for world, sample in samples(given.streets, given.steps, weather):
            cells = truth.cells(world, sample)
            for name, sensors in conditions().items():
                scores[name].add(maker.costs(world.rig, sample, sensors), *cells, truth.area)
        rows += [{"weather": weather, "sensors": name, **score.figures()} for name, score in scores.items()]
        for row in rows[-len(scores) :]:
            print("  ".join(f"{value!s:>{len(name)}}" for name, value in row.items()), flush=True)
    if given.json:
        result = {"streets": given.streets, "steps": given.steps, "rows": rows}
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
