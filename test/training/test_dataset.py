"""The rendered street: the pipeline's own encodings, resumable, and refused when it is something else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mlesam_ros.encoding.encoders import DEFAULT_ENCODERS, encode, make_encoders
from mlesam_ros.errors import DatasetError
from mlesam_ros.frame import CAMERA, MODALITIES, FrameSet
from mlesam_ros.training.dataset import StreetDataset, prepare
from mlesam_ros.world.world import World


def test_a_row_is_what_the_pipeline_would_encode(street, smoke):
    row = 5  # the second moment of street 1, which is at night
    world = World(1, "night", (smoke.data.world_size,) * 2)
    moment = world.moment(int(1.5 * world.length / 4))
    frame_set = FrameSet(moment.stamp, CAMERA, moment.frames, dict.fromkeys(moment.frames, 0))
    expected = encode(frame_set, world.rig, (64, 64), make_encoders(DEFAULT_ENCODERS))
    images, labels = street.batch([row], MODALITIES)
    for name in MODALITIES:
        np.testing.assert_allclose(images[name][0].numpy(), expected[name], rtol=1e-3, atol=1e-3)
    assert (labels[0].numpy() == cv2.resize(moment.labels, (64, 64), interpolation=cv2.INTER_NEAREST)).all()


def test_every_second_street_is_at_night(street):
    assert street.night.tolist() == [False] * 4 + [True] * 4
    camera = street.images["camera"].astype(np.float32).mean((1, 2, 3))
    assert camera[~street.night].min() > camera[street.night].max()


def test_class_counts_add_up(street):
    counts = street.class_counts(25)
    assert counts.sum() == street.labels.size and counts[6] > 0.2 * counts.sum()


def test_a_killed_rendering_goes_on_where_it_was(street, smoke, tmp_path):
    copy = tmp_path / "train"
    shutil.copytree(Path(smoke.data.folder) / "train", copy)
    done = np.load(copy / "done.npy")
    camera = np.load(copy / "camera.npy", "r+")
    done[6] = False
    camera[6] = camera[2] = 0
    camera.flush()
    np.save(copy / "done.npy", done)
    with pytest.raises(DatasetError, match="7 of 8 moments"):
        StreetDataset(copy)
    again = prepare(replace(smoke.data, folder=str(tmp_path)), "train")
    assert (again.images["camera"][6] == street.images["camera"][6]).all()
    assert not again.images["camera"][2].any(), "a finished row was rendered again"


def test_a_folder_made_for_something_else_is_refused(street, smoke):
    split = replace(smoke.data.train, moments=3)
    with pytest.raises(DatasetError, match="another split"):
        prepare(replace(smoke.data, train=split), "train")


def test_a_folder_without_a_street_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="render it again"):
        StreetDataset(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"encoders": {"camera": "rgb"}}))
    (tmp_path / "camera.npy").write_bytes(b"garbage")
    with pytest.raises(DatasetError, match="render it again"):
        StreetDataset(tmp_path)
