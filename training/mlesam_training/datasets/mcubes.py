# SPDX-License-Identifier: Apache-2.0
"""MCubeS (Liang et al., CVPR 2022): material segmentation from color, polarization and near infrared.

    root / polL_color / NAME.png     root / polL_aolp_sin, polL_aolp_cos, polL_dolp / NAME.npy
    root / NIR_warped / NAME.png     root / GT / NAME.png (0 … 19, 255)     root / list_folder / {train, val, test}.txt

Follows the published loaders (kyotovision-public, CMNeXt): the left 192 columns, where the cameras do not overlap, are
dropped; the angle of polarization is (sin, cos, sin); its degree and the infrared are repeated three times; only the
color image is normalized. The loaders of the papers read test.txt for val, so that their scores are those of
`split: test`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import DatasetError
from mlesam_ros.labels import load_label_space
from mlesam_ros.preprocessing.preprocessors import RGB
from mlesam_ros.strict_yaml import check_choice
from mlesam_ros.types import CAMERA, Modality
from mlesam_training.image_files import read_array, read_image, read_list, scale_to_unit, three_channels
from mlesam_training.labeled_dataset import LABELS, FileDataset, Image, Labels, SampleFiles, published

SPLITS = ("train", "val", "test")
AOLP, DOLP, NIR = "aolp", "dolp", "nir"
MODALITIES = (CAMERA, AOLP, DOLP, NIR)
OVERLAP = 192
"""Number of columns on the left outside the common field of view of the cameras."""
_COSINE = "aolp_cos"
_PLACES = {
    CAMERA: ("polL_color", ".png"), AOLP: ("polL_aolp_sin", ".npy"), _COSINE: ("polL_aolp_cos", ".npy"),
    DOLP: ("polL_dolp", ".npy"), NIR: ("NIR_warped", ".png"), LABELS: ("GT", ".png"),
}  # fmt: skip


class MCubeS(FileDataset):
    """One split of MCubeS. No conditions."""

    square: ClassVar[bool] = True

    def __init__(self, root: str | Path, split: str, modalities: Sequence[Modality] = MODALITIES) -> None:
        """Find the frames.

        Args:
            root: folder multimodal_dataset, with polL_color and list_folder.
            split: train, val or test.
            modalities: some of camera, aolp, dolp, nir.

        Raises:
            ConfigError: a name is not accepted.
            DatasetError: a file of the expected layout is missing.
        """
        check_choice("split", split, SPLITS)
        for modality in modalities:
            check_choice("modality of MCubeS", modality, MODALITIES)
        rgb = published(RGB.normalization, RGB.name)
        formats = {m: rgb if m == CAMERA else published() for m in modalities}
        wanted = [*modalities, *([_COSINE] if AOLP in modalities else []), LABELS]
        names = [line.split()[0] for line in read_list(Path(root) / "list_folder" / f"{split}.txt")]
        files = [{m: Path(root) / _PLACES[m][0] / (name + _PLACES[m][1]) for m in wanted} for name in names]
        entries = [SampleFiles(name, paths) for name, paths in zip(names, files, strict=True)]
        super().__init__(load_label_space("mcubes"), formats, entries)

    def images(self, entry: SampleFiles, modalities: Sequence[Modality]) -> dict[Modality, Image]:
        """See `FileDataset`."""
        return {m: self.formats[m].normalized(self._values(entry, m)) for m in modalities}

    def _values(self, entry: SampleFiles, modality: Modality) -> npt.NDArray[np.float32]:
        path = entry.files[modality]
        if modality == AOLP:
            sine, cosine = read_array(path), read_array(entry.files[_COSINE])
            if sine.shape != cosine.shape:
                raise DatasetError(
                    f"{path} is {sine.shape}, but its cosine is {cosine.shape}; the shapes must be equal."
                )
            return np.stack([sine, cosine, sine], axis=-1)[:, OVERLAP:].astype(np.float32)
        image = read_array(path) if modality == DOLP else read_image(path)
        return scale_to_unit(three_channels(image))[:, OVERLAP:]

    def labels(self, entry: SampleFiles) -> Labels:
        """See `FileDataset`."""
        labels = read_image(entry.files[LABELS])
        if labels.dtype != np.uint8:
            raise DatasetError(f"{entry.files[LABELS]} is {labels.dtype}; MCubeS' labels are 8 bits deep.")
        return np.ascontiguousarray((labels if labels.ndim == 2 else labels[..., 0])[:, OVERLAP:])


DATASET = MCubeS
