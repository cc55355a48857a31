# SPDX-License-Identifier: Apache-2.0
"""MCubeS: the published channels, without the columns that not all cameras see."""

import cv2
import layouts
import numpy as np
import pytest

from mlesam_ros.errors import ConfigError, DatasetError, LabelError
from mlesam_ros.types import CAMERA
from mlesam_training.datasets.mcubes import AOLP, DOLP, NIR, MCubeS

NAME = "outscene1208_2_0000000150"


@pytest.fixture
def root(tmp_path):
    layouts.mcubes(tmp_path)
    return tmp_path


def test_channels_are_the_published_ones(root):
    dataset = MCubeS(root, "train")
    images, labels = dataset.sample(0, dataset.modalities)
    sine, cosine, degree = (
        np.load(root / folder / f"{NAME}.npy")[:, 192:] for folder in ("polL_aolp_sin", "polL_aolp_cos", "polL_dolp")
    )
    assert np.array_equal(images[AOLP], [sine, cosine, sine])
    assert np.array_equal(images[DOLP], [degree] * 3)
    infrared = cv2.imread(str(root / "NIR_warped" / f"{NAME}.png"), cv2.IMREAD_UNCHANGED)[:, 192:]
    assert np.allclose(images[NIR], infrared / 255)
    colors = cv2.imread(str(root / "polL_color" / f"{NAME}.png"), cv2.IMREAD_UNCHANGED)[:, 192:, ::-1]
    mean, std = (np.array(s) for s in dataset.normalization[CAMERA])
    assert np.allclose(images[CAMERA].transpose(1, 2, 0), (colors / 65535 - mean) / std, atol=1e-5)
    assert labels.shape == (64, 96) and np.all(labels[0] == 255) and labels[1:].max() < 20


def test_rows_follow_the_list(root):
    (root / "list_folder" / "test.txt").write_text(f"{NAME} more words\n\n")
    dataset = MCubeS(root, "test", [CAMERA])
    assert dataset.names == [NAME] and dataset.preprocessors == {CAMERA: "rgb"}
    assert dataset.survey().sum() == 63 * 96


@pytest.mark.parametrize("folder", ["polL_color", "polL_aolp_sin", "polL_aolp_cos", "polL_dolp", "NIR_warped", "GT"])
def test_a_missing_file_is_named(root, folder):
    next((root / folder).glob(f"{NAME}.*")).unlink()
    with pytest.raises(DatasetError, match=rf"{folder}/{NAME}\.\w+ is missing"):
        MCubeS(root, "train")


def test_what_is_wrong_is_named(root):
    for options, word in ((("half",), "train, val, test"), (("train", ["lidar"]), "aolp")):
        with pytest.raises(ConfigError, match=word):
            MCubeS(root, *options)
    layouts.png(root / "GT" / f"{NAME}.png", np.full((64, 288), 20, np.uint8))
    with pytest.raises(LabelError, match=rf"GT/{NAME}\.png has the ids \[20\]"):
        MCubeS(root, "train").survey()
    np.save(root / "polL_aolp_cos" / f"{NAME}.npy", np.zeros((64, 250), np.float32))
    with pytest.raises(DatasetError, match="the shapes must be equal"):
        MCubeS(root, "train").images(MCubeS(root, "train").entries[0], [AOLP])
    (root / "polL_dolp" / f"{NAME}.npy").write_bytes(b"rubbish")
    with pytest.raises(DatasetError, match=rf"polL_dolp/{NAME}\.npy cannot be read"):
        MCubeS(root, "train").images(MCubeS(root, "train").entries[0], [DOLP])
    (root / "list_folder" / "train.txt").unlink()
    with pytest.raises(DatasetError, match=r"list_folder/train\.txt"):
        MCubeS(root, "train")


def test_rows_of_different_sizes_do_not_make_a_batch(root):
    second = "outscene1208_2_0000000180"
    for folder in ("polL_color", "GT"):
        path = root / folder / f"{second}.png"
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:32])
    with pytest.raises(DatasetError, match=rf"GT/\w+\.png is 96x64, .*GT/{second}\.png is 96x32"):
        MCubeS(root, "train", [CAMERA]).batch([0, 1], [CAMERA])
