# SPDX-License-Identifier: Apache-2.0
"""Frame sets of simulated streets as the network reads them, with their ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import numpy as np
import numpy.typing as npt

from mlesam_ros.expert_preprocessors import ExpertPreprocessors
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.preprocessing.preprocessors import encode
from mlesam_ros.simulation.style import PLAIN_STYLE
from mlesam_ros.simulation.weather import WEATHERS
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, FrameSet, Modality

TRAINING_SEED, HELD_OUT_SEED = 1000, 900
"""First seeds of the streets of training and of those that are held out, as in config/training/."""
_STEPS = 2  # per street

Sample = tuple[dict[Modality, npt.NDArray[np.float32]], npt.NDArray[np.uint8]]


def street_samples(
    config: MLESAMConfig, size: tuple[int, int], count: int, first_seed: int, style: str = PLAIN_STYLE
) -> Iterator[Sample]:
    """Render sets of streets in every weather.

    Args:
        config: of the model that reads them.
        size: (h, w) of the images; the camera has twice as many pixels along each side.
        count: number of sets.
        first_seed: `TRAINING_SEED` or `HELD_OUT_SEED`.
        style: see `World`.

    Yields:
        modality → (3, h, w) float32 image, and (h, w) uint8 labels.

    Raises:
        PackageError: Open3D is not installed.
    """
    preprocessors = ExpertPreprocessors(config).by_modality
    shape = (2 * size[0], 2 * size[1])
    for first, weather in zip(range(0, count, _STEPS), cycle(WEATHERS), strict=False):
        world = World(first_seed + first // _STEPS, weather, shape, style=style)
        for step in range(min(_STEPS, count - first)):
            frame = world.sample(int((step + 0.5) * world.length / _STEPS))
            frame_set = FrameSet(frame.stamp, CAMERA, frame.frames, dict.fromkeys(frame.frames, 0))
            yield encode(frame_set, world.rig, size, preprocessors), resize_nearest(frame.labels, size)
