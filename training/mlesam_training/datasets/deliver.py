# SPDX-License-Identifier: Apache-2.0
"""DELIVER (Zhang et al., CVPR 2023) in its published layout, as also written by `mlesam simulate --deliver`.

    root / {img, depth, hha, event, lidar, semantic} / weather / split / MAP_n_pointk[_fault] / 000000_rgb_front.png

Follows the loader of the authors: 8-bit images divided by 255, of which only the camera image is normalized; depth from
the HHA folder; low-resolution events enlarged by nearest neighbor. Unlike there, event colors become channels in the
order of the live preprocessor, brighter first, so that the trained weights run on a robot.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlesam_ros.errors import DatasetError, LabelError
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.labels import IGNORE, load_label_space
from mlesam_ros.preprocessing.depth import HHA
from mlesam_ros.preprocessing.events import EventPolarity
from mlesam_ros.preprocessing.lidar import DeliverLidar
from mlesam_ros.preprocessing.preprocessors import RGB
from mlesam_ros.simulation.export import FOLDERS, SPLITS, frame_path
from mlesam_ros.simulation.weather import FAULTS, NO_FAULT, WEATHERS
from mlesam_ros.strict_yaml import check_choice
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, Modality
from mlesam_training.image_files import png_size, read_image, require_folder, scale_to_unit, three_channels
from mlesam_training.labeled_dataset import LABELS, FileDataset, Image, Labels, SampleFiles, published

_PREPROCESSORS = {DEPTH: HHA.name, EVENT: EventPolarity.name, LIDAR: DeliverLidar.name}
_BRIGHTER, _DARKER = EventPolarity.brighter, EventPolarity.darker


class Deliver(FileDataset):
    """One split of DELIVER's front view. Conditions: weather, fault."""

    def __init__(
        self,
        root: str | Path,
        split: str,
        modalities: Sequence[Modality] = MODALITIES,
        weather: str | None = None,
        fault: str | None = None,
    ) -> None:
        """Find the frames.

        Args:
            root: folder of img, hha, event, lidar and semantic.
            split: train, val or test.
            modalities: some of camera, depth, event, lidar.
            weather: one of DELIVER's five; None for all.
            fault: one of DELIVER's five, or `none` for frames without a fault; None for all.

        Raises:
            ConfigError: a name is not accepted.
            DatasetError: a file of the expected layout is missing.
        """
        root = Path(root)
        check_choice("split", split, SPLITS)
        for what, value, accepted in (("weather", weather, WEATHERS), ("fault", fault, FAULTS)):
            if value is not None:
                check_choice(what, value, accepted)
        for modality in modalities:
            check_choice("modality of DELIVER", modality, MODALITIES)
        rgb = published(RGB.normalization, RGB.name)
        formats = {m: rgb if m == CAMERA else published(preprocessor=_PREPROCESSORS.get(m)) for m in modalities}
        super().__init__(load_label_space("deliver"), formats, _entries(root, split, modalities, weather, fault))

    def images(self, entry: SampleFiles, modalities: Sequence[Modality]) -> dict[Modality, Image]:
        """See `FileDataset`."""
        return {modality: self._image(entry, modality) for modality in modalities}

    def same_size(self, entry: SampleFiles) -> list[Path]:
        """All files but the events, which may have a lower resolution."""
        return [path for name, path in entry.files.items() if name != EVENT]

    def _image(self, entry: SampleFiles, modality: Modality) -> Image:
        image = three_channels(read_image(entry.files[modality]))
        if modality == EVENT:
            height, width = png_size(entry.files[CAMERA])
            image = resize_nearest(image, (height, width))
            nothing = np.zeros((height, width), np.uint8)
            image = np.stack([image[..., _BRIGHTER], image[..., _DARKER], nothing], axis=2)
        return self.formats[modality].normalized(scale_to_unit(image))

    def labels(self, entry: SampleFiles) -> Labels:
        """See `FileDataset`. In the file, 1 … 25 are the classes; 0 and 255 are unlabeled."""
        image = read_image(entry.files[LABELS])
        raw = np.asarray(image if image.ndim == 2 else image[..., 0])
        if raw.dtype != np.uint8:
            raise DatasetError(f"{entry.files[LABELS]} is {raw.dtype}; DELIVER's labels are 8 bits deep.")
        foreign = np.flatnonzero(np.bincount(raw.ravel(), minlength=256)[len(self.space) + 1 : IGNORE])
        if foreign.size:
            values = (foreign + len(self.space) + 1).tolist()
            raise LabelError(f"{entry.files[LABELS]} has the ids {values}; DELIVER's labels are 0 to 25 and 255.")
        return np.where(raw == IGNORE, np.uint8(IGNORE), raw - np.uint8(1))


def _entries(
    root: Path, split: str, modalities: Sequence[Modality], weather: str | None, fault: str | None
) -> list[SampleFiles]:
    folder = require_folder(root, FOLDERS[CAMERA], "DELIVER")
    entries = []
    for path in sorted(folder.glob(f"*/{split}/*/*_rgb_front.png")):
        scene, sky, number = path.parent.name, path.parents[2].name, path.name.removesuffix("_rgb_front.png")
        wrong = next((name for name in FAULTS if scene.endswith(name)), NO_FAULT)
        if weather in (None, sky) and fault in (None, wrong):
            # The camera image sets the size to which low-resolution events are enlarged.
            files = {m: frame_path(root, m, sky, split, scene, number) for m in (CAMERA, *modalities, LABELS)}
            entries.append(SampleFiles(f"{sky}/{split}/{scene}/{number}", files, {"weather": sky, "fault": wrong}))
    if not entries:
        wanted = f"{weather or '*'}/{split}/*{'' if fault in (None, NO_FAULT) else fault}/*_rgb_front.png"
        raise DatasetError(
            f"DELIVER at {root} has no frame {folder.name}/{wanted}.", "Check the root, split and filters."
        )
    return entries


DATASET = Deliver
