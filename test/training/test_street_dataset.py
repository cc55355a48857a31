# SPDX-License-Identifier: Apache-2.0
"""Rendered streets: conditions, encodings, resumption, and refusal of folders with other content."""

import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from full_disk import run_on_a_small_disk
from hypothesis import given
from hypothesis import strategies as st

from mlesam_ros.errors import DatasetError, FileError, LabelError
from mlesam_ros.files import exclusive_folder
from mlesam_ros.preprocessing.depth import LogDepth
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, encode, make_preprocessors
from mlesam_ros.simulation.style import STYLES
from mlesam_ros.simulation.weather import FAULTS, WEATHERS
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, MODALITIES, FrameSet
from mlesam_training import street_dataset as rendering
from mlesam_training.encoded_dataset import EncodedDataset
from mlesam_training.recipe import Split
from mlesam_training.street_dataset import allocate_by_share, fingerprint, prepare, street_conditions


def test_a_row_is_what_the_pipeline_would_encode(street, smoke):
    row = 5  # the second moment of street 1, which is at night
    world = World(1, "night", (smoke.data.world_size,) * 2)
    moment = world.sample(int(1.5 * world.length / 4))
    frame_set = FrameSet(moment.stamp, CAMERA, moment.frames, dict.fromkeys(moment.frames, 0))
    expected = encode(frame_set, world.rig, (64, 64), make_preprocessors(DEFAULT_PREPROCESSORS))
    images, labels = street.batch([row], MODALITIES)
    for name in MODALITIES:
        np.testing.assert_allclose(images[name][0].numpy(), expected[name], rtol=1e-3, atol=1e-3)
    assert (labels[0].numpy() == cv2.resize(moment.labels, (64, 64), interpolation=cv2.INTER_NEAREST)).all()


def test_default_weather_alternates_sun_and_night(street):
    night = np.array([conditions["weather"] == "night" for conditions in street.conditions])
    assert night.tolist() == [False] * 4 + [True] * 4
    assert {conditions["fault"] for conditions in street.conditions} == {"none"}
    camera = street.images["camera"].astype(np.float32).mean((1, 2, 3))
    assert camera[~night].min() > camera[night].max()


