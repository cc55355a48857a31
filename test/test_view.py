# SPDX-License-Identifier: Apache-2.0
"""Frame sets of several cameras through one pipeline: batches, faults of one of them, settings of their own, memory."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_pipeline import broken, make_model, subset

from mlesam_ros.errors import CalibrationError, CheckpointError
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.model.checkpoint import save_checkpoint
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.preprocessing.base import DEFAULTS
from mlesam_ros.preprocessing.cuda import encode_torch
from mlesam_ros.simulation.sensors import BASE_FRAME, CAMERA_FRAME, ODOM_FRAME
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, DEPTH, EVENT, FrameSet
from mlesam_ros.view import View


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(make_model(), device="cpu", precision="fp32")


def segment(pipeline, sets) -> list[View]:
    """The views of all sets, in their order."""
    views = [View(*given) for given in sets]
    for _ in pipeline.segment_views(views):
        pass
    return views


@pytest.fixture(scope="module")
def views():
    """Frame sets and rigs of three cameras on a robot that moves, with one sweep."""
    street = World(seed=2, size=(96, 128))
    tree, sweep = street.rig.tree, street.sample(3).frames["lidar"]
    for step in range(2, 6):
        tree.set(ODOM_FRAME, BASE_FRAME, street.sample(step).pose, street.sample(step).stamp)
    found = []
    for name, yaw in {"front": 0.0, "left": 70.0, "right": -70.0}.items():
        turned = World(seed=2, size=(96, 128), dropped=("event", "lidar"), yaw=yaw)
        tree.set(BASE_FRAME, name, turned.rig.tree.lookup(BASE_FRAME, CAMERA_FRAME))
        frames = {m: replace(frame, frame_id=name) for m, frame in turned.sample(3).frames.items()} | {"lidar": sweep}
        frame_set = FrameSet(sweep.stamp, "camera", frames, dict.fromkeys(frames, 0))
        found.append((frame_set, Rig(name, {name: turned.rig.camera}, tree)))
    return found


def assert_same_mask(found, expected):
    assert (found.used, found.stamp, found.frame_id) == (expected.used, expected.stamp, expected.frame_id)
    assert (found.labels != expected.labels).mean() < 2e-3
    assert (np.abs(found.confidence.astype(int) - expected.confidence) > 1).mean() < 2e-3


@pytest.fixture
def batches(monkeypatch, pipeline):
    """Sizes of the batches that the network ran."""
    sizes, batch = [], pipeline.torch_runtime.batch
    monkeypatch.setattr(pipeline.torch_runtime, "batch", lambda sets: sizes.append(len(sets)) or batch(sets))
    return sizes


def test_views_are_one_batch_and_equal_those_made_alone(pipeline, views, batches):
    made = segment(pipeline, views)
    assert batches == [3]
    for view, (frame_set, rig) in zip(made, views, strict=True):
        assert view.error is None and not view.notes and not view.refusals
        alone = Pipeline(make_model(), "cpu", "fp32")
        assert_same_mask(view.segmentation, alone.segment(frame_set, rig))
    assert len({view.segmentation.labels.tobytes() for view in made}) == 3


def test_views_are_grouped_by_sensors_and_image_size(pipeline, views, batches):
    front, left, right = views
    small = World(seed=2, size=(64, 128))
    frames = small.sample(3).frames
    sets = [front, (subset(left[0], "camera"), left[1]), right, (subset(right[0], "camera"), right[1])]
    sets.append((FrameSet(front[0].stamp, "camera", {"camera": frames["camera"]}, {"camera": 0}), small.rig))
    made = segment(pipeline, sets)
    assert sorted(batches) == [1, 2, 2]
    for view, (frame_set, rig) in zip(made, sets, strict=True):
        assert_same_mask(view.segmentation, pipeline.segment(frame_set, rig))


def test_a_view_that_fails_has_its_error_and_the_others_have_their_masks(pipeline, views):
    front, left, right = views
    unknown = left[0], Rig("nowhere")
    unreadable = broken(subset(right[0], "camera"), "camera"), right[1]
    made = segment(pipeline, [unknown, front, unreadable])
    assert isinstance(made[0].error, CalibrationError) and "no sensor of the set can be used" in str(made[2].error)
    assert [view.segmentation is None for view in made] == [True, False, True]
    assert_same_mask(made[1].segmentation, pipeline.segment(*front))


def test_nonfinite_images_are_left_out_of_their_view_alone(views, monkeypatch):
    """As on a GPU, where they are detected in the result."""

    def spoiling(device, encoder, frame, *rest):
        image = encode_torch(device, encoder, frame, *rest)
        return image.fill_(torch.nan) if (frame.modality, frame.frame_id) == ("depth", "left") else image

    monkeypatch.setattr("mlesam_ros.expert_preprocessors.encode_torch", spoiling)
    monkeypatch.setattr("mlesam_ros.model.mlesam.check_finite", lambda images: None)
    pipeline = Pipeline(make_model(), "cpu", "fp32")
    pipeline.encodes_on_device = True
    front, left, right = segment(pipeline, views)
    assert list(left.refusals) == ["depth"] and not front.refusals and not right.refusals
    expected = pipeline.segment(subset(views[1][0], "camera", "lidar"), views[1][1])
    assert_same_mask(left.segmentation, expected)
    assert_same_mask(front.segmentation, pipeline.segment(*views[0]))


def test_odometry_that_jumps_leaves_the_sweep_uncompensated_in_every_view(pipeline, views):
    """One sentence for each of them, and the masks are made."""
    tree = World(seed=2, size=(96, 128)).rig.tree
    for frame in ("front", "left", "right"):
        tree.set(BASE_FRAME, frame, views[0][1].tree.lookup(BASE_FRAME, frame))
    for step, far in ((-1, 0.0), (0, 900.0), (1, 0.0)):
        tree.set(ODOM_FRAME, BASE_FRAME, Transform(np.eye(3), np.array([far, 0, 0])), views[0][0].stamp + step * 10**8)
    made = segment(pipeline, [(frame_set, replace(rig, tree=tree)) for frame_set, rig in views])
    assert all("'odom' jumps by" in view.notes["lidar"] and view.segmentation is not None for view in made)


def test_masks_of_a_batch_are_there_before_the_next_batch_runs(pipeline, views, batches):
    front, left, right = views
    sets = [front, (subset(left[0], "camera"), left[1]), right, (left[0], Rig("nowhere"))]
    made = [View(*given) for given in sets]
    found = [
        ([made.index(view) for view in batch], [made.index(view) for view in made if view.segmentation], [*batches])
        for batch in pipeline.segment_views(made)
    ]
    assert found == [([3], [], []), ([0, 2], [0, 2], [2]), ([1], [0, 1, 2], [2, 1])]


def test_a_batch_that_does_not_fit_into_the_memory_runs_one_by_one(views, monkeypatch):
    pipeline = Pipeline(make_model(), "cpu", "fp32")
    batch, sizes = pipeline.torch_runtime.batch, []

    def run(sets):
        sizes.append(len(sets))
        if len(sets) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return batch(sets)

    monkeypatch.setattr(pipeline.torch_runtime, "batch", run)
    with pytest.warns(RuntimeWarning, match="3 frame sets do not fit into the memory of cpu at once"):
        made = segment(pipeline, views)
    assert sizes == [3, 1, 1, 1] and not any(view.error for view in made)
    assert_same_mask(made[1].segmentation, pipeline.segment(*views[1]))
    monkeypatch.setattr(pipeline.torch_runtime, "batch", lambda sets: 1 / 0)
    assert all(isinstance(view.error, ZeroDivisionError) for view in segment(pipeline, views))


def test_settings_of_a_view_have_their_effect_on_it_alone(views):
    """The left depth camera hangs upside down, and the left event camera has another representation."""
    pipeline = Pipeline(make_model(preprocessors={**make_model().config.preprocessors, "depth": "hha"}), "cpu", "fp32")
    street = World(seed=2, size=(96, 128))
    sample = street.sample(3)
    frames = {m: sample.frames[m] for m in (CAMERA, DEPTH, EVENT)}
    frame_set = FrameSet(sample.stamp, CAMERA, frames, dict.fromkeys(frames, 0))
    own = replace(DEFAULTS, gravity="0, -1, 0", event_representation="time_surface")
    made = segment(pipeline, [(frame_set, street.rig), (frame_set, street.rig, own), (frame_set, street.rig, DEFAULTS)])
    plain, left, given = (view.images for view in made)
    assert all(np.array_equal(plain[m], given[m]) for m in frames) and np.array_equal(plain[CAMERA], left[CAMERA])
    assert not np.array_equal(plain[DEPTH], left[DEPTH]) and not np.array_equal(plain[EVENT], left[EVENT])
    alone = Pipeline(make_model(preprocessors=pipeline.config.preprocessors), "cpu", "fp32", settings=own)
    alone.segment(frame_set, street.rig)
    assert all(np.array_equal(left[m], alone.images[m]) for m in frames)
    assert "event.representation is time_surface" in made[1].notes[EVENT] and EVENT not in made[0].notes


def test_checkpoint_with_another_window_is_refused_for_the_view_that_gathers_the_old_one(tmp_path):
    pipeline = Pipeline(make_model(), "cpu", "fp32", settings=replace(DEFAULTS, event_window=0.03))
    pipeline.preprocessors(DEFAULTS)
    save_checkpoint(tmp_path / "other.safetensors", make_model(settings={EVENT: {"window": 0.05}}))
    with pytest.raises(CheckpointError, match=r"trained with an event window of 0\.05 s, but 0\.03 s are gathered"):
        pipeline.swap_experts(tmp_path / "other.safetensors")


def test_frames_are_not_kept_after_their_mask(pipeline, views):
    frame_set, rig = views[0]
    frame = frame_set.frames[CAMERA]
    pixels = frame.payload.data.copy()
    frame = replace(frame, payload=replace(frame.payload, data=pixels))
    mask = pipeline.segment(replace(frame_set, frames={CAMERA: frame}), rig)
    assert list(pipeline.images) == [CAMERA]
    kept = weakref.ref(pixels), weakref.ref(mask.labels)
    del frame, pixels, mask
    gc.collect()
    assert [reference() for reference in kept] == [None, None]
