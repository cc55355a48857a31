"""The result as a bag with the node's own topics, for RViz, Foxglove and whoever comes next."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from mlesam_ros.bags import fields
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.evaluation.made import Labels, MaskListener, MaskRecord
from mlesam_ros.evaluation.topics import CAMERA_INFO, TRANSFORMS
from mlesam_ros.frame import Modality
from mlesam_ros.labels import LabelSpace
from mlesam_ros.mask_messages import (
    IMAGE,
    LABEL_SPACE,
    MASK_TYPES,
    STATUS,
    MaskReport,
    label_space,
    mask_messages,
    status,
)

NODE = "/mlesam"


class ResultBag(MaskListener):
    """Writes what the node would publish, every mask, with the truth beside it. To be used in a `with` statement."""

    def __init__(self, path: str | Path, space: LabelSpace, topics: dict[Modality, str], alpha: float) -> None:
        """Create the bag.

        Args:
            path: its folder, which must not exist.
            space: what the labels mean.
            topics: modality → topic, for the status.
            alpha: weight of the colors in the overlay.

        Raises:
            BagError: it exists, or cannot be made.
        """
        self._writer = BagWriter(path)
        self._space, self._topics, self._alpha = space, topics, alpha
        self._known: set[str] = set()
        self._frame = ""

    def __enter__(self) -> ResultBag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def take(self, made: MaskRecord) -> None:
        """Write one mask in all its forms.

        Raises:
            BagError: the disk is full.
        """
        stamp, frame = made.mask.stamp, made.mask.frame_id
        self._frame = frame
        add = self._writer.add
        if made.sequence == 1:
            add(f"{NODE}/label_info", LABEL_SPACE, stamp, label_space(self._space, stamp), latched=True)
        self._add_mounting(made)
        add(f"{NODE}/camera_info", CAMERA_INFO, stamp, fields.camera_info(stamp, frame, made.rig.camera))
        makers = mask_messages(made.mask, made.frame_set, made.rig, self._space, self._alpha)
        for name, make in makers.items():
            add(f"{NODE}/{name}", MASK_TYPES[name], stamp, make())
        provenance = MaskReport(made.mask, made.frame_set, made.sequence)
        add(f"{NODE}/status", STATUS, stamp, status(provenance, self._topics, made.counters, made.found))

    def compare(self, stamp: int, labels: Labels, truth: Labels) -> None:
        """Write the truth, where the mask has met it.

        Raises:
            BagError: the disk is full.
        """
        self._writer.add(f"{NODE}/truth", IMAGE, stamp, fields.pixels(stamp, self._frame, truth, "mono8"))

    def _add_mounting(self, made: MaskRecord) -> None:
        """Static transforms as they become known; the moving ones are in the bag that was evaluated."""
        new = [entry for entry in made.rig.tree.static_transforms() if entry[1] not in self._known]
        if new:
            self._known.update(child for _, child, _ in new)
            stamp = made.mask.stamp
            self._writer.add("/tf_static", TRANSFORMS, stamp, fields.transforms(new, stamp), latched=True)