def test_row_has_its_weather_and_fault(smoke, tmp_path):
    split = Split(0, 1, 1, {"fog": 1.0}, {"underexposure": 1.0})
    foggy = prepare(replace(smoke.data, folder=str(tmp_path), train=split), "train")
    assert foggy.conditions == [{"weather": "fog", "fault": "underexposure", "style": "plain"}]
    world = World(0, "fog", (64, 64), fault="underexposure")
    moment = world.sample(world.length // 2)
    frame_set = FrameSet(moment.stamp, CAMERA, moment.frames, dict.fromkeys(moment.frames, 0))
    expected = encode(frame_set, world.rig, (64, 64), make_preprocessors(DEFAULT_PREPROCESSORS))
    np.testing.assert_allclose(foggy.images["camera"][0], expected["camera"], rtol=1e-3, atol=1e-3)


def test_encoded_street_implements_labeled_dataset(street):
    assert street.modalities == MODALITIES and len(street.names) == len(street.conditions) == len(street) == 8
    assert street.normalization["camera"][0][0] == pytest.approx(0.485) and street.space.name == "deliver"
    assert "camera" not in street.sparse and set(street.blanks) == set(MODALITIES)


def test_a_label_outside_the_space_is_refused(street):
    with pytest.raises(LabelError, match="accepted are 0 to 5"):
        street.class_counts(6)


def test_class_counts_add_up(street):
    counts = street.class_counts(25)
    assert counts.sum() == street.labels.size and counts[6] > 0.2 * counts.sum()


def test_killed_rendering_resumes(street, smoke, tmp_path):
    copy = tmp_path / "train"
    shutil.copytree(Path(smoke.data.folder) / "train", copy)
    done = np.load(copy / "done.npy")
    camera = np.load(copy / "camera.npy", "r+")
    done[6] = False
    camera[6] = camera[2] = 0
    camera.flush()
    np.save(copy / "done.npy", done)
    with pytest.raises(DatasetError, match="7 of 8 samples"):
        EncodedDataset(copy)
    again = prepare(replace(smoke.data, folder=str(tmp_path)), "train")
    assert (again.images["camera"][6] == street.images["camera"][6]).all()
    assert not again.images["camera"][2].any(), "a finished row was rendered again"


def _die(street):
    os._exit(9)


def test_a_process_that_dies_ends_the_rendering_with_a_sentence(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "_render", _die)
    with pytest.raises(DatasetError, match="a rendering process died"):
        prepare(replace(smoke.data, folder=str(tmp_path)), "train")


_ON_A_SMALL_DISK = """
import sys
from dataclasses import replace
from mlesam_ros.errors import MlesamError
from mlesam_training.street_dataset import prepare
from mlesam_training.recipe import load_recipe
if __name__ == "__main__":
    recipe = load_recipe(sys.argv[2])
    try:
        prepare(replace(recipe.data, folder=sys.argv[1] + "/street"), "train")
    except MlesamError as error:
        print(error)
"""


def test_full_disk_is_detected_before_rendering(smoke_file, tmp_path):
    """A full disk. Both sizes are said in a unit that shows them, and nothing is left to block the next try."""
    (tmp_path / "disk").mkdir()
    arguments = ("-c", _ON_A_SMALL_DISK, str(tmp_path / "disk"), str(smoke_file))
    done = run_on_a_small_disk(tmp_path / "disk", 500, *arguments)
    reason, left = done.stdout.splitlines()
    assert re.search(r"street/train needs 819\.\d kB, \d[\d.]* (kB|bytes) are free .*No space.*Free disk space", reason)
    assert left == "left:"


def test_leftover_of_a_killed_rendering_is_replaced(smoke, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "camera.npy").write_bytes(b"half of a header")
    split = Split(0, 1, 1)
    assert len(prepare(replace(smoke.data, folder=str(tmp_path), train=split), "train")) == 1


def test_two_renderings_in_one_folder_are_refused(smoke, tmp_path):
    with exclusive_folder(tmp_path / "train", "rendering"), pytest.raises(FileError, match="another rendering run"):
        prepare(replace(smoke.data, folder=str(tmp_path)), "train")


def test_a_folder_made_for_something_else_is_refused(street, smoke):
    split = replace(smoke.data.train, moments=3)
    with pytest.raises(DatasetError, match="another split"):
        prepare(replace(smoke.data, train=split), "train")


def test_a_street_that_has_changed_since_is_refused(street, smoke, tmp_path):
    copy = tmp_path / "train"
    shutil.copytree(Path(smoke.data.folder) / "train", copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": "0" * 64}))
    with pytest.raises(DatasetError, match=r"has changed since .* was made"):
        prepare(replace(smoke.data, folder=str(tmp_path)), "train")
    (copy / "manifest.json").write_text("{")
    with pytest.raises(DatasetError, match="cannot be read"):
        prepare(replace(smoke.data, folder=str(tmp_path)), "train")


def test_the_fingerprint_follows_the_encoders_and_the_world(monkeypatch):
    preprocessors = tuple(DEFAULT_PREPROCESSORS.items())
    found = fingerprint(("sun",), ("none",), ("plain",), preprocessors)
    fingerprint.cache_clear()
    assert fingerprint(("sun",), ("none",), ("plain",), preprocessors) == found
    assert fingerprint(("night",), ("none",), ("plain",), preprocessors) != found
    fingerprint.cache_clear()
    monkeypatch.setattr(LogDepth, "normalization", ((0.0,) * 3, (1.0,) * 3))
    assert fingerprint(("sun",), ("none",), ("plain",), preprocessors) != found
    fingerprint.cache_clear()


def test_a_folder_without_a_street_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="has no encoded samples"):
        EncodedDataset(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"preprocessors": {"camera": "rgb"}, "normalization": {}}))
    (tmp_path / "camera.npy").write_bytes(b"garbage")
    with pytest.raises(DatasetError, match="has no encoded samples"):
        EncodedDataset(tmp_path)


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), min_size=1), st.integers(1, 60))
def test_allocation_follows_the_shares(shares, count):
    dealt = Counter(allocate_by_share(shares, count))
    assert dealt.total() == count
    for name, share in shares.items():
        assert abs(dealt[name] - count * share / sum(shares.values())) < len(shares)


def test_larger_split_keeps_its_streets():
    shares = {"weathers": dict.fromkeys(WEATHERS, 0.2), "faults": dict.fromkeys(FAULTS, 1.0)}
    large, small = (street_conditions(Split(10, streets, 1, **shares)) for streets in (40, 25))
    assert large[:25] == small
    assert street_conditions(Split(20, 10, 1, **shares)) == large[10:20]


def test_streets_hold_every_weather_with_every_fault_in_every_style():
    count = len(WEATHERS) * len(FAULTS) * len(STYLES)
    shares = dict.fromkeys(WEATHERS, 0.2), dict.fromkeys(FAULTS, 1.0), dict.fromkeys(STYLES, 0.5)
    split = Split(10 * count, count, 1, *shares)
    assert len(set(street_conditions(split))) == count


def test_without_shares_odd_seeds_are_at_night():
    assert [c.weather for c in street_conditions(Split(101, 4, 1))] == ["night", "sun", "night", "sun"]
