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

from mlesam_ros.errors import ConfigError, DatasetError
from mlesam_ros.labels import load_label_space
from mlesam_ros.preprocessing.preprocessors import RGB
from mlesam_ros.types import CAMERA, Modality
from mlesam_training.datasets.image_files import listed, read_array, read_picture, three_channels, unit_scaled
from mlesam_training.datasets.labelled_dataset import LABELS, FileDataset, Image, Labels, SampleFiles, published

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
        for what, value, accepted in (("split", split, SPLITS), *(("modality", m, MODALITIES) for m in modalities)):
            if value not in accepted:
                raise ConfigError(f"{what} {value!r} is not known in MCubeS; accepted are {', '.join(accepted)}.")
        rgb = published(RGB.normalization, RGB.name)
        readings = {m: rgb if m == CAMERA else published() for m in modalities}
        wanted = [*modalities, *([_COSINE] if AOLP in modalities else []), LABELS]
        names = listed(Path(root) / "list_folder" / f"{split}.txt")
        files = [{m: Path(root) / _PLACES[m][0] / (name + _PLACES[m][1]) for m in wanted} for name in names]
        entries = [SampleFiles(name, paths) for name, paths in zip(names, files, strict=True)]
        super().__init__(load_label_space("mcubes"), readings, entries)

    def images(self, entry: SampleFiles, modalities: Sequence[Modality]) -> dict[Modality, Image]:
        """See `FileDataset`."""
        return {m: self.readings[m].normalized(self._values(entry, m)) for m in modalities}

    def _values(self, entry: SampleFiles, modality: Modality) -> npt.NDArray[np.float32]:
        path = entry.files[modality]
        if modality == AOLP:
            sine, cosine = read_array(path), read_array(entry.files[_COSINE])
            if sine.shape != cosine.shape:
                raise DatasetError(f"{path} is {sine.shape}, its cosine {cosine.shape}; they must be alike.")
            return np.stack([sine, cosine, sine], axis=-1)[:, OVERLAP:].astype(np.float32)
        picture = read_array(path) if modality == DOLP else read_picture(path)
        return unit_scaled(three_channels(picture))[:, OVERLAP:]

    def labels(self, entry: SampleFiles) -> Labels:
        """See `FileDataset`."""
        labels = read_picture(entry.files[LABELS])
        if labels.dtype != np.uint8:
            raise DatasetError(f"{entry.files[LABELS]} holds {labels.dtype}; MCubeS' labels are 8 bits deep.")
        return np.ascontiguousarray((labels if labels.ndim == 2 else labels[..., 0])[:, OVERLAP:])
