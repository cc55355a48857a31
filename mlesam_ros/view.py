# SPDX-License-Identifier: Apache-2.0
"""The view of one camera on its way through the pipeline, and the batches of several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from mlesam_ros.errors import MlesamError, Problem, join_problems
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.model.inference import Image, Prediction
from mlesam_ros.preprocessing.base import Preprocessing
from mlesam_ros.preprocessing.registration import FrameContext
from mlesam_ros.types import FrameSet, Modality, Segmentation


class Inputs(NamedTuple):
    """Images of one frame set; see the attributes of `View`."""

    images: Mapping[Modality, Image | torch.Tensor] = MappingProxyType({})
    refusals: Mapping[Modality, Problem] = MappingProxyType({})
    notes: Mapping[Modality, str] = MappingProxyType({})


class View:
    """The frame set of one camera on its way through the pipeline.

    Attributes:
        frame_set: the frames.
        rig: with the label camera of the set.
        settings: of the sensor data; None for those of the pipeline.
        size: (h, w) of the images.
        context: shared by the preprocessors of the set.
        images: modality → (3, h, w) float32, the network's input images.
        refusals: modality → problem for which its frame was left out; empty when all of them take part.
        prediction: of the network; None before it.
        segmentation: the mask; None before it, and after an error.
        error: why there is no mask; None without an error.
        timings: stage → seconds; those of a batch for each of its views.
    """

    def __init__(self, frame_set: FrameSet, rig: Rig, settings: Preprocessing | None = None) -> None:
        self.frame_set, self.rig, self.settings = frame_set, rig, settings
        self.size = (0, 0)
        self.context = FrameContext(frame_set.time)
        self.images: dict[Modality, Image | torch.Tensor] = {}
        self.refusals: dict[Modality, Problem] = {}
        self.prediction: Prediction | None = None
        self.segmentation: Segmentation | None = None
        self.error: Exception | None = None
        self.timings: dict[str, float] = {}

    @property
    def notes(self) -> Mapping[Modality, str]:
        """Modality → limitation of its image, such as missing ego-motion, or a setting that differs from training."""
        return self.context.notes

    @property
    def inputs(self) -> Inputs:
        """The images and their problems, without the frames."""
        return Inputs(self.images, self.refusals, self.notes)

    @contextmanager
    def catch(self) -> Iterator[None]:
        """Context manager that keeps an error as that of this view."""
        try:
            yield
        except Exception as error:
            self.error = error

    def require_images(self) -> None:
        """Raise the problems of the frames if none is left."""
        if not self.images:
            problem = join_problems(self.refusals.values())
            raise MlesamError(f"no sensor of the set can be used: {problem.message}", problem.remedy)

    def drop(self, nonfinite_modalities: Sequence[Modality]) -> None:
        """Leave out images that have NaN or infinite values, which were detected on the device."""
        why = Problem("its image has NaN or infinite values.", "Fill them before.")
        self.refusals |= dict.fromkeys(nonfinite_modalities, why)
        self.images = {m: image for m, image in self.images.items() if m not in nonfinite_modalities}
        self.require_images()


def group_views(views: Sequence[View]) -> list[list[View]]:
    """Group the views without an error by modalities and image size: the batches of the network."""
    found: dict[Any, list[View]] = defaultdict(list)
    for view in views:
        if view.error is None:
            found[frozenset(view.images), view.size].append(view)
    return list(found.values())
