"""A rig that grows with what CameraInfo and TF say, live and from a bag alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from mlesam_ros.errors import CalibrationError, sentence
from mlesam_ros.frame import CAMERA, Modality
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.messages import transforms


@dataclass(frozen=True)
class LensOptions:
    """What a user says of a camera that its CameraInfo does not.

    Attributes:
        frame_id: used instead of the one in its messages; empty for theirs.
        rectified: its pictures are rectified, so that P and R count instead of K and D.
        fit: how pictures of another size come from what was calibrated; empty where they have its size.
        picture_size: (width, height) of those pictures.
    """

    frame_id: str = ""
    rectified: bool = False
    fit: str = ""
    picture_size: tuple[int, ...] = ()


class RigLearner:
    """Fills a rig. What it knew before holds until a message says otherwise.

    Attributes:
        rig: what is known by now. One thread may read it while another writes it here.
        problems: topic → what is wrong with a message of it, in words: its newest CameraInfo, its last bad transform.
    """

    def __init__(self, rig: Rig, report: Callable[[str, str], None] = lambda topic, problem: None) -> None:
        """Start from a rig.

        Args:
            rig: to be filled, from a calibration file or empty.
            report: told of a problem when it is new.
        """
        self.rig = rig
        self.problems: dict[str, str] = {}
        self._report = report
        self._known: dict[str, tuple[Any, ...]] = {}

    def hear_info(self, topic: str, modality: Modality, info: Any, options: LensOptions | None = None) -> None:
        """Learn a lens; the camera's names the frame that masks are expressed in.

        Args:
            topic: where it came from.
            modality: whose it is.
            info: a `sensor_msgs/CameraInfo`. One that says what the last one said costs nothing, and leaves the model
                as it is: encoders prepare everything anew for another.
            options: what the user says.
        """
        options = options or LensOptions()
        frame = options.frame_id or info.header.frame_id.lstrip("/")
        content: tuple[Any, ...] = (
            frame,
            options,
            info.height,
            info.width,
            info.distortion_model,
            info.binning_x,
            info.binning_y,
        )
        content += (info.roi, *(tuple(numbers) for numbers in (info.d, info.k, info.r, info.p)))
        if self._known.get(topic) == content:
            return
        self._known[topic] = content
        try:
            self.rig.models[frame] = _model(frame, modality, info, options)
        except Exception as error:  # whatever is in a message, a node lives on
            self.note(topic, sentence(error))
            return
        self.problems.pop(topic, None)
        if modality == CAMERA:
            self.rig.camera_frame = frame

    def hear_transforms(self, topic: str, message: Any, static: bool) -> None:
        """Learn from a `tf2_msgs/TFMessage`, whose transforms are for ever where `static` says so."""
        for stamped in message.transforms:  # one by one, so that a bad one does not take the others with it
            try:
                for parent, child, transform, stamp in transforms(SimpleNamespace(transforms=[stamped])):
                    self.rig.tree.set(parent, child, transform, None if static else stamp, topic)
            except Exception as error:  # as above
                self.note(topic, sentence(error))

    def note(self, topic: str, problem: str) -> None:
        """Keep what is wrong with a message of a topic, and report it when it is new."""
        if self.problems.get(topic) != problem:
            self._report(topic, problem)
        self.problems[topic] = problem


def _model(frame: str, modality: Modality, info: Any, options: LensOptions) -> CameraModel:
    if not frame:
        raise CalibrationError(f"CameraInfo names no frame; fill header.frame_id or set {modality}.frame_id.")
    model = CameraModel.from_info(info, options.rectified)
    if not options.fit:
        return model
    width, height = options.picture_size
    return model.fitted(height, width, options.fit)
